"""The figure of attacks: means over seeds, empty cells, and the attackers' weight over rounds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from fltk.errors import FltkError
from fltk.plots.attack import AttackedRun, attack_figure
from fltk.plots.matrix import ink
from fltk.plots.method_styles import method_style
from fltk.plots.save import save_figure


def run(attack: str, column: str, drop: float, *share: float) -> AttackedRun:
    return AttackedRun(attack, column, drop, np.arange(1, len(share) + 1), np.array(share))


RUNS = [
    run("ipm", "fedavg", 0.25, 1.0, 1.2),
    run("ipm", "fedavg", 0.35, 1.0, 0.8),
    run("ipm", "attn", -0.01, 0.5, 0.0),
    run("alie", "attn", 0.02, 0.7),
    run("alie", "fedavg + median", math.nan),
]


def test_a_cell_is_the_mean_over_seeds_and_may_be_empty() -> None:
    rows = attack_figure(RUNS)[1]
    cells = {(r["attack"], r["label"]): (r["value"], r["runs"]) for r in rows if r["panel"] == "drop"}
    assert cells["ipm", "fedavg"] == (pytest.approx(0.3), 2)
    assert cells["ipm", "attn"] == (-0.01, 1)
    assert cells["alie", "attn"] == (0.02, 1)
    for empty in (("alie", "fedavg"), ("alie", "fedavg + median"), ("ipm", "fedavg + median")):
        assert math.isnan(cells[empty][0])
        assert cells[empty][1] == 0


def test_lines_are_means_over_attacks_or_over_the_seeds_of_one() -> None:
    several = [r for r in attack_figure(RUNS)[1] if r["panel"] == "weight"]
    line = {r["round"]: r["mean"] for r in several if r["label"] == "attn"}
    assert line == {1: pytest.approx(0.6), 2: 0.0}  # round 2 is of one run
    one = [r for r in attack_figure(RUNS[:3])[1] if r["panel"] == "weight" and r["label"] == "fedavg"]
    assert [(r["round"], r["mean"]) for r in one] == [(1, 1.0), (2, pytest.approx(1.0))]
    assert [r["std"] for r in one] == [0.0, pytest.approx(np.std([1.2, 0.8], ddof=1))]


@pytest.mark.parametrize("width", [None, 3.35, 7.0])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_it_is_drawn_at_every_width_and_with_and_without_weights(
    count: int, width: float | None, tmp_path: Path
) -> None:
    for runs in (RUNS[:count], [run("ipm", "fedavg", 0.5)]):
        figure, _ = attack_figure(runs, width=width)
        save_figure(figure, tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 5000


def test_a_narrow_figure_has_methods_below_each_other_and_numbers_that_do_not_meet() -> None:
    runs = [run(f"attack{a}", f"method{m}", 0.299, 1.0, 0.5) for a in range(7) for m in range(9)]
    for width, down in ((3.35, "method"), (7.0, "attack"), (None, "attack")):
        figure, rows = attack_figure(runs, width=width)
        matrix = figure.axes[0]
        assert {label.get_text()[:6] for label in matrix.get_yticklabels()} == {down}
        assert len([r for r in rows if r["panel"] == "drop"]) == 63
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in matrix.texts]
        assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])


def test_a_small_gain_is_no_negative_zero() -> None:
    figure, _ = attack_figure([run("ipm", "attn", -0.0002), run("alie", "attn", -0.002)])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.0", "\u22120.2"]


def test_nothing_to_draw_is_told() -> None:
    with pytest.raises(FltkError, match="fltk attack makes one"):
        attack_figure([])


def test_a_cell_has_the_spread_of_its_runs() -> None:
    figure, rows = attack_figure(RUNS)
    spread = {(r["attack"], r["label"]): r["std"] for r in rows if r["panel"] == "drop"}
    assert spread["ipm", "fedavg"] == pytest.approx(np.std([0.25, 0.35], ddof=1)) and math.isnan(spread["ipm", "attn"])
    assert figure.axes[0].texts[0].get_text() == "30.0\n\u00b17.1"


def test_weights_count_their_runs_and_attacks_and_every_attack_counts_once() -> None:
    runs = [run("ipm", "attn", 0.1, 1.0), run("ipm", "attn", 0.1, 2.0), run("alie", "attn", 0.1, 0.5)]
    (row,) = (r for r in attack_figure(runs)[1] if r["panel"] == "weight")
    assert (row["mean"], row["runs"], row["attacks"]) == (1.0, 3, 2)
    assert row["std"] == pytest.approx(np.std([1.5, 0.5], ddof=1))


def test_numbers_can_be_read_on_their_cells() -> None:
    assert [ink(np.array(colour)) for colour in ((1, 1, 1), (0, 0, 0), (0.99, 0.55, 0.24), (0.5, 0.15, 0.02))] == [
        "black",
        "white",
        "black",
        "white",
    ]


def on(data: str, runs: list[AttackedRun]) -> list[AttackedRun]:
    return [replace(one, data=data) for one in runs]


@pytest.mark.parametrize("width", [None, 3.35])
def test_data_sets_have_matrices_and_lines_of_their_own(width: float | None) -> None:
    mnist = [run("ipm", "fedavg", 0.75, 2.0, 2.0), run("alie", "attn", 0.5, 1.0)]
    figure, rows = attack_figure([*on("digits", RUNS), *on("mnist", mnist)], width=width)
    cells = {(r["data"], r["attack"], r["label"]): (r["value"], r["runs"]) for r in rows if r["panel"] == "drop"}
    assert cells["digits", "ipm", "fedavg"] == (pytest.approx(0.3), 2)
    assert cells["mnist", "ipm", "fedavg"] == (0.75, 1)
    weights = {(r["data"], r["label"], r["round"]): r["mean"] for r in rows if r["panel"] == "weight"}
    assert weights["mnist", "fedavg", 1] == 2.0 and weights["digits", "fedavg", 1] == 1.0
    assert [part.get_suptitle() for part in figure.subfigs] == ["digits", "mnist"]
    images = [image for part in figure.subfigs for ax in part.axes for image in ax.get_images()]
    assert {image.get_clim() for image in images} == {(0.0, 0.75)}, "colours can be compared"


def test_a_single_data_set_needs_no_name() -> None:
    figure, rows = attack_figure(RUNS)
    assert not any("data" in row for row in rows)
    assert [part.get_suptitle() for part in figure.subfigs] == [""]


def test_a_column_has_the_colour_and_marker_of_its_method() -> None:
    runs = [replace(run("ipm", f"fedavg{more}", 0.1, 1.0, 1.0), method="fedavg") for more in ("", " + krum")]
    runs.append(replace(run("ipm", "attn", 0.1, 0.5, 0.5), method="attn"))
    figure, _ = attack_figure(runs)
    lines = {text.get_text(): line for text, line in legend_of(figure)}
    assert lines["attn"].get_color() == method_style("attn").color
    assert lines["fedavg"].get_color() == method_style("fedavg").color
    assert lines["fedavg + krum"].get_marker() == lines["fedavg"].get_marker() == method_style("fedavg").marker
    assert lines["fedavg + krum"].get_linestyle() != lines["fedavg"].get_linestyle()


def legend_of(figure: Figure) -> list[tuple[Text, Line2D]]:
    (legend,) = (ax.get_legend() for ax in figure.axes if ax.get_legend() is not None)
    return list(zip(legend.get_texts(), legend.get_lines(), strict=True))


def test_the_caption_names_the_seeds_of_cells() -> None:
    seeds = [replace(run("ipm", "fedavg", 0.1 * k), seed=k) for k in (1, 2, 3)]
    assert caption(attack_figure(seeds)[0]) == "Mean over seeds 1, 2, 3. \u00b1: one standard deviation over seeds."
    more = [*seeds, *(replace(run("ipm", f"attn{k}", 0.1), seed=7) for k in range(2))]
    assert caption(attack_figure(more)[0]).startswith("Seed 7: ipm attn0, ipm attn1; seeds 1, 2, 3: ipm fedavg.")


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_numbers_of_many_narrow_columns_stand_upright_and_apart() -> None:
    runs = [run(f"attack-{a}", f"method{m}", -0.299) for a in range(17) for m in range(3)]
    figure, _ = attack_figure(runs, width=3.35)
    texts = figure.axes[0].texts
    assert {text.get_rotation() for text in texts} == {90.0}
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])
