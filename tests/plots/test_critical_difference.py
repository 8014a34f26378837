"""The critical difference diagram: ranks, bars, labels that do not collide."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from fltk.errors import FltkError
from fltk.evaluation.statistics import Ranks, nemenyi
from fltk.plots.critical_difference import critical_difference

METHODS = ("attn", "fedavg-ft", "attn tau=0.5 score=zscore", "local", "ditto", "ifca", "fedavg")


def ranks(average: tuple[float, ...], settings: int = 20, methods: tuple[str, ...] = METHODS) -> Ranks:
    distance = nemenyi(len(average), settings)
    return Ranks(methods[: len(average)], average, settings, 1e-9, distance, 0.05)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def bars(figure: Figure) -> list[list[float]]:
    """Ends of the thick lines."""
    return [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_linewidth() == 2.5]


def test_methods_bars_and_distance() -> None:
    given = ranks((1.2, 2.0, 3.4, 5.0, 5.1, 5.1, 7.0), settings=40)
    figure, rows = critical_difference(given, what="deployed.mean")
    assert bars(figure) == [[1.2, 2.0], [2.0, 3.4], [5.0, 5.1]]
    shown = texts(figure)
    assert "attn  1.20" in shown and "7.00  fedavg" in shown
    assert "CD" in shown and figure.get_supxlabel() == (
        "average rank over 40 settings, deployed.mean\n"
        f"critical difference {given.critical_difference:.2f} (Nemenyi, 0.05), Friedman p < 0.0001"
    )
    assert [(row["method"], row["groups"]) for row in rows][:3] == [
        ("attn", "1"),
        ("fedavg-ft", "1 2"),
        ("attn tau=0.5 score=zscore", "2"),
    ]
    assert rows[-1]["groups"] == "" and rows[-1]["average_rank"] == 7.0


def test_a_distance_wider_than_the_axis_is_said() -> None:
    figure, _ = critical_difference(ranks((1.0, 2.0), settings=3), what="x")
    assert "CD >" in texts(figure)
    assert bars(figure) == [[1.0, 2.0]]


@pytest.mark.parametrize("width", [3.35, 7.0])
@pytest.mark.parametrize("average", [(1.0, 2.0), (2.0, 2.0, 2.0), (1.2, 2.0, 3.4, 5.0, 5.1, 5.1, 6.2)])
def test_names_stay_inside_the_figure_and_apart(average: tuple[float, ...], width: float) -> None:
    figure, _ = critical_difference(ranks(average), what="personal_test_acc.worst10", width=width)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text()]
    inside = figure.bbox
    for box in boxes:
        assert box.x0 >= inside.x0 - 1 and box.x1 <= inside.x1 + 1
        assert box.y0 >= inside.y0 - 1 and box.y1 <= inside.y1 + 1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other), "two texts cover each other"


def test_one_method_has_no_rank() -> None:
    with pytest.raises(FltkError, match="two methods"):
        critical_difference(ranks((1.0,)), what="x")


def test_methods_of_equal_ranks_have_a_bar_that_is_seen() -> None:
    figure, rows = critical_difference(ranks((2.0, 2.0, 2.0)), what="x")
    (bar,) = bars(figure)
    assert bar[1] - bar[0] == pytest.approx(0.012 * 2) and sum(bar) / 2 == pytest.approx(2.0)
    assert {row["groups"] for row in rows} == {"1"}
