"""A matrix of numbers with a colour for each cell: lost accuracy in points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from fltk.plots.style import EMPTY, Array

MOST = 1.0  # of the colour scale, in accuracy
LEAST = 0.05
SIZE = 6.5  # points
CELL = 0.3  # inches that a number needs side by side with others
LETTER = 0.058  # inches


@dataclass(frozen=True)
class Matrix:
    """mean and std (D, A) as fractions, NaN for unknown; names of the rows (down) and the columns (across)."""

    mean: Array
    std: Array
    down: list[str]
    across: list[str]
    percent: bool = True  # numbers are fractions, told in points of a percent

    def told(self, value: float) -> str:
        """A number as it is written."""
        return points(value if self.percent else value / 100)


def matrix_height(matrix: Matrix, width: float) -> float:
    """Inches that the matrix needs with its names, in a figure of this width."""
    lines_of_names = max(name.count("\n") + 1 for name in matrix.down)
    spread = bool(np.isfinite(matrix.std).any())
    one_number, two_numbers = (0.34, 0.6) if _turned(matrix, width) else (0.22, 0.3)
    cell = max(two_numbers if spread else one_number, 0.12 * lines_of_names)
    names = 0.065 * _longest(matrix.across)
    return 0.75 + cell * len(matrix.down) + names


def draw_matrix(ax: Axes, matrix: Matrix, *, top: float, title: str) -> None:
    """Cells with their numbers; dark is much lost, and what was gained is as bright as nothing lost.

    top: the largest number of all matrices that share a colour scale, as a fraction.
    """
    top = min(MOST, max(top, LEAST)) if matrix.percent else top
    shown = np.where(np.isnan(matrix.mean), np.nan, np.clip(matrix.mean, 0, top))
    colours = matplotlib.colormaps["Oranges"].with_extremes(bad=EMPTY)
    image = ax.imshow(shown, cmap=colours, vmin=0, vmax=top)
    ax.set_aspect("auto")

    inks = image.to_rgba(np.ma.masked_invalid(shown))
    width = float(ax.figure.get_figure(root=True).get_size_inches()[0])
    for place, drop in np.ndenumerate(matrix.mean):
        ax.text(
            place[1],
            place[0],
            cell_text(matrix, float(drop), float(matrix.std[place])),
            ha="center",
            va="center",
            color=ink(inks[place]),
            fontsize=SIZE,
            linespacing=1.05,
            rotation=90 if _turned(matrix, width) else 0,
        )

    bar = ax.figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02, aspect=30, ticks=[0, top])
    bar.ax.set_yticklabels(["0", matrix.told(top)], fontsize=SIZE)
    bar.outline.set_visible(False)
    _name(ax, matrix)
    ax.set_title(title)


def _name(ax: Axes, matrix: Matrix) -> None:
    """Names of rows and columns, without axes."""
    folded = any("\n" in name for name in matrix.across)
    if folded or len(matrix.across) > 8:  # slanted, they would meet those of the neighbours
        ax.set_xticks(range(len(matrix.across)), matrix.across, rotation=90, fontsize=SIZE, linespacing=0.95)
    else:
        ax.set_xticks(range(len(matrix.across)), matrix.across, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(matrix.down)), matrix.down, fontsize=SIZE, linespacing=0.95)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _turned(matrix: Matrix, width: float) -> bool:
    """Whether the numbers stand upright, because the columns are too narrow for them."""
    room = width - LETTER * _longest(matrix.down) - 0.5
    if width > 5:  # lines stand next to the matrix
        room = 0.45 * room
    return room / len(matrix.across) < CELL


def _longest(names: Sequence[str]) -> int:
    """Characters of the longest line."""
    lengths = [len(line) for name in names for line in name.split("\n")]
    return max(lengths)


def cell_text(matrix: Matrix, mean: float, std: float) -> str:
    """The number of a cell, and its standard deviation below it where that is known."""
    if math.isnan(mean):
        return "\u2013"
    if math.isnan(std):
        return matrix.told(mean)
    return f"{matrix.told(mean)}\n\u00b1{matrix.told(std)}"


def points(value: float) -> str:
    """A fraction in points of a percent, with a proper minus and no negative zero."""
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "\u2212")


def ink(colour: Array) -> str:
    """Black or white, whichever can be read on this colour (R, G, B, ...) (WCAG 2: contrast of relative luminances)."""
    linear = []
    for part in colour[:3]:
        linear.append(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    white, black = 1.05 / (luminance + 0.05), (luminance + 0.05) / 0.05
    return "white" if white > black else "black"
