"""Lines that are means over runs: what runs share a line, its band, and how it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fltk.errors import FltkError
from fltk.plots.method_styles import SOLID, LineStyle
from fltk.plots.style import Array, Row

MARKERS_A_LINE = 8


@dataclass(frozen=True, kw_only=True)
class Tag:
    """What a figure has to know of a run, apart from its numbers and its label.

    method: gives colour and marker; without one the label does.  setting: what the runs of a panel share, where a
    figure has a panel for each setting.  row: the label without its setting.  seed: for the caption.
    """

    method: str = ""
    setting: str = ""
    row: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class Curve(Tag):
    """One run: values (R,) at rounds (R,), accuracies as fractions. Runs with the same label are averaged.

    position: (R,) where the values stand on the x axis, by default at their rounds.
    """

    label: str
    rounds: Array
    values: Array
    position: Array | None = None


@dataclass(frozen=True)
class MeanLine:
    """The mean over all runs of a label up to the last round that all have, then over those that go on.

    rounds, x, mean, std, runs: (R,); std is NaN for a single run, runs says how many a point is the mean of.
    """

    label: str
    rounds: Array
    x: Array
    mean: Array
    std: Array
    runs: Array

    @property
    def whole(self) -> int:
        """Points that are means over all runs."""
        return int((self.runs == self.runs[0]).sum())

    @property
    def ends_early(self) -> str:
        """For the legend: how many runs end early; empty where none does."""
        early = int(self.runs[0] - self.runs[-1])
        return f" ({early} of {self.runs[0]} end early)" if early else ""

    def rows(self) -> list[Row]:
        """The points as data."""
        columns = zip(self.rounds, self.mean, self.std, self.runs, strict=True)
        made: list[Row] = []
        for number, mean, std, runs in columns:
            row = {"label": self.label, "round": int(number), "mean": float(mean), "std": float(std), "runs": int(runs)}
            made.append(row)
        return made


@dataclass(frozen=True)
class _Part:
    """Rounds that the same runs have: rounds (R,), their places x (R,) and values (runs, R)."""

    rounds: Array
    x: Array
    values: Array


@dataclass(frozen=True)
class _Run:
    """The evaluated rounds of one run: rounds, x and values (R,)."""

    rounds: Array
    x: Array
    values: Array


def mean_lines(curves: Iterable[Curve]) -> dict[str, MeanLine]:
    """label -> its line, in the order of the curves. FltkError for a label whose runs share no evaluated round."""
    grouped: dict[str, list[_Run]] = {}
    for curve in curves:
        grouped.setdefault(curve.label, []).append(_evaluated(curve))
    return {label: _mean_line(label, runs) for label, runs in grouped.items()}


def _evaluated(curve: Curve) -> _Run:
    values = np.asarray(curve.values, dtype=np.float64)
    rounds = np.asarray(curve.rounds)
    x = rounds if curve.position is None else np.asarray(curve.position, dtype=np.float64)
    known = np.isfinite(values)
    return _Run(rounds[known], x[known], values[known])


def _mean_line(label: str, runs: Sequence[_Run]) -> MeanLine:
    parts = _parts(runs)
    if not parts or len(parts[0].values) < len(runs):
        raise FltkError(f"{label!r} has no evaluated round that all of its runs share")
    return MeanLine(
        label,
        np.concatenate([part.rounds for part in parts]),
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.values.mean(axis=0) for part in parts]),
        np.concatenate([sample_std(part.values) for part in parts]),
        np.concatenate([np.full(len(part.rounds), len(part.values)) for part in parts]),
    )


def _parts(runs: Sequence[_Run]) -> list[_Part]:
    """The rounds that all runs share, then those of the runs that go on, until the last one ends."""
    if not all(run.rounds.size for run in runs):
        return []
    parts = []
    left, end = list(runs), -1
    while left:
        rounds = _shared(left)
        rounds = rounds[rounds > end]
        if rounds.size:
            parts.append(_part(left, rounds))
        end = min(int(run.rounds[-1]) for run in left)
        left = [run for run in left if run.rounds[-1] > end]
    return parts


def _part(runs: Sequence[_Run], rounds: Array) -> _Part:
    """What these runs have at these rounds."""
    x, values = [], []
    for run in runs:
        places = np.searchsorted(run.rounds, rounds)
        x.append(run.x[places])
        values.append(run.values[places])
    return _Part(rounds, np.mean(x, axis=0), np.stack(values))


def _shared(runs: Sequence[_Run]) -> Array:
    """The rounds that all of these runs have."""
    return reduce(np.intersect1d, [run.rounds for run in runs])


def sample_std(table: Array) -> Array:
    """(runs, X) -> (X,), NaN for a single run."""
    if len(table) == 1:
        return np.full(table.shape[1], np.nan)
    return np.asarray(table.std(axis=0, ddof=1))


def draw_lines(
    ax: Axes, lines: Sequence[MeanLine], styles: Mapping[str, LineStyle], *, share: bool = False, bands: bool = True
) -> dict[str, Line2D]:
    """The lines with their bands: label -> handle for a legend. `share`: bands stay between 0 and 1."""
    handles = {}
    for index, line in enumerate(lines):
        style = styles[line.label]
        every = max(1, line.whole // MARKERS_A_LINE)
        first = index % every  # staggered: markers of equal lines do not cover each other
        handles[line.label] = _draw_line(ax, line, style, (first, every))
        if bands:
            _draw_band(ax, line, style.color, share=share)
    return handles


def draw_backdrop(ax: Axes, lines: Iterable[MeanLine]) -> None:
    """The lines that another panel shows, in grey."""
    for line in lines:
        ax.plot(line.x, line.mean, color="#d0d0d0", linewidth=0.6, zorder=1)


def _draw_line(ax: Axes, line: MeanLine, style: LineStyle, every: tuple[int, int]) -> Line2D:
    """The mean over all runs; from where runs end, a thin line over those that go on."""
    end = line.whole
    handle = plot_line(ax, line.x[:end], line.mean[:end], style, markevery=every)
    if end < len(line.x):
        ax.plot(line.x[end - 1 :], line.mean[end - 1 :], color=style.color, linewidth=0.5, linestyle=style.dash)
    return handle


def plot_line(ax: Axes, x: Array, y: Array, style: LineStyle, markevery: tuple[int, int]) -> Line2D:
    """One line in this style."""
    (handle,) = ax.plot(
        x,
        y,
        color=style.color,
        linestyle=style.dash,
        marker=style.marker,
        markevery=markevery,
        markerfacecolor=style.face,
        markeredgecolor=style.edge,
        markeredgewidth=0.8 if style.hollow else 0.3,
        zorder=2.0 if style.dash == SOLID else 2.1,  # a dashed line on a solid one leaves both to be seen
    )
    return handle


def _draw_band(ax: Axes, line: MeanLine, color: str, *, share: bool) -> None:
    """One standard deviation on both sides, as a bar where there is a single round."""
    x, mean, std = line.x[: line.whole], line.mean[: line.whole], line.std[: line.whole]
    if not np.isfinite(std).any():
        return
    low, high = mean - std, mean + std
    if share:
        low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    if len(x) == 1:
        ax.vlines(x, low, high, color=color, alpha=0.5, linewidth=2.5)
    else:
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
