"""Average ranks of methods on one axis, with bars over those that the data cannot tell apart.

J. Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006, figure 1.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fltk.errors import FltkError
from fltk.evaluation.statistics import Ranks, cliques
from fltk.plots.captions import GREY, SIZE
from fltk.plots.style import COLUMN, Row, new_figure, paper

_ROW = 0.15  # inches a row of labels takes
_BAR = 0.07  # inches between bars
_ABOVE = 0.5  # inches for the numbers of the axis and the critical difference
_SHORTEST = 0.012  # share of the axis that a bar takes at least


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
    caption = _caption(ranks, what, width)
    rows_of_labels = 1 + max(label.row for label in labels)
    below_bars = _BAR * (len(groups) + 1)
    depth = below_bars + _ROW * rows_of_labels
    with paper():
        figure = new_figure(width, _ABOVE + depth + 0.24 + 0.11 * len(caption))
        ax = figure.add_subplot()
        ax.set_axis_off()
        ax.set_xlim(1, len(ranks.methods))
        ax.set_ylim(-depth, _ABOVE)  # the y axis is in inches
        _axis(ax, len(ranks.methods))
        _distance(ax, ranks)
        _bars(ax, ranks, groups)
        for label in labels:
            _label(ax, label, ranks, -below_bars - _ROW * (label.row + 0.5))
        figure.supxlabel("\n".join(caption), color=GREY, fontsize=SIZE)
    return figure, _rows(ranks, groups)


def _caption(ranks: Ranks, what: str, width: float) -> list[str]:
    """What was ranked and how it was tested, in lines."""
    ranked = f"average rank over {ranks.settings} settings, {what}"
    tested = f"critical difference {ranks.critical_difference:.2f} (Nemenyi, {ranks.alpha:g})"
    friedman = f"Friedman p {_p(ranks.friedman_p)}"
    return [*textwrap.wrap(ranked, int(width / 0.05)), f"{tested}, {friedman}"]


def _bars(ax: Axes, ranks: Ranks, groups: list[list[int]]) -> None:
    """A bar over each group of methods that the data cannot tell apart."""
    for number, group in enumerate(groups, start=1):
        first, last = ranks.average[group[0]], ranks.average[group[-1]]
        ends = _ends(first, last, len(ranks.methods))
        ax.plot(ends, [-_BAR * number] * 2, color="black", linewidth=2.5, clip_on=False)


def _ends(first: float, last: float, k: int) -> tuple[float, float]:
    """Where a bar begins and ends: one over equal ranks, which has no length, is as long as can be seen."""
    missing = max(0.0, _SHORTEST * (k - 1) - (last - first))
    return first - missing / 2, last + missing / 2


def _placed(ranks: Ranks) -> list[_Label]:
    """The better half on the left, the others on the right; the outermost on top, so that no lines cross."""
    order = sorted(range(len(ranks.methods)), key=lambda i: ranks.average[i])
    half = math.ceil(len(order) / 2)
    labels = []
    for row, index in enumerate(order[:half]):
        labels.append(_Label(index, ranks.average[index], row, left=True))
    for row, index in enumerate(reversed(order[half:])):
        labels.append(_Label(index, ranks.average[index], row, left=False))
    return labels


def _line(ax: Axes, x: Sequence[float], y: Sequence[float], width: float = 0.8) -> None:
    ax.plot(x, y, color="black", linewidth=width, clip_on=False)


def _axis(ax: Axes, k: int) -> None:
    """Ranks 1 to k."""
    _line(ax, [1, k], [0, 0])
    for rank in range(1, k + 1):
        _line(ax, [rank, rank], [0, 0.05])
        ax.text(rank, 0.07, str(rank), ha="center", va="bottom", fontsize=7.0)


def _distance(ax: Axes, ranks: Ranks) -> None:
    """The critical difference as a length, from rank 1 on; one that exceeds the axis has no right end."""
    end, k = 1 + ranks.critical_difference, len(ranks.methods)
    _line(ax, [1, min(end, k)], [0.3, 0.3])
    _line(ax, [1, 1], [0.27, 0.33])
    if end <= k:
        _line(ax, [end, end], [0.27, 0.33])
    ax.text(1, 0.35, "CD" if end <= k else "CD >", ha="left", va="bottom", fontsize=7.0)


def _label(ax: Axes, label: _Label, ranks: Ranks, y: float) -> None:
    """A line from the rank on the axis down and out to the method's name."""
    side = 1 if label.left else len(ranks.methods)
    _line(ax, [label.rank, label.rank, side], [0, y, y], width=0.6)

    name, rank = ranks.methods[label.index], f"{label.rank:.2f}"
    ax.annotate(
        f"{name}  {rank}" if label.left else f"{rank}  {name}",
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
