"""Clients that nobody has seen: accuracy against epochs of fine-tuning, and against training samples per class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from fltk.errors import FltkError, UsageError
from fltk.plots.style import (
    COLUMN,
    DOUBLE,
    Array,
    LineStyle,
    Row,
    legend_above,
    line_style,
    new_figure,
    paper,
    value_axis,
)

# Both references stand behind every method, so they are grey and black and have markers without a face.
REFERENCES = {
    "scratch": LineStyle("#666666", "x", (0, (1.5, 1.2))),
    "fedavg_ft": LineStyle("#000000", "+", (0, (5, 1.5))),
}
BESIDE = 5.0  # inches: two panels beside each other need at least so many
ARRIVAL = -1  # its place on the axis of epochs, before 0 = joined


@dataclass(frozen=True)
class JoinRun:
    """One run of newcomers: test accuracies of M newcomers with S numbers of shots; runs of a label are averaged.

    steps: arrival, joined, tuned, scratch, fedavg_ft -> (S, M).  curves: tuned, scratch, fedavg_ft -> (S, M, E + 1),
    after 0, 1, ..., E epochs.  NaN for what there is not.  work: epochs that joining took, which the references made
    as well.  setting: what runs must share to have the same references, such as partition and seed.
    """

    label: str
    setting: str
    shots: tuple[str, ...]
    steps: Mapping[str, Array]
    curves: Mapping[str, Array]
    work: float


@dataclass(frozen=True)
class _Line:
    panel: str
    label: str
    x: list[float]
    mean: Array
    std: Array  # NaN for a single run
    runs: int
    style: LineStyle
    hollow: bool = False


def join_figure(
    runs: Sequence[JoinRun], *, shots: str | None = None, width: float | None = None
) -> tuple[Figure, list[Row]]:
    """Left: from arrival over joining through the epochs of fine-tuning; right (below it in a narrow figure): over
    shots, where there are several.

    shots: those of the left panel (default: the largest that all runs have). Lines are means over newcomers, then over
    runs, with a band of one sample standard deviation of the runs. width in inches.
    """
    if not runs:
        raise FltkError("no newcomers to draw: name at least one run of join-new-client")
    chosen = _shots(runs, shots)
    several = sorted({s for run in runs for s in run.shots}, key=_order)
    left, right = _epoch_lines(runs, chosen), _shot_lines(runs, several) if len(several) > 1 else []
    width = width or (DOUBLE if right else COLUMN)
    panels = 2 if right else 1
    down = panels if width < BESIDE else 1
    with paper():
        figure = new_figure(width, 2.0 * down)
        axes = figure.subplots(down, panels // down, squeeze=False, sharey=True).flat
        handles = _draw(axes[0], left)
        _epoch_axis(axes[0], left, chosen)
        if right:
            handles = _draw(axes[1], right) | handles
            axes[1].set_xticks(range(len(several)), several)
            axes[1].set_xlabel("training samples per class; hollow: before fine-tuning")
            if down > 1:
                axes[1].set_ylabel(axes[0].get_ylabel())
            axes[1].grid(axis="y")
        order = [line.label for line in left]
        legend_above(figure, [handles[name] for name in order], [_named(name) for name in order])
    return figure, [row for line in [*left, *right] for row in _rows(line, several)]


def _shots(runs: Sequence[JoinRun], wanted: str | None) -> str:
    """The shots of the left panel, which every run has."""
    shared = sorted(set.intersection(*(set(run.shots) for run in runs)), key=_order)
    if wanted is None and shared:
        return shared[-1]
    if wanted not in shared:
        known = f"these runs share {', '.join(shared)}" if shared else "these runs share none; name runs that do"
        raise UsageError(f"--shots {wanted}: {known}" if wanted else f"--shots: {known}")
    return wanted


def _order(shots: str) -> float:
    return np.inf if shots == "all" else float(shots)


def _epoch_lines(runs: Sequence[JoinRun], shots: str) -> list[_Line]:
    end = min(run.curves["scratch"].shape[-1] for run in runs)
    x: list[float] = list(range(end))

    def path(run: JoinRun) -> Array:
        at = run.shots.index(shots)
        ends = [_mean(run.steps[step][at]) for step in ("arrival", "joined")]
        return np.array([*ends, *_means(run.curves["tuned"][at])[1:end]])

    def reference(run: JoinRun, name: str) -> Array:
        return _means(run.curves[name][run.shots.index(shots)])[:end]

    return [*_labelled(runs, "epochs", [ARRIVAL, *x], path), *_references(runs, "epochs", x, reference)]


def _shot_lines(runs: Sequence[JoinRun], several: Sequence[str]) -> list[_Line]:
    x: list[float] = list(range(len(several)))

    def over(run: JoinRun, step: str) -> Array:
        known = {s: _mean(run.steps[step][k]) for k, s in enumerate(run.shots)}
        return np.array([known.get(s, np.nan) for s in several])

    return [
        *_labelled(runs, "shots", x, lambda run: over(run, "tuned")),
        *_labelled(runs, "shots", x, lambda run: over(run, "joined"), hollow=True),
        *_references(runs, "shots", x, over),
    ]


def _labelled(
    runs: Sequence[JoinRun], panel: str, x: list[float], value: Callable[[JoinRun], Array], hollow: bool = False
) -> list[_Line]:
    """One line per label."""
    labels = list(dict.fromkeys(run.label for run in runs))
    groups = [[value(run) for run in runs if run.label == label] for label in labels]
    return [
        _Line(panel, label, x, *_spread(values), len(values), line_style(k), hollow)
        for k, (label, values) in enumerate(zip(labels, groups, strict=True))
    ]


def _references(
    runs: Sequence[JoinRun], panel: str, x: list[float], value: Callable[[JoinRun, str], Array]
) -> list[_Line]:
    """A line per reference: in each setting from the run whose joining took most work, so that it is behind nobody."""
    lines = []
    for name, style in REFERENCES.items():
        known = [run for run in runs if np.isfinite(run.steps[name]).any()]
        most = {run.setting: run for run in sorted(known, key=lambda run: run.work)}
        if most:
            values = [value(run, name) for run in most.values()]
            lines.append(_Line(panel, name, x, *_spread(values), len(values), style))
    return lines


def _spread(values: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and sample standard deviation over runs (R, X); a point that some run lacks is not drawn."""
    table = np.stack(values)
    std = table.std(axis=0, ddof=1) if len(table) > 1 else np.full(table.shape[1], np.nan)
    return table.mean(axis=0), std


