"""Colours and legends for clusters, groups and labels: few get the palette of all figures, many a colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fltk.plots.style import PALETTE

MOST = 20  # categories that have colours and a legend entry of their own
_CHARACTER = 0.058  # inches, of 7 pt


@dataclass(frozen=True)
class Categories:
    """Distinct values in ascending order, with the colour of each."""

    values: tuple[int, ...]
    colors: tuple[str, ...]

    @property
    def many(self) -> bool:
        """Too many for a legend: colours follow a scale."""
        return len(self.values) > MOST

    def color(self, value: int) -> str:
        """The colour of a value."""
        return self.colors[self.values.index(value)]


def categories(values: Sequence[int]) -> Categories:
    """The distinct ones of `values` and their colours."""
    distinct = tuple(sorted(set(values)))
    n = len(distinct)
    if n <= len(PALETTE):
        return Categories(distinct, PALETTE[:n])
    if n <= MOST:
        return Categories(distinct, tuple(to_hex(matplotlib.colormaps["tab20"](k)) for k in range(n)))
    scale = matplotlib.colormaps["turbo"]
    return Categories(distinct, tuple(to_hex(scale(0.02 + 0.96 * k / (n - 1))) for k in range(n)))


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
    blank = Line2D([], [], linestyle="")
    rows: list[list[tuple[Line2D, str]]] = []
    for title, handles, labels in lines:
        room = width - max(len(name) for name, _, _ in lines) * _CHARACTER - 0.2
        columns = max(1, int(room / (max(len(label) for _, _, names in lines for label in names) * _CHARACTER + 0.24)))
        marks = list(zip(handles, labels, strict=True))
        for start in range(0, len(marks), columns):
            rows.append([(blank, "" if start else title), *marks[start : start + columns]])
    longest = max(map(len, rows))
    cells = [row[c] if c < len(row) else (blank, "") for c in range(longest) for row in rows]  # column by column
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
