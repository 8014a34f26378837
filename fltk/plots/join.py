"""New clients: the headline measure against epochs of fine-tuning, and against training samples per class."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from fltk.errors import FltkError, UsageError
from fltk.objectives import Measure
from fltk.plots.captions import add_caption, seeds_caption
from fltk.plots.facets import Layout, Panel, layout
from fltk.plots.join_lines import (
    ARRIVAL,
    JoinLine,
    JoinRun,
    Sources,
    epoch_lines,
    line_rows,
    shot_lines,
    sources_of,
)
from fltk.plots.style import COLUMN, DOUBLE, Row, legend_above, new_figure, paper, value_axis

__all__ = ["JoinRun", "join_figure"]

BESIDE = 5.0  # inches: two panels beside each other need at least so many
HEIGHT = 2.0  # inches of a panel
HOLLOW = "Filled: tuned, where validation loss fell; hollow: before."
LIKE_REFERENCE = "fedavg-ft"  # the method that newcomers join by fine-tuning the FedAvg model


@dataclass(frozen=True)
class _Panels:
    """The lines of one setting: over epochs (left) and over shots (right, empty where there is one number)."""

    title: str
    left: list[JoinLine]
    right: list[JoinLine]
    sources: Sources

    @property
    def lines(self) -> list[JoinLine]:
        return [*self.left, *self.right]


def join_figure(
    runs: Sequence[JoinRun], *, shots: str | None = None, width: float | None = None
) -> tuple[Figure, list[Row]]:
    """Left: from arrival over joining through the epochs of fine-tuning; right (below it in a narrow figure): over
    shots, where there are several.

    shots: those of the left panel (default: the largest that all runs have). Lines are means over newcomers, then over
    runs, with a band of one sample standard deviation of the runs. The left panel shows every epoch, the right one what
    was kept of them. Many lines of several settings get two panels for each setting. width in inches.
    """
    if not runs:
        raise FltkError("no newcomers to draw: name at least one run of join-new-client")
    chosen = _shots(runs, shots)
    several = _all_shots(runs)
    plan = layout(runs)
    measure = _measure(runs)
    blocks = [_panels(runs, panel, plan, chosen, several) for panel in plan.panels]
    both = len(several) > 1
    width = width or (DOUBLE if both else COLUMN)

    with paper():
        figure, grid = _grid(len(blocks), width, both=both)
        handles: dict[str, Line2D] = {}
        for block, axes in zip(blocks, grid, strict=True):
            handles |= _draw_block(block, axes, chosen, several, measure)
        if len(blocks) > 1:
            _shorten(grid, measure)
        if measure.fraction:
            _within(grid[0][0])
        _legend(figure, plan, blocks, handles)
        add_caption(figure, [HOLLOW if both else "", seeds_caption(runs), _alike(runs, blocks)])
    return figure, _rows(blocks, several)


def _measure(runs: Sequence[JoinRun]) -> Measure:
    """The one measure of all runs; UsageError for runs of different ones, which no axis can hold."""
    found = {run.measure.key: run.measure for run in runs}
    if len(found) > 1:
        raise UsageError("these runs are scored by different measures: draw them one by one")
    return next(iter(found.values()))


def _rows(blocks: Sequence[_Panels], several: Sequence[str]) -> list[Row]:
    """The drawn points as data."""
    made: list[Row] = []
    for block in blocks:
        for line in block.lines:
            made += line_rows(line, several)
    return made


def _panels(runs: Sequence[JoinRun], panel: Panel, plan: Layout, shots: str, several: Sequence[str]) -> _Panels:
    """The lines of the runs that this panel shows."""
    inside = [run for run in runs if run.label in panel.labels]
    sources = sources_of(inside, shots)
    left = epoch_lines(inside, shots, plan.styles, sources)
    right = shot_lines(inside, several, plan.styles, sources) if len(several) > 1 else []
    return _Panels(panel.title, left, right, sources)


def _shots(runs: Sequence[JoinRun], wanted: str | None) -> str:
    """The shots of the left panel, which every run has."""
    shared = sorted(set.intersection(*(set(run.shots) for run in runs)), key=_order)
    if wanted is None and shared:
        return shared[-1]
    if wanted not in shared:
        known = f"these runs share {', '.join(shared)}" if shared else "these runs share none; name runs that do"
        raise UsageError(f"--shots {wanted}: {known}" if wanted else f"--shots: {known}")
    return wanted


def _all_shots(runs: Sequence[JoinRun]) -> list[str]:
    """The numbers of shots of all runs, ascending."""
    found: set[str] = set()
    for run in runs:
        found |= set(run.shots)
    return sorted(found, key=_order)


def _order(shots: str) -> float:
    return np.inf if shots == "all" else float(shots)


# Drawing


def _grid(blocks: int, width: float, *, both: bool) -> tuple[Figure, list[list[Axes]]]:
    """The figure, and one or two axes for each block."""
    stacked = both and blocks == 1 and width < BESIDE
    columns = 2 if both and not stacked else 1
    rows = 2 if stacked else blocks
    figure = new_figure(width, HEIGHT * rows if blocks == 1 else 1.7 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    if stacked:
        return figure, [list(axes.flat)]
    return figure, [list(row) for row in axes]


def _draw_block(
    block: _Panels, axes: Sequence[Axes], shots: str, several: Sequence[str], measure: Measure
) -> dict[str, Line2D]:
    """Both panels of a block; label -> handle."""
    left, right = axes[0], axes[-1]
    handles: dict[str, Line2D] = {}
    if block.right:
        handles |= _draw(right, block.right, ARRIVAL, measure)
        _shot_axis(right, several)
    handles = _draw(left, block.left, _arrival(block.left), measure) | handles
    _epoch_axis(left, block.left, shots, measure)
    if block.title:
        left.set_title(textwrap.fill(block.title, 30))
    if block.right and right.get_position().y0 < left.get_position().y0:  # it stands below
        right.set_ylabel(left.get_ylabel())
    return handles


def _shorten(grid: Sequence[Sequence[Axes]], measure: Measure) -> None:
    """Short names of axes, those of x below the lowest panels alone."""
    for axes in grid:
        axes[0].set_ylabel("accuracy (%)" if measure.fraction else measure.short)
        for ax in axes:
            lowest = axes is grid[-1]
            ax.set_xlabel(ax.get_xlabel().replace("of fine-tuning ", "").replace("training ", "") if lowest else "")
            if ax is axes[0]:
                for name in ax.get_xticklabels()[:2]:
                    name.set_rotation(30)


def _draw(ax: Axes, lines: Sequence[JoinLine], arrival: float, measure: Measure) -> dict[str, Line2D]:
    """The lines on one panel; label -> handle, of the filled ones."""
    handles: dict[str, Line2D] = {}
    for line in lines:
        x = [arrival if place == ARRIVAL else place for place in line.x]
        handle = _draw_hollow(ax, line, x) if line.hollow else _draw_filled(ax, line, x, measure)
        if not line.hollow:
            handles[line.label] = handle
    return handles


def _draw_hollow(ax: Axes, line: JoinLine, x: Sequence[float]) -> Line2D:
    """A thin line below the others, for what is known before fine-tuning."""
    (handle,) = ax.plot(
        x,
        line.mean,
        color=line.style.color,
        linestyle=line.style.dash,
        linewidth=0.6,
        marker=line.style.marker,
        markevery=_every(x),
        markerfacecolor="white",
        markeredgecolor=line.style.color,
        markeredgewidth=0.7,
        zorder=1.5,
    )
    return handle


def _draw_filled(ax: Axes, line: JoinLine, x: Sequence[float], measure: Measure) -> Line2D:
    """A line with its band; markers of references are strokes, which have no face."""
    (handle,) = ax.plot(
        x,
        line.mean,
        color=line.style.color,
        linestyle=line.style.dash,
        marker=line.style.marker,
        markevery=_every(x),
        markerfacecolor=line.style.face,
        markeredgecolor=line.style.color if line.reference else line.style.edge,
        markeredgewidth=0.8 if line.reference or line.style.hollow else 0.3,
    )
    if line.runs > 1:
        most = 1.0 if measure.fraction else np.inf
        low = np.clip(line.mean - line.std, 0.0, most)
        high = np.clip(line.mean + line.std, 0.0, most)
        ax.fill_between(x, low, high, color=line.style.color, alpha=0.15, linewidth=0)
    return handle


def _every(x: Sequence[float]) -> list[int]:
    """The points with a marker: arrival, joined, and about ten of the others."""
    step = max(1, len(x) // 10)
    return [k for k, place in enumerate(x) if place < 0 or place % step == 0]


def _legend(figure: Figure, plan: Layout, blocks: Sequence[_Panels], handles: Mapping[str, Line2D]) -> None:
    """Methods as the layout calls them, then the references."""
    shown: dict[str, Line2D] = {}
    for name, labels in plan.legend.items():
        if labels[0] in handles:
            shown[name] = handles[labels[0]]
    for block in blocks:
        for line in block.lines:
            if line.reference:
                shown.setdefault(line.name, handles[line.label])
    legend_above(figure, list(shown.values()), list(shown))


def _within(ax: Axes) -> None:
    """No accuracy lies below 0 or above 1; points on these edges keep their markers."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, -0.03), min(high, 1.03))


