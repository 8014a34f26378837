"""Accuracy over communication rounds, one line per run or per group of runs that differ in their seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fltk.errors import FltkError
from fltk.plots.style import (
    COLUMN,
    Array,
    LineStyle,
    Row,
    legend_above,
    line_styles,
    new_figure,
    paper,
    value_axis,
    whole_ticks,
)

DECADES = 3.0  # that values span before their axis becomes logarithmic


@dataclass(frozen=True)
class Curve:
    """One run: values (R,) at rounds (R,), accuracies as fractions. Runs with the same label are averaged."""

    label: str
    rounds: Array
    values: Array


@dataclass(frozen=True)
class _Line:
    """The mean over all runs of a label as far as all go, and behind that over those that are left."""

    label: str
    rounds: Array
    mean: Array
    std: Array  # NaN for a single run: no spread is known
    runs: Array  # behind each point

    @property
    def whole(self) -> int:
        """Points behind which all runs stand."""
        return int((self.runs == self.runs[0]).sum())

    @property
    def name(self) -> str:
        """In the legend, where it says how many runs end early."""
        early = int(self.runs[0] - self.runs[-1])
        return f"{self.label} ({early} of {self.runs[0]} end early)" if early else self.label


def accuracy_curves(
    curves: Sequence[Curve],
    *,
    width: float = COLUMN,
    y_label: str = "test accuracy",
    percent: bool = True,
    share: bool = True,
    styles: Mapping[str, int] | None = None,
) -> tuple[Figure, list[Row]]:
    """Lines over rounds; runs with one label become their mean and a band of +-1 sample standard deviation.

    The mean is taken over the rounds that all runs of the label have. Where some end early, it goes on as a thin line
    over those that are left. `percent` writes fractions as percent; losses want False. `share`: values lie in [0, 1],
    and so do bands. Positive values over several decades get a logarithmic axis. styles: label -> number of its style.
    width in inches. FltkError when nothing can be drawn.
    """
    if not curves:
        raise FltkError("no curve to draw: name at least one run")
    with paper():
        figure = new_figure(width, 2.0)
        ax = figure.add_subplot()
        handles, labels, rows = draw_curves(ax, curves, share=percent or share, styles=styles)
        value_axis(ax, y_label, percent=percent)
        if not percent and _wide([row["mean"] for row in rows]):
            ax.set_yscale("log")
        ax.set_xlabel("communication round")
        whole_ticks(ax.xaxis)
        ax.margins(x=0.02)
        legend_above(figure, handles, labels)
    return figure, rows


def _wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > 10**DECADES * min(values)


def draw_curves(
    ax: Axes,
    curves: Sequence[Curve],
    *,
    share: bool = False,
    bands: bool = True,
    styles: Mapping[str, int] | None = None,
) -> tuple[list[Line2D], list[str], list[Row]]:
    """The lines of `accuracy_curves` into `ax`: handles and labels for a legend, and the rows that were drawn."""
    lines = [_line(label, curves) for label in dict.fromkeys(curve.label for curve in curves)]
    looks = line_styles([line.label for line in lines], styles)
    handles = []
    for index, (line, style) in enumerate(zip(lines, looks, strict=True)):
        every = max(1, line.whole // 8)
        # staggered, so that markers of lines that run together do not cover each other
        first = index * every // max(1, len(lines))
        handles.append(_drawn(ax, line, style, (first, every)))
        if bands:
            _band(ax, line, style.color, share=share)
    return handles, [line.name for line in lines], [row for line in lines for row in _rows(line)]


def _drawn(ax: Axes, line: _Line, style: LineStyle, every: tuple[int, int]) -> Line2D:
    """The mean over all runs, and a thin line from its end on over those that are left."""
    end = line.whole
    (handle,) = ax.plot(
        line.rounds[:end],
        line.mean[:end],
        color=style.color,
        linestyle=style.dash,
        marker=style.marker,
        markevery=every,
        markeredgecolor="white",
        markeredgewidth=0.3,
    )
    if end < len(line.rounds):
        ax.plot(line.rounds[end - 1 :], line.mean[end - 1 :], color=style.color, linewidth=0.5, linestyle=style.dash)
    return handle


def _band(ax: Axes, line: _Line, color: str, *, share: bool) -> None:
    """One standard deviation on both sides, of a single round as a bar; a share stays within 0 and 1."""
    rounds, mean, std = (values[: line.whole] for values in (line.rounds, line.mean, line.std))
    if not np.isfinite(std).any():
        return
    low, high = mean - std, mean + std
    if share:
        low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    if len(rounds) == 1:
        ax.vlines(rounds, low, high, color=color, alpha=0.5, linewidth=2.5)
    else:
        ax.fill_between(rounds, low, high, color=color, alpha=0.18, linewidth=0)


def _line(label: str, curves: Sequence[Curve]) -> _Line:
    runs = []
    for curve in curves:
        if curve.label == label:
            values = np.asarray(curve.values, dtype=np.float64)
            known = np.isfinite(values)  # rounds without an evaluation have no point
            runs.append((np.asarray(curve.rounds)[known], values[known]))
    if not all(len(rounds) for rounds, _ in runs) or not len(_shared(runs)):
        raise FltkError(f"{label!r} has no evaluated round that all of its runs share")
    parts, left, end = [], runs, -1
    while left:
        rounds = _shared(left)
        rounds = rounds[rounds > end]
        if len(rounds):
            parts.append((rounds, np.stack([values[np.searchsorted(own, rounds)] for own, values in left])))
        end = min(int(own[-1]) for own, _ in left)
        left = [(own, values) for own, values in left if own[-1] > end]
    return _Line(
        label,
        np.concatenate([rounds for rounds, _ in parts]),
        np.concatenate([table.mean(axis=0) for _, table in parts]),
        np.concatenate([_std(table) for _, table in parts]),
        np.concatenate([np.full(len(rounds), len(table)) for rounds, table in parts]),
    )


def _shared(runs: Sequence[tuple[Array, Array]]) -> Array:
    """The rounds that all of these runs have."""
    return reduce(np.intersect1d, [rounds for rounds, _ in runs])


def _std(table: Array) -> Array:
    """(runs, R) -> (R,), NaN for a single run."""
    return table.std(axis=0, ddof=1) if len(table) > 1 else np.full(table.shape[1], np.nan)


def _rows(line: _Line) -> list[Row]:
    columns = zip(line.rounds, line.mean, line.std, line.runs, strict=True)
    return [
        {"label": line.label, "round": int(number), "mean": float(mean), "std": float(std), "runs": int(runs)}
        for number, mean, std, runs in columns
    ]