def _means(table: Array) -> Array:
    """(M, X) -> (X,), over the newcomers that have test samples."""
    return np.array([_mean(column) for column in table.T])


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _draw(ax: Axes, lines: Sequence[_Line]) -> dict[str, object]:
    """The lines on one panel; label -> handle, of the filled ones."""
    handles: dict[str, object] = {}
    for line in lines:
        (handle,) = ax.plot(
            line.x,
            line.mean,
            color=line.style.color,
            linestyle=line.style.dash,
            marker=line.style.marker,
            linewidth=0.6 if line.hollow else 1.2,
            markerfacecolor="white" if line.hollow else line.style.color,
            markeredgecolor=line.style.color if line.hollow or line.label in REFERENCES else "white",
            markeredgewidth=0.7 if line.hollow or line.label in REFERENCES else 0.3,
            zorder=1.5 if line.hollow else 2,
        )
        if not line.hollow:
            handles[line.label] = handle
        if line.runs > 1 and not line.hollow:
            low, high = line.mean - line.std, line.mean + line.std
            ax.fill_between(line.x, low, high, color=line.style.color, alpha=0.15, linewidth=0)
    return handles


def _epoch_axis(ax: Axes, lines: Sequence[_Line], shots: str) -> None:
    value_axis(ax, "test accuracy of newcomers", percent=True)
    end = int(max(lines[0].x))
    step = max(1, -(-end // 5))
    places = [ARRIVAL, *range(0, end + 1, step)]
    ax.xaxis.set_major_locator(FixedLocator(places))
    ax.set_xticklabels(["arrival", "joined", *(str(place) for place in places[2:])])
    given = "all samples" if shots == "all" else f"{shots} per class"
    ax.set_xlabel(f"epochs of fine-tuning ({given})")


def _named(label: str) -> str:
    return {"scratch": "from scratch", "fedavg_ft": "FedAvg, fine-tuned"}.get(label, label)


def _rows(line: _Line, several: Sequence[str]) -> list[Row]:
    """The points as data; `x` is an epoch (arrival: -1, joined: 0) or a number of shots."""
    step = "joined" if line.hollow else "tuned"
    return [
        {
            "panel": line.panel,
            "label": line.label,
            "step": line.label if line.label in REFERENCES else step,
            "x": several[int(x)] if line.panel == "shots" else int(x),
            "mean": float(mean),
            "std": float(std),
            "runs": line.runs,
        }
        for x, mean, std in zip(line.x, line.mean, line.std, strict=True)
    ]
