"""The look of all figures: sizes and type of a two-column paper, colours that also read in grey.

Figures are built from `Figure` objects inside `paper()`; pyplot and its global state are never used.
"""

from __future__ import annotations

import math
import textwrap
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, PercentFormatter

Array = npt.NDArray[Any]
Row = dict[str, Any]

COLUMN = 3.35  # inches: one column of a two-column paper
DOUBLE = 7.0  # inches: the full text width

# Of groups, clusters and labels: Okabe and Ito's colours, with a wine red in place of their yellow. The first ones
# differ without colour vision, too.
PALETTE = ("#0072B2", "#E69F00", "#882255", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
ALERT = "#D55E00"
EMPTY = "#d9d9d9"  # a cell without a value
CHARACTER, _HANDLE = 0.058, 0.42  # inches, of a legend's 7 pt and of its line with the gap after it

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same bytes on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlepad": 3.0,
    "axes.labelpad": 2.0,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "lines.markeredgewidth": 0.3,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
    "legend.borderaxespad": 0.2,
    "figure.constrained_layout.h_pad": 0.025,
    "figure.constrained_layout.w_pad": 0.025,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # embedded TrueType: publishers refuse type 3 fonts
    "svg.fonttype": "path",
    "svg.hashsalt": "fltk",
}


def paper() -> AbstractContextManager[None]:
    """The settings of all figures, on matplotlib's own defaults: a user's matplotlibrc takes no part."""
    return matplotlib.style.context(_RC, after_reset=True)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, tied to no window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def whole_ticks(axis: Axis, most: int = 8) -> None:
    """About `most` ticks at whole numbers, a single one where there is no more."""
    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def thin_ticks(axis: Axis, labels: list[str], most: int) -> None:
    """Ticks at 0..len(labels)-1 with every k-th label only, so that at most `most` are written."""
    least = math.ceil(len(labels) / max(1, most))
    step = _round_step(least)
    places = list(range(0, len(labels), step))
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter([labels[place] for place in places]))


def _round_step(least: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below `least`."""
    power = 1
    while 5 * power < least:
        power *= 10
    steps = (power, 2 * power, 5 * power)
    return min(step for step in steps if step >= least)


def value_axis(ax: Axes, label: str, *, percent: bool) -> None:
    """A labelled y axis with grid lines; fractions are written as percent."""
    if percent:
        ax.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=None, symbol=""))
    ax.set_ylabel(f"{label} (%)" if percent else label)
    ax.grid(axis="y")


def legend_above(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """A legend over the axes in as many columns as fit the figure's width; the figure grows by its height.

    Labels that are wider than the figure go on in another line.
    """
    width, height = figure.get_size_inches()
    room = max(12, int((width - _HANDLE) / CHARACTER))
    labels = [textwrap.fill(label, room, break_long_words=True) for label in labels]
    lines = [label.split("\n") for label in labels]

    longest = max(len(line) for of_label in lines for line in of_label)
    fit = int(width / (longest * CHARACTER + _HANDLE))
    columns = max(1, min(len(labels), fit))
    rows = math.ceil(len(labels) / columns)
    columns = math.ceil(len(labels) / rows)

    tallest = 0
    for start in range(0, len(labels), rows):
        tallest = max(tallest, sum(map(len, lines[start : start + rows])))
    figure.set_size_inches(width, height + 0.15 * tallest)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)