def _last(lines: Sequence[JoinLine]) -> int:
    """The last epoch of all lines."""
    return int(max((line.x[-1] for line in lines), default=0))


def _arrival(lines: Sequence[JoinLine]) -> float:
    """Where arrival is drawn: far enough from joining that both names fit."""
    return min(float(ARRIVAL), -_last(lines) / 5)


def _epoch_axis(ax: Axes, lines: Sequence[JoinLine], shots: str, measure: Measure) -> None:
    value_axis(ax, f"test {measure.title} of newcomers", percent=measure.fraction)
    end = _last(lines)
    step = max(1, -(-end // 5))
    later = range(step, end + 1, step)
    ax.xaxis.set_major_locator(FixedLocator([_arrival(lines), 0, *later]))
    ax.set_xticklabels(["arrival", "joined", *map(str, later)])

    given = "all samples" if shots == "all" else f"{shots} per class"
    tuned = [line for line in lines if not line.reference and np.isfinite(line.mean[2:]).any()]
    ax.set_xlabel(f"epochs of fine-tuning ({given})" if tuned else f"epochs from scratch ({given}), no fine-tuning")


def _shot_axis(ax: Axes, several: Sequence[str]) -> None:
    """Every number of shots has its place, whether or not a line has a point there."""
    ax.set_xticks(range(len(several)), several)
    ax.set_xlim(-0.3, len(several) - 0.7)
    ax.set_xlabel("training samples per class")
    ax.grid(axis="y")


def _alike(runs: Sequence[JoinRun], blocks: Sequence[_Panels]) -> str:
    """Why fedavg-ft and the reference FedAvg, fine-tuned are nearly the same line, where both are drawn."""
    works = [run.work for run in runs if run.method == LIKE_REFERENCE]
    taken = [work for block in blocks for work in _reference_work(block)]
    if not taken or not works:
        return ""
    names = dict.fromkeys(run.label for run in runs if run.method == LIKE_REFERENCE)
    ahead = max(taken) - min(works)
    told = "as many epochs"
    if ahead > 0:
        told = "up to 1 more epoch" if ahead == 1 else f"up to {ahead:g} more epochs"
    return (
        f"{' and '.join(names)} and FedAvg, fine-tuned start from the same global model; the latter, the reference for "
        f"all methods, has made {told} at each point."
    )


def _reference_work(block: _Panels) -> list[float]:
    """Epochs of joining that the reference FedAvg, fine-tuned made up for, by the runs that it is taken from."""
    works = []
    for runs in block.sources["fedavg_ft"].values():
        works += [run.work for run in runs]
    return works
