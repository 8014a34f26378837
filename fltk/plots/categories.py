"""Colours and legends for clusters, groups and labels: few get the palette of all figures, many a colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fltk.plots.style import CHARACTER, PALETTE

MOST = 20  # categories that have a legend entry of their own
NONE = "#999999"
_SPREAD = 6  # entries of a legend of more

# P. Tol's discrete rainbow without its palest: neighbours differ for colour-blind readers too, and the order is seen.
RAINBOW = (
    "#D1BBD7",
    "#BA8DB4",
    "#AA6F9E",
    "#994F88",
    "#882E72",
    "#1965B0",
    "#437DBF",
    "#5289C7",
    "#7BAFDE",
    "#4EB265",
    "#90C987",
    "#CAE0AB",
    "#F7F056",
    "#F7CB45",
    "#F4A736",
    "#EE8026",
    "#E65518",
    "#DC050C",
    "#A5170E",
    "#72190E",
)


@dataclass(frozen=True)
class Categories:
    """Distinct values in ascending order, with the colour of each."""

    values: tuple[int, ...]
    colors: tuple[str, ...]

    @property
    def listed(self) -> tuple[int, ...]:
        """The values in the legend: all, or of more than it has room for some, evenly spread, with both ends."""
        if len(self.values) <= MOST:
            return self.values
        places = np.linspace(0, len(self.values) - 1, _SPREAD).round().astype(int)
        return tuple(self.values[place] for place in places)

    def color(self, value: int) -> str:
        """The colour of a value."""
        return self.colors[self.values.index(value)]


def categories(values: Sequence[int]) -> Categories:
    """The distinct ones of `values` and their colours; what is negative, which is no category, is grey."""
    distinct = tuple(sorted(set(values)))
    n = sum(value >= 0 for value in distinct)
    if n <= len(PALETTE):
        colors = PALETTE[:n]
    elif n <= MOST:
        colors = tuple(RAINBOW[k * (MOST - 1) // (n - 1)] for k in range(n))
    else:
        scale = matplotlib.colormaps["viridis"]
        colors = tuple(to_hex(scale(k / (n - 1))) for k in range(n))
    return Categories(distinct, (NONE,) * (len(distinct) - n) + colors)


def square(color: str) -> Line2D:
    """A legend handle for an area."""
    return Line2D([], [], linestyle="", marker="s", color=color, markersize=5, markeredgewidth=0)


def dot(color: str, marker: str = "o", *, edge: str = "white", size: float = 4.5) -> Line2D:
    """A legend handle for points."""
    return Line2D([], [], linestyle="", marker=marker, color=color, markeredgecolor=edge, markersize=size)


def legend_lines(figure: Figure, lines: Sequence[tuple[str, list[Line2D], list[str]]]) -> None:
    """One legend over the axes, a line for each title, which stands at the left; the figure grows by its height.

    lines: (title, handles, labels). What does not fit the width goes on in another row.
    """
    width, height = figure.get_size_inches()
    columns = _columns(lines, width)
    rows: list[list[tuple[Line2D, str]]] = []
    for title, handles, labels in lines:
        marks = list(zip(handles, labels, strict=True))
        for start in range(0, len(marks), columns):
            head = (_blank(), "" if start else title)
            rows.append([head, *marks[start : start + columns]])

    longest = max(map(len, rows))
    for row in rows:
        row += [(_blank(), "")] * (longest - len(row))
    cells = [row[column] for column in range(longest) for row in rows]  # a legend is filled column by column
    figure.set_size_inches(width, height + 0.15 * len(rows) + 0.02)
    figure.legend(
        *zip(*cells, strict=True),
        loc="outside upper left",
        ncols=longest,
        handlelength=0.8,
        handletextpad=0.3,
        columnspacing=0.8,
        labelspacing=0.25,
    )


def _blank() -> Line2D:
    return Line2D([], [], linestyle="")


def _columns(lines: Sequence[tuple[str, list[Line2D], list[str]]], width: float) -> int:
    """Marks that fit a row after its title."""
    titles, labels = [], []
    for title, _, names in lines:
        titles.append(len(title))
        labels += [len(name) for name in names]
    room = width - max(titles) * CHARACTER - 0.2
    return max(1, int(room / (max(labels) * CHARACTER + 0.24)))
