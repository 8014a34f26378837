"""The figure of attacks: means over seeds, empty cells, and the attackers' weight over rounds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fltk.errors import FltkError
from fltk.plots.attack import AttackedRun, _ink, attack_figure
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
    assert [_ink(np.array(colour)) for colour in ((1, 1, 1), (0, 0, 0), (0.99, 0.55, 0.24), (0.5, 0.15, 0.02))] == [
        "black",
        "white",
        "black",
        "white",
    ]
