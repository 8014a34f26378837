"""Where the panels of a figure of maps stand: squares of one size, colour bars and notes below them, in inches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEFT, RIGHT, TITLE, TICKS, LINE, BARS = 0.42, 0.1, 0.34, 0.17, 0.125, 0.5
GAP = 0.13
SMALLEST = 1.25  # side of a panel, with its gap
LARGEST = 1.9

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """Square panels in lines, a strip of colour bars, and the notes below it.

    places: of each panel, counted in lines of so many columns.  side: of a panel.  width: of the figure.  notes: lines
    of text.  title: height of a panel's title.
    """

    places: tuple[int, ...]
    columns: int
    lines: int
    side: float
    width: float
    notes: int
    title: float = TITLE

    @property
    def height(self) -> float:
        """Of the figure."""
        return self.base + self.lines * (self.side + self.title) + (self.lines - 1) * TICKS

    @property
    def base(self) -> float:
        """From the lower edge of the figure to the lowest panels."""
        return self.bars + BARS - 0.06 + LINE + TICKS

    @property
    def bars(self) -> float:
        """From the lower edge of the figure to the strip of colour bars."""
        return self.notes * LINE + 0.06

    @property
    def left(self) -> float:
        """From the left edge of the figure to the first panel."""
        return LEFT + (self.width - LEFT - RIGHT - self.span) / 2

    @property
    def span(self) -> float:
        """From the left edge of the first panel to the right edge of the last of its line."""
        return self.columns * self.side + (self.columns - 1) * GAP

    def box(self, x: float, y: float, w: float, h: float) -> Box:
        """Inches to fractions of the figure."""
        return x / self.width, y / self.height, w / self.width, h / self.height

    def panel(self, k: int) -> Box:
        """Where panel k stands."""
        line, column = divmod(self.places[k], self.columns)
        y = self.base + (self.lines - 1 - line) * (self.side + self.title + TICKS)
        return self.box(self.left + column * (self.side + GAP), y, self.side, self.side)

    def leads(self, k: int) -> bool:
        """Whether panel k is the first of its line."""
        return self.places[k] % self.columns == 0


def grid_of(width: float, blocks: Sequence[int], notes: int, *, title_lines: int = 2) -> Grid:
    """As few lines as the width allows, with panels of equal size. Each block of so many panels begins a line."""
    room = width - LEFT - RIGHT
    fit = max(1, int(room / SMALLEST))
    most = max(blocks)
    columns = math.ceil(most / math.ceil(most / fit))

    places: list[int] = []
    lines = 0
    for count in blocks:
        first = lines * columns
        places += range(first, first + count)
        lines += math.ceil(count / columns)
    side = min(LARGEST, (room - (columns - 1) * GAP) / columns)
    return Grid(tuple(places), columns, lines, side, width, notes, TITLE + 0.12 * (title_lines - 2))
