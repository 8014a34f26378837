"""The figure of newcomers: means over newcomers and runs, fair references, axes that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from fltk.errors import FltkError, UsageError
from fltk.plots.join import JoinRun, join_figure

EPOCHS = 4


def run(
    label: str, shots: Sequence[str] = ("all",), *, seed: int = 0, setting: str = "s", work: float = 0, **missing: bool
) -> JoinRun:
    """A run with random numbers for three newcomers."""
    draw = np.random.default_rng(seed).random
    shape = (len(shots), 3)
    steps = {s: draw(shape) for s in ("arrival", "joined", "tuned", "scratch", "fedavg_ft")}
    curves = {s: draw((*shape, EPOCHS + 1)) for s in ("tuned", "scratch", "fedavg_ft")}
    for step in missing:
        steps[step][:] = np.nan
        curves[step][:] = np.nan
    return JoinRun(label, setting, tuple(shots), steps, curves, work, method=label.split(" ")[0])


def points(rows: Sequence[dict[str, Any]], panel: str, label: str, step: str = "tuned") -> dict[Any, float]:
    step = label if label in ("scratch", "fedavg_ft") else step
    return {r["x"]: r["mean"] for r in rows if (r["panel"], r["label"], r["step"]) == (panel, label, step)}


def drawn(figure: Figure, panel: int) -> list[list[tuple[float, float]]]:
    lines = [np.asarray(line.get_xydata()) for line in figure.axes[panel].get_lines()]
    return [[(float(x), float(y)) for x, y in line] for line in lines]


def test_the_path_goes_from_arrival_over_joining_through_the_epochs() -> None:
    one = run("attn")
    figure, rows = join_figure([one])
    found = points(rows, "epochs", "attn")
    assert list(found) == [-1, 0, 1, 2, 3, 4]
    assert found[-1] == pytest.approx(one.steps["arrival"].mean()) and found[0] == pytest.approx(
        one.steps["joined"].mean()
    )
    for epoch in range(1, 5):
        assert found[epoch] == pytest.approx(one.curves["tuned"][0, :, epoch].mean())
    scratch = points(rows, "epochs", "scratch")
    assert list(scratch) == [0, 1, 2, 3, 4]
    assert drawn(figure, 0)[0] == list(found.items()) and drawn(figure, 0)[1] == list(scratch.items())
    assert len(figure.axes) == 1, "one number of shots needs no second panel"
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["arrival", "joined", "1", "2", "3", "4"]


def test_runs_of_one_label_become_a_mean_and_a_band() -> None:
    runs = [run("attn", ("1", "all"), seed=k, setting=f"s{k}") for k in range(3)]
    figure, rows = join_figure(runs)
    values = np.array([r.steps["tuned"].mean(1) for r in runs])
    found = [r for r in rows if (r["panel"], r["label"], r["step"]) == ("shots", "attn", "tuned")]
    assert [r["x"] for r in found] == ["1", "all"] and {r["runs"] for r in found} == {3}
    assert [r["mean"] for r in found] == pytest.approx(values.mean(0).tolist())
    assert [r["std"] for r in found] == pytest.approx(values.std(0, ddof=1).tolist())
    bands = [c for ax in figure.axes for c in ax.collections if isinstance(c, PolyCollection)]
    assert len(bands) == 6, "three lines with bands on each panel; none for hollow markers"


def test_a_reference_comes_from_the_run_with_the_most_work_in_each_setting() -> None:
    light, heavy = run("ifca", seed=1, work=0), run("fedper", seed=2, work=10)
    other = run("ifca", seed=3, setting="t", work=0)
    for runs in ([light, heavy, other], [heavy, other, light]):
        _, rows = join_figure(runs)
        expected = (heavy.curves["scratch"][0].mean(0) + other.curves["scratch"][0].mean(0)) / 2
        assert list(points(rows, "epochs", "scratch").values()) == pytest.approx(expected.tolist())
        assert {r["runs"] for r in rows if r["label"] == "scratch"} == {2}


def test_shots_in_order_and_gaps_where_a_run_has_none() -> None:
    one, two = run("attn", ("5", "all")), run("ifca", ("1", "20", "all"), seed=1)
    figure, rows = join_figure([one, two])
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["1", "5", "20", "all"]
    found = points(rows, "shots", "attn")
    assert [x for x, value in found.items() if np.isfinite(value)] == ["5", "all"]
    assert points(rows, "shots", "ifca", "joined")["20"] == pytest.approx(two.steps["joined"][1].mean())


def test_the_left_panel_takes_the_most_shots_that_all_have() -> None:
    runs = [run("attn", ("1", "5", "20")), run("ifca", ("1", "5", "all"), seed=1)]
    figure, rows = join_figure(runs)
    assert "5 per class" in figure.axes[0].get_xlabel()
    assert points(rows, "epochs", "attn")[0] == pytest.approx(runs[0].steps["joined"][1].mean())
    figure, rows = join_figure(runs, shots="1")
    assert points(rows, "epochs", "attn")[0] == pytest.approx(runs[0].steps["joined"][0].mean())
    with pytest.raises(UsageError, match="--shots 20: these runs share 1, 5"):
        join_figure(runs, shots="20")
    with pytest.raises(UsageError, match="--shots: these runs share none"):
        join_figure([run("attn", ("1",)), run("ifca", ("2",))])


def test_what_there_is_not_is_not_drawn() -> None:
    figure, rows = join_figure([run("attn", tuned=True, fedavg_ft=True)])
    assert {r["label"] for r in rows} == {"attn", "scratch"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["attn", "from scratch"]
    assert np.isnan(points(rows, "epochs", "attn")[1]) and np.isfinite(points(rows, "epochs", "attn")[0])


def test_newcomers_without_test_samples_are_left_out() -> None:
    one = run("attn")
    for table in (*one.steps.values(), *one.curves.values()):
        table[0, 1] = np.nan
    _, rows = join_figure([one])
    assert points(rows, "epochs", "attn")[0] == pytest.approx(
        (one.steps["joined"][0, 0] + one.steps["joined"][0, 2]) / 2
    )


def test_nothing_to_draw() -> None:
    with pytest.raises(FltkError, match="join-new-client"):
        join_figure([])


@pytest.mark.parametrize("width", [3.35, 7.0])
@pytest.mark.parametrize("methods", [1, 8])
def test_the_legend_and_labels_stay_on_the_page(methods: int, width: float) -> None:
    runs = [run(f"method{k} clusters=4", ("1", "5", "all"), seed=k) for k in range(methods)]
    figure, _ = join_figure(runs, width=width)
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01 and box.x1 <= width + 0.01
    assert box.y1 <= figure.get_size_inches()[1] + 0.01
    assert figure.axes[0].get_position().height * figure.get_size_inches()[1] > 1.0


def test_lines_differ_without_colour() -> None:
    methods = ("fedavg", "fedper", "ditto", "ifca", "attn")
    figure, _ = join_figure([run(method, seed=k) for k, method in enumerate(methods)])
    markers = [line.get_marker() for line in figure.axes[0].get_lines()]
    assert len(set(markers)) == len(markers) == 7


def test_lines_of_other_conditions_keep_their_epochs_and_references() -> None:
    short, long = run("attn epochs=4"), run("attn epochs=9", seed=1)
    short, long = replace(short, setting="epochs=4"), replace(long, setting="epochs=9")
    long = replace(long, curves={name: np.pad(c, [(0, 0), (0, 0), (0, 5)]) for name, c in long.curves.items()})
    _, rows = join_figure([short, long])
    assert max(points(rows, "epochs", "attn epochs=4")) == 4 and max(points(rows, "epochs", "attn epochs=9")) == 9
    assert {r["label"] for r in rows if r["step"] == "scratch"} == {"scratch, epochs=4", "scratch, epochs=9"}


def test_equal_references_of_two_conditions_are_one() -> None:
    runs = [replace(run(name, seed=1), setting=name) for name in ("head", "all")]
    _, rows = join_figure(runs)
    assert {r["label"] for r in rows} == {"head", "all", "scratch", "fedavg_ft"}


def test_arrival_stands_off_where_there_are_many_epochs() -> None:
    one = run("attn")
    one = replace(one, curves={name: np.pad(c, [(0, 0), (0, 0), (0, 36)]) for name, c in one.curves.items()})
    figure, rows = join_figure([one])
    assert drawn(figure, 0)[0][0][0] == -8 and min(points(rows, "epochs", "attn")) == -1
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def caption(figure: Figure) -> str:
    """The words below the axes, without their line breaks."""
    return " ".join(figure.get_supxlabel().split())


def test_the_caption_tells_a_method_from_the_reference_that_is_nearly_the_same() -> None:
    runs = [run("fedavg-ft", work=1), run("attn", seed=1, work=4)]
    told = caption(join_figure(runs)[0])
    assert "fedavg-ft and FedAvg, fine-tuned start from the same global model" in told
    assert "up to 3 more epochs" in told
    assert "as many epochs" in caption(join_figure(runs[:1])[0])
    assert "FedAvg, fine-tuned" not in caption(join_figure(runs[1:])[0]), "there is nothing to be told apart"
    assert "FedAvg, fine-tuned" not in caption(join_figure([run("fedavg-ft", fedavg_ft=True)])[0])


def test_the_caption_names_the_seeds() -> None:
    runs = [replace(run("attn", seed=k, setting=f"s{k}"), seed=k) for k in (0, 1)]
    assert caption(join_figure(runs)[0]).startswith("Mean over seeds 0, 1. Band: one standard deviation")


@pytest.mark.parametrize("width", [3.35, 7.0])
def test_many_lines_have_panels_for_each_setting(width: float) -> None:
    runs = []
    for place, setting in enumerate(("iid", "rotated")):
        for seed, method in enumerate(("fedavg", "fedper", "ditto", "ifca", "attn")):
            one = run(f"{method} {setting}", ("1", "all"), seed=10 * place + seed, setting=setting)
            runs.append(replace(one, setting=setting, row=method))
    figure, rows = join_figure(runs, width=width)
    assert [ax.get_title() for ax in figure.axes] == ["iid", "", "rotated", ""]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["fedavg", "fedper", "ditto", "ifca", "attn", "from scratch", "FedAvg, fine-tuned"]
    assert len({row["label"] for row in rows if row["step"] == "tuned"}) == 10
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01 and box.x1 <= width + 0.01
