"""Accuracy over communication rounds, one line per run or per group of runs that differ in their seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fltk.errors import FltkError
from fltk.plots.style import COLUMN, Array, Row, legend_above, line_style, new_figure, paper, value_axis


@dataclass(frozen=True)
class Curve:
    """One run: values (R,) at rounds (R,), accuracies as fractions. Runs with the same label are averaged."""

    label: str
    rounds: Array
    values: Array


@dataclass(frozen=True)
class _Line:
    label: str
    rounds: Array
    mean: Array
    std: Array | None  # None for a single run: no spread is known
    runs: int


def accuracy_curves(
    curves: Sequence[Curve], *, width: float = COLUMN, y_label: str = "test accuracy", percent: bool = True
) -> tuple[Figure, list[Row]]:
    """Lines over rounds; runs with one label become their mean and a band of +-1 sample standard deviation.

    The mean is taken over the rounds that all runs of the label have. `percent` writes fractions as percent;
    losses want False. width in inches. FltkError when nothing can be drawn.
    """
    if not curves:
        raise FltkError("no curve to draw: name at least one run")
    with paper():
        figure = new_figure(width, 2.0)
        ax = figure.add_subplot()
        handles, labels, rows = draw_curves(ax, curves)
        value_axis(ax, y_label, percent=percent)
        ax.set_xlabel("communication round")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        ax.margins(x=0.02)
        legend_above(figure, handles, labels)
    return figure, rows


def draw_curves(ax: Axes, curves: Sequence[Curve]) -> tuple[list[Line2D], list[str], list[Row]]:
    """The lines of `accuracy_curves` into `ax`: handles and labels for a legend, and the rows that were drawn."""
    lines = [_line(label, curves) for label in dict.fromkeys(curve.label for curve in curves)]
    handles = []
    for index, line in enumerate(lines):
        style = line_style(index)
        every = max(1, len(line.rounds) // 8)
        (handle,) = ax.plot(
            line.rounds,
            line.mean,
            color=style.color,
            linestyle=style.dash,
            marker=style.marker,
            # staggered, so that markers of lines that run together do not cover each other
            markevery=(index * every // max(1, len(lines)), every),
            markeredgecolor="white",
            markeredgewidth=0.3,
        )
        handles.append(handle)
        if line.std is not None:
            low, high = line.mean - line.std, line.mean + line.std
            ax.fill_between(line.rounds, low, high, color=style.color, alpha=0.18, linewidth=0)
    return handles, [line.label for line in lines], [row for line in lines for row in _rows(line)]


def _line(label: str, curves: Sequence[Curve]) -> _Line:
    runs = []
    for curve in curves:
        if curve.label == label:
            values = np.asarray(curve.values, dtype=np.float64)
            known = np.isfinite(values)  # rounds without an evaluation have no point
            runs.append((np.asarray(curve.rounds)[known], values[known]))
    rounds = reduce(np.intersect1d, [rounds for rounds, _ in runs])
    if not len(rounds):
        raise FltkError(f"{label!r} has no evaluated round that all of its runs share")
    table = np.stack([values[np.searchsorted(own, rounds)] for own, values in runs])  # (runs, R)
    std = table.std(axis=0, ddof=1) if len(runs) > 1 else None
    return _Line(label, rounds, table.mean(axis=0), std, len(runs))


def _rows(line: _Line) -> list[Row]:
    std = np.full(len(line.rounds), np.nan) if line.std is None else line.std
    return [
        {
            "label": line.label,
            "round": int(number),
            "mean": float(mean),
            "std": float(spread),
            "runs": line.runs,
        }
        for number, mean, spread in zip(line.rounds, line.mean, std, strict=True)
    ]
