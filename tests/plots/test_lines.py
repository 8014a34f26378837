"""Figures of accuracy: over rounds and over sorted clients."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fltk.errors import FltkError
from fltk.plots.clients import ClientScores, client_accuracy, client_gains
from fltk.plots.curves import Curve, accuracy_bytes, accuracy_curves
from fltk.plots.method_styles import method_style


def points(figure: Figure) -> list[list[tuple[float, float]]]:
    lines = [np.asarray(line.get_xydata()) for line in figure.axes[0].get_lines()]
    return [[(float(x), float(y)) for x, y in line] for line in lines]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_of_one_label_become_mean_and_sample_deviation() -> None:
    rounds = np.arange(1, 5)
    runs = [np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.3, 0.2, 0.5, 0.8]), np.array([0.2, 0.2, 0.1, 0.9])]
    curves = [Curve("attn", rounds, values) for values in runs] + [Curve("local", rounds, runs[0])]
    figure, rows = accuracy_curves(curves)
    for k, row in enumerate(rows[:4]):
        three = [run[k] for run in runs]
        mean = sum(three) / 3
        assert row["mean"] == pytest.approx(mean)
        assert row["std"] == pytest.approx((sum((v - mean) ** 2 for v in three) / 2) ** 0.5)
        assert (row["label"], row["round"], row["runs"]) == ("attn", k + 1, 3)
    assert all(np.isnan(row["std"]) and row["runs"] == 1 for row in rows[4:])
    assert legend(figure) == ["attn", "local"]


def test_curve_rows_are_the_drawn_points_and_band() -> None:
    rounds = np.arange(1, 7)
    generator = np.random.default_rng(0)
    figure, rows = accuracy_curves([Curve(label, rounds, generator.random(6)) for label in ("a", "a", "b")])
    for label, line in zip("ab", points(figure), strict=True):
        assert line == [(row["round"], row["mean"]) for row in rows if row["label"] == label]
    bands = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    assert len(bands) == 1
    drawn = {(float(x), float(y)) for x, y in np.asarray(bands[0].get_paths()[0].vertices)}
    for row in rows[:6]:
        low, high = max(0.0, row["mean"] - row["std"]), min(1.0, row["mean"] + row["std"])
        assert {(row["round"], low), (row["round"], high)} <= drawn


def test_curves_skip_rounds_without_evaluation_and_keep_shared_ones() -> None:
    first = Curve("a", np.array([1, 2, 3, 4]), np.array([0.1, np.nan, 0.3, 0.4]))
    second = Curve("a", np.array([1, 2, 3]), np.array([0.3, 0.5, 0.5]))
    _, rows = accuracy_curves([first, second])
    assert [(row["round"], row["runs"]) for row in rows] == [(1, 2), (3, 2), (4, 1)]
    assert [row["mean"] for row in rows] == pytest.approx([0.2, 0.4, 0.4])


def test_curves_without_anything_to_draw() -> None:
    with pytest.raises(FltkError, match="no curve"):
        accuracy_curves([])
    with pytest.raises(FltkError, match="'a' has no evaluated round"):
        accuracy_curves([Curve("a", np.array([1]), np.array([0.5])), Curve("a", np.array([2]), np.array([0.5]))])


def test_curve_axes_are_labelled() -> None:
    figure, _ = accuracy_curves([Curve("a", np.array([1, 2]), np.array([0.1, 0.9]))], y_label="validation accuracy")
    ax = figure.axes[0]
    assert ax.get_xlabel() == "communication round"
    assert ax.get_ylabel() == "validation accuracy (%)"
    assert ax.yaxis.get_major_formatter()(0.25, 0) == "25"
    losses = [Curve("a", np.array([1, 2]), np.array([2.3, 0.9]))]
    ax = accuracy_curves(losses, y_label="train loss", percent=False)[0].axes[0]
    assert ax.get_ylabel() == "train loss"
    assert not isinstance(ax.yaxis.get_major_formatter(), PercentFormatter)


def test_clients_are_sorted_run_by_run_and_rows_are_the_points() -> None:
    scores = [
        ClientScores("a", np.array([0.5, np.nan, 0.1, 0.9]), np.array([10, 11, 12, 13])),
        ClientScores("b", np.array([0.3, 0.2, 0.2, 0.8])),
    ]
    figure, rows = client_accuracy(scores)
    assert [row["client"] for row in rows] == [12, 10, 13, 1, 2, 0, 3]
    for label, line in zip("ab", points(figure), strict=True):
        assert line == [(row["rank"], row["accuracy"]) for row in rows if row["label"] == label]
    assert legend(figure) == ["a", "b"]


def test_clients_without_anything_to_draw() -> None:
    with pytest.raises(FltkError, match="no values of clients"):
        client_accuracy([ClientScores("a", np.full(3, np.nan))])
    with pytest.raises(FltkError, match="no values of clients"):
        client_accuracy([])


@pytest.mark.parametrize("lines", [1, 5, 12])
@pytest.mark.parametrize("width", [3.35, 7.0])
def test_the_legend_stays_on_the_page(lines: int, width: float) -> None:
    rounds = np.arange(1, 9)
    figure, _ = accuracy_curves(
        [Curve(f"run{k} (attn, seed {k})", rounds, rounds / 20) for k in range(lines)], width=width
    )
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 >= -0.01 and box.x1 <= width + 0.01
    assert box.y1 <= figure.get_size_inches()[1] + 0.01
    assert figure.axes[0].get_position().height * figure.get_size_inches()[1] > 1.2


def test_no_figure_needs_pyplot_or_torch() -> None:
    code = (
        "import sys; from fltk.plots import attention_maps, clients, curves, partition, save;"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_mean_goes_on_without_the_runs_that_end_early() -> None:
    runs = [Curve("a", np.arange(1, n + 1), np.full(n, value)) for n, value in ((4, 0.2), (4, 0.4), (2, 0.9))]
    figure, rows = accuracy_curves(runs)
    assert [(row["round"], row["runs"]) for row in rows] == [(1, 3), (2, 3), (3, 2), (4, 2)]
    assert [row["mean"] for row in rows] == pytest.approx([0.5, 0.5, 0.3, 0.3])
    assert legend(figure) == ["a (1 of 3 end early)"]


def test_a_single_round_has_a_whole_tick_and_a_bar() -> None:
    figure, _ = accuracy_curves([Curve("a", np.array([1]), np.array([value])) for value in (0.2, 0.4)])
    ax = figure.axes[0]
    assert all(tick == round(tick) for tick in ax.get_xticks())
    (bar,) = ax.collections
    assert isinstance(bar, LineCollection)


def test_bands_of_accuracies_stay_between_0_and_1() -> None:
    figure, _ = accuracy_curves([Curve("a", np.arange(3), np.full(3, value)) for value in (0.1, 1.0, 1.0)])
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == 1.0 and heights.min() < 0.2


@pytest.mark.parametrize(("values", "scale"), [((1.0, 900.0), "linear"), ((1.0, 1e6), "log"), ((-1.0, 1e6), "linear")])
def test_losses_over_many_decades_have_a_logarithmic_axis(values: tuple[float, float], scale: str) -> None:
    figure, _ = accuracy_curves([Curve("a", np.arange(2), np.array(values))], percent=False, share=False)
    assert figure.axes[0].get_yscale() == scale


def test_the_largest_loss_is_the_worst() -> None:
    figure, rows = client_accuracy([ClientScores("a", np.array([0.1, 2.0, 0.5]))], percent=False, higher=False)
    assert [row["client"] for row in rows] == [1, 2, 0]
    assert points(figure)[0] == [(1, 2.0), (2, 0.5), (3, 0.1)]


@pytest.mark.parametrize(("clients", "shaded"), [((20, 20), True), ((9, 9), False), ((20, 30), False)])
def test_the_worst_tenth_is_shaded_where_there_is_one(clients: tuple[int, int], shaded: bool) -> None:
    figure, _ = client_accuracy([ClientScores(f"{n}", np.linspace(0, 1, n)) for n in clients])
    assert bool(figure.axes[0].patches) == shaded


def test_the_legend_of_clients_tells_attackers_and_rounds() -> None:
    scores = [ClientScores("a", np.ones(3), round=8), ClientScores("b", np.array([1, np.nan, 1]), malicious=1, round=5)]
    assert legend(client_accuracy(scores)[0]) == ["a, round 8", "b, round 5, without 1 attacker"]


def test_lines_have_the_styles_of_their_methods() -> None:
    curves = [Curve(f"{name} lr=1", np.arange(2), np.ones(2) / 2, method=name) for name in ("attn", "mine", "local")]
    scores = [ClientScores(curve.label, np.ones(3), method=curve.method) for curve in reversed(curves)]
    for figure, names in (
        (accuracy_curves(curves)[0], ("attn", "mine", "local")),
        (client_accuracy(scores)[0], ("local", "mine", "attn")),
    ):
        drawn = [(line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines()]
        assert drawn == [(method_style(name).color, method_style(name).marker) for name in names]


def caption(figure: Figure) -> str:
    """The words below the axes, without their line breaks."""
    return " ".join(figure.get_supxlabel().split())


# Sorted clients


def test_clients_of_several_seeds_are_averaged_by_rank() -> None:
    runs = [np.array([0.9, 0.1, 0.5]), np.array([0.3, 0.7, 0.2])]
    figure, rows = client_accuracy([ClientScores("a", values, seed=k) for k, values in enumerate(runs)])
    assert [row["accuracy"] for row in rows] == pytest.approx([0.15, 0.4, 0.8])
    assert [row["std"] for row in rows] == pytest.approx(np.std([[0.1, 0.3, 0.7], [0.2, 0.5, 0.9]], axis=0, ddof=1))
    assert {(row["runs"], row["client"]) for row in rows} == {(2, None)}, "a rank is no client"
    assert legend(figure) == ["a"]
    assert len([c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]) == 1
    assert "averaged by rank. Mean over seeds 0, 1. Band: one standard deviation" in caption(figure)


def test_runs_with_other_numbers_of_clients_are_matched_from_worst_to_best() -> None:
    few, many = np.array([0.2, 0.8]), np.array([0.2, 0.2, 0.8, 0.8])
    _, rows = client_accuracy([ClientScores("a", few), ClientScores("a", many)])
    assert [row["accuracy"] for row in rows] == pytest.approx([0.2, 0.8])


def test_gains_are_sorted_and_tell_how_many_lose() -> None:
    gains = [ClientScores("attn", np.array([0.2, -0.1, np.nan, 0.0, 0.1]), method="attn", seed=3)]
    figure, rows = client_gains(gains)
    assert [(row["client"], row["accuracy"]) for row in rows] == [(1, -0.1), (3, 0.0), (4, 0.1), (0, 0.2)]
    assert legend(figure) == ["attn (25 % lose)"]
    ax = figure.axes[0]
    assert ax.get_ylabel() == "gain over local (points)" and ax.yaxis.get_major_formatter()(0.2, 0) == "20.0"
    assert ax.get_ylim()[0] < -0.1 < 0.2 < ax.get_ylim()[1]
    assert "how much better than that of local training" in caption(figure) and "Seed 3." in caption(figure)
    with pytest.raises(FltkError, match="no gain to draw"):
        client_gains([])


# Bytes


def test_bytes_are_on_the_x_axis_and_a_silent_run_is_a_level_line() -> None:
    rounds = np.arange(1, 4)
    curves = [
        Curve("fedavg", rounds, np.array([0.1, 0.2, 0.3]), 4e6 * rounds, method="fedavg"),
        Curve("fedavg", rounds, np.array([0.3, 0.4, 0.5]), 4e6 * rounds, method="fedavg"),
        Curve("local", rounds, np.array([0.5, 0.6, 0.7]), 0.0 * rounds, method="local"),
    ]
    figure, rows = accuracy_bytes(curves)
    line, level = figure.axes[0].get_lines()
    assert np.asarray(line.get_xdata()).tolist() == [4.0, 8.0, 12.0] and "(MB)" in figure.axes[0].get_xlabel()
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert set(np.asarray(level.get_ydata()).tolist()) == {0.7} and level.get_color() == method_style("local").color
    assert legend(figure) == ["fedavg", "local (sends nothing)"]
    assert [row["bytes"] for row in rows if row["label"] == "fedavg"] == [4e6, 8e6, 12e6]


def test_bytes_of_very_different_methods_have_a_logarithmic_axis_and_many_are_gigabytes() -> None:
    rounds = np.arange(1, 4)
    small = Curve("small", rounds, np.ones(3) / 2, 1e6 * rounds)
    large = Curve("large", rounds, np.ones(3) / 2, 1e9 * rounds)
    ax = accuracy_bytes([small, large])[0].axes[0]
    assert ax.get_xscale() == "log" and "(GB)" in ax.get_xlabel()
    assert accuracy_bytes([small, replace(small, label="b")])[0].axes[0].get_xscale() == "linear"
    with pytest.raises(FltkError, match="these runs send nothing"):
        accuracy_bytes([replace(small, position=0.0 * rounds)])
    with pytest.raises(FltkError, match="no curve"):
        accuracy_bytes([])
