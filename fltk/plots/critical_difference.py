"""Average ranks of methods on one axis, with bars over those that the data cannot tell apart.

J. Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006, figure 1.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fltk.errors import FltkError
from fltk.evaluation.statistics import Ranks, cliques
from fltk.plots.style import COLUMN, Row, new_figure, paper

_ROW = 0.15  # inches a row of labels takes
_BAR = 0.07  # inches between bars
_ABOVE = 0.5  # inches for the numbers of the axis and the critical difference
_SHORTEST = 0.012  # share of the axis that a bar takes at least
_GREY = "#666666"


@dataclass(frozen=True)
class _Label:
    """A method's place: its rank, its row of labels (0 is the uppermost), and on which side it is written."""

    index: int
    rank: float
    row: int
    left: bool


def critical_difference(ranks: Ranks, *, what: str, width: float = COLUMN) -> tuple[Figure, list[Row]]:
    """The diagram: rank 1, the best, on the left; bars join methods whose ranks differ by less than the critical
    difference. `what` says what was ranked. width in inches. FltkError for fewer than two methods.
    """
    if len(ranks.methods) < 2:
        raise FltkError("a critical difference needs two methods or more")
    groups = cliques(ranks.average, ranks.critical_difference)
    labels = _placed(ranks)
    told = textwrap.fill(f"average rank over {ranks.settings} settings, {what}", int(width / 0.05))
    depth = _BAR * (len(groups) + 1) + _ROW * (max(label.row for label in labels) + 1)
    with paper():
        figure = new_figure(width, _ABOVE + depth + 0.35 + 0.11 * told.count("\n"))
        ax = figure.add_subplot()
        ax.set_axis_off()
        k = len(ranks.methods)
        ax.set_xlim(1, k)
        ax.set_ylim(-depth, _ABOVE)  # the y axis is in inches
        _axis(ax, k)
        _distance(ax, ranks.critical_difference, k)
        for number, group in enumerate(groups, start=1):
            ends = _ends(ranks.average[group[0]], ranks.average[group[-1]], k)
            ax.plot(ends, [-_BAR * number] * 2, color="black", linewidth=2.5, clip_on=False)
        for label in labels:
            _label(ax, label, ranks, k, -_BAR * (len(groups) + 1) - _ROW * (label.row + 0.5))
        figure.supxlabel(
            f"{told}\ncritical difference "
            f"{ranks.critical_difference:.2f} (Nemenyi, {ranks.alpha:g}), Friedman p {_p(ranks.friedman_p)}",
            color=_GREY,
            fontsize=6.5,
        )
    return figure, _rows(ranks, groups)


def _ends(first: float, last: float, k: int) -> tuple[float, float]:
    """Where a bar begins and ends: one over equal ranks, which has no length, is as long as can be seen."""
    missing = max(0.0, _SHORTEST * (k - 1) - (last - first))
    return first - missing / 2, last + missing / 2


def _placed(ranks: Ranks) -> list[_Label]:
    """The better half on the left, the others on the right; the outermost on top, so that no lines cross."""
    order = sorted(range(len(ranks.methods)), key=lambda i: ranks.average[i])
    half = math.ceil(len(order) / 2)
    left = [_Label(index, ranks.average[index], row, True) for row, index in enumerate(order[:half])]
    right = [_Label(index, ranks.average[index], row, False) for row, index in enumerate(reversed(order[half:]))]
    return left + right


def _axis(ax: Axes, k: int) -> None:
    ax.plot([1, k], [0, 0], color="black", linewidth=0.8, clip_on=False)
    for rank in range(1, k + 1):
        ax.plot([rank, rank], [0, 0.05], color="black", linewidth=0.8, clip_on=False)
        ax.text(rank, 0.07, str(rank), ha="center", va="bottom", fontsize=7.0)


def _distance(ax: Axes, distance: float, k: int) -> None:
    """The critical difference as a length, from rank 1 on; one that exceeds the axis has no right end."""
    end = min(1 + distance, k)
    ax.plot([1, end], [0.3, 0.3], color="black", linewidth=0.8, clip_on=False)
    for place in (1, end) if 1 + distance <= k else (1,):
        ax.plot([place, place], [0.27, 0.33], color="black", linewidth=0.8, clip_on=False)
    ax.text(1, 0.35, "CD" if 1 + distance <= k else "CD >", ha="left", va="bottom", fontsize=7.0)


def _label(ax: Axes, label: _Label, ranks: Ranks, k: int, y: float) -> None:
    """A line from the rank on the axis down and out to the method's name."""
    side = 1 if label.left else k
    ax.plot([label.rank, label.rank, side], [0, y, y], color="black", linewidth=0.6, clip_on=False)
    ax.annotate(
        f"{ranks.methods[label.index]}  {label.rank:.2f}"
        if label.left
        else f"{label.rank:.2f}  {ranks.methods[label.index]}",
        xy=(side, y),
        xytext=(-3 if label.left else 3, 0),
        textcoords="offset points",
        ha="right" if label.left else "left",
        va="center",
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"= {value:.4f}"


def _rows(ranks: Ranks, groups: list[list[int]]) -> list[Row]:
    """One row a method, best first; `groups` are the bars that cover it, counted from 1."""
    rows = []
    for index in sorted(range(len(ranks.methods)), key=lambda i: ranks.average[i]):
        covered = [str(number) for number, group in enumerate(groups, start=1) if index in group]
        rows.append(
            {
                "method": ranks.methods[index],
                "average_rank": ranks.average[index],
                "groups": " ".join(covered),
                "settings": ranks.settings,
                "critical_difference": ranks.critical_difference,
                "friedman_p": ranks.friedman_p,
            }
        )
    return rows
