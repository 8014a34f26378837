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
    line_styles,
    new_figure,
    paper,
    value_axis,
)

# Both references stand behind every method, so they are grey and black and have markers without a face: of the first
# condition the first marker.
REFERENCES = {
    "scratch": ("#666666", ("x", "1", "2", "3", "4"), (0, (1.5, 1.2))),
    "fedavg_ft": ("#000000", ("+", "|", "_", "1", "2"), (0, (5, 1.5))),
}
BESIDE = 5.0  # inches: two panels beside each other need at least so many
ARRIVAL = -1  # its place on the axis of epochs, before 0 = joined; drawn further off where there are many epochs


@dataclass(frozen=True)
class JoinRun:
    """One run of newcomers: test accuracies of M newcomers with S numbers of shots; runs of a label are averaged.

    steps: arrival, joined, tuned, scratch, fedavg_ft -> (S, M).  curves: tuned, scratch, fedavg_ft -> (S, M, E + 1),
    after 0, 1, ..., E epochs.  NaN for what there is not.  work: epochs that joining took, which the references made
    as well.  setting: what runs must share to have the same references, such as partition and seed.  condition: what
    the runs of a line share and other lines may not; each has references of its own, unless they are the same.
    """

    label: str
    setting: str
    shots: tuple[str, ...]
    steps: Mapping[str, Array]
    curves: Mapping[str, Array]
    work: float
    condition: str = ""


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
    reference: str = ""  # the name of one, and empty for methods

    @property
    def seen(self) -> bool:
        """Whether it has a point."""
        return bool(np.isfinite(self.mean).any())


def join_figure(
    runs: Sequence[JoinRun],
    *,
    shots: str | None = None,
    width: float | None = None,
    styles: Mapping[str, int] | None = None,
) -> tuple[Figure, list[Row]]:
    """Left: from arrival over joining through the epochs of fine-tuning; right (below it in a narrow figure): over
    shots, where there are several.

    shots: those of the left panel (default: the largest that all runs have). Lines are means over newcomers, then over
    runs, with a band of one sample standard deviation of the runs. The left panel shows every epoch, the right one what
    was kept of them. width in inches. styles: label -> number of its style.
    """
    if not runs:
        raise FltkError("no newcomers to draw: name at least one run of join-new-client")
    chosen = _shots(runs, shots)
    several = sorted({s for run in runs for s in run.shots}, key=_order)
    looks = _looks(runs, styles)
    sources = _sources(runs, chosen)
    left = [line for line in _epoch_lines(runs, chosen, looks, sources) if line.seen]
    right = [line for line in _shot_lines(runs, several, looks, sources) if line.seen] if len(several) > 1 else []
    width = width or (DOUBLE if right else COLUMN)
    panels = 2 if right else 1
    down = panels if width < BESIDE else 1
    with paper():
        figure = new_figure(width, 2.0 * down)
        axes = figure.subplots(down, panels // down, squeeze=False, sharey=True).flat
        handles = _draw(axes[0], left, _arrival(left))
        _epoch_axis(axes[0], left, chosen)
        if right:
            handles = _draw(axes[1], right) | handles
            _shot_axis(axes[1], several)
            if down > 1:
                axes[1].set_ylabel(axes[0].get_ylabel())
        _within(axes[0], [*left, *right])
        order = list(dict.fromkeys(line.label for line in [*left, *right] if line.label in handles))
        legend_above(figure, [handles[name] for name in order], [_named(name) for name in order])
    return figure, [row for line in [*left, *right] for row in _rows(line, several)]


def _looks(runs: Sequence[JoinRun], styles: Mapping[str, int] | None) -> dict[str, LineStyle]:
    labels = list(dict.fromkeys(run.label for run in runs))
    return dict(zip(labels, line_styles(labels, styles), strict=True))


def _within(ax: Axes, lines: Sequence[_Line]) -> None:
    """No accuracy lies below 0 or above 1; points on these edges keep their markers."""
    low, high = ax.get_ylim()
    found = np.concatenate([line.mean[np.isfinite(line.mean)] for line in lines]) if lines else np.zeros(0)
    if found.size:
        ax.set_ylim(max(low, -0.03), min(high, 1.03))


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


_Sources = Mapping[str, Mapping[str, Sequence[JoinRun]]]  # reference -> condition -> runs that it is taken from


def _sources(runs: Sequence[JoinRun], shots: str) -> _Sources:
    """In each condition and setting the run whose joining took most work, so that its references are behind nobody.

    Conditions whose references are the same, point by point, make one, which has the name of the first.
    """
    found: dict[str, dict[str, list[JoinRun]]] = {}
    for name in REFERENCES:
        known = [run for run in runs if np.isfinite(run.steps[name]).any()]
        of_name: dict[str, list[JoinRun]] = {}
        for condition in dict.fromkeys(run.condition for run in known):
            own = sorted((run for run in known if run.condition == condition), key=lambda run: run.work)
            chosen = list({run.setting: run for run in own}.values())
            if not any(_same(chosen, others, name, shots) for others in of_name.values()):
                of_name[condition] = chosen
        found[name] = of_name
    return found


def _same(some: Sequence[JoinRun], others: Sequence[JoinRun], name: str, shots: str) -> bool:
    """Whether a reference has the same path in both."""
    one, other = ([_path(run, name, shots) for run in runs] for runs in (some, others))
    return len(one) == len(other) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True)
    )


def _path(run: JoinRun, name: str, shots: str) -> Array:
    """(E + 1,) the mean over newcomers after each epoch."""
    return _means(run.curves[name][run.shots.index(shots)])


def _epoch_lines(runs: Sequence[JoinRun], shots: str, looks: Mapping[str, LineStyle], sources: _Sources) -> list[_Line]:
    def path(run: JoinRun) -> Array:
        at = run.shots.index(shots)
        ends = [_mean(run.steps[step][at]) for step in ("arrival", "joined")]
        return np.array([*ends, *_path(run, "tuned", shots)[1:]])

    return [
        *_labelled(runs, "epochs", ARRIVAL, path, looks),
        *_references(sources, "epochs", lambda run, name: _path(run, name, shots)),
    ]


def _shot_lines(
    runs: Sequence[JoinRun], several: Sequence[str], looks: Mapping[str, LineStyle], sources: _Sources
) -> list[_Line]:
    def over(run: JoinRun, step: str) -> Array:
        known = {s: _mean(run.steps[step][k]) for k, s in enumerate(run.shots)}
        return np.array([known.get(s, np.nan) for s in several])

    return [
        *_labelled(runs, "shots", 0, lambda run: over(run, "tuned"), looks),
        *_labelled(runs, "shots", 0, lambda run: over(run, "joined"), looks, hollow=True),
        *_references(sources, "shots", over),
    ]


def _labelled(
    runs: Sequence[JoinRun],
    panel: str,
    start: int,
    value: Callable[[JoinRun], Array],
    looks: Mapping[str, LineStyle],
    hollow: bool = False,
) -> list[_Line]:
    """One line per label."""
    groups = [(label, [value(run) for run in runs if run.label == label]) for label in looks]
    return [_line(panel, label, start, values, looks[label], hollow) for label, values in groups]


def _references(sources: _Sources, panel: str, value: Callable[[JoinRun, str], Array]) -> list[_Line]:
    """A line per reference, and per condition where these have different ones."""
    lines = []
    for name, of_name in sources.items():
        color, markers, dash = REFERENCES[name]
        for k, (condition, runs) in enumerate(of_name.items()):
            label = f"{name}, {condition or 'others'}" if len(of_name) > 1 else name
            style = LineStyle(color, markers[k % len(markers)], dash)
            lines.append(_line(panel, label, 0, [value(run, name) for run in runs], style, reference=name))
    return lines


def _line(
    panel: str,
    label: str,
    start: int,
    values: Sequence[Array],
    style: LineStyle,
    hollow: bool = False,
    reference: str = "",
) -> _Line:
    """The mean of runs at start, start + 1, ..., as far as all go."""
    end = min(map(len, values))
    mean, std = _spread([own[:end] for own in values])
    return _Line(panel, label, list(range(start, start + end)), mean, std, len(values), style, hollow, reference)


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


def _draw(ax: Axes, lines: Sequence[_Line], arrival: float = ARRIVAL) -> dict[str, object]:
    """The lines on one panel; label -> handle, of the filled ones."""
    handles: dict[str, object] = {}
    for line in lines:
        x = [arrival if place == ARRIVAL else place for place in line.x]
        bare = line.hollow or line.reference
        (handle,) = ax.plot(
            x,
            line.mean,
            color=line.style.color,
            linestyle=line.style.dash,
            marker=line.style.marker,
            markevery=_every(x),
            linewidth=0.6 if line.hollow else 1.2,
            markerfacecolor="white" if line.hollow else line.style.color,
            markeredgecolor=line.style.color if bare else "white",
            markeredgewidth=0.7 if bare else 0.3,
            zorder=1.5 if line.hollow else 2,
        )
        if not line.hollow:
            handles[line.label] = handle
        if line.runs > 1 and not line.hollow:
            low, high = (np.clip(line.mean + sign * line.std, 0.0, 1.0) for sign in (-1, 1))
            ax.fill_between(x, low, high, color=line.style.color, alpha=0.15, linewidth=0)
    return handles


def _every(x: Sequence[float]) -> list[int]:
    """The points with a marker: arrival, joined, and about ten of the others."""
    step = max(1, len(x) // 10)
    return [k for k, place in enumerate(x) if place < 0 or place % step == 0]


def _last(lines: Sequence[_Line]) -> int:
    """The last epoch of all lines."""
    return int(max((line.x[-1] for line in lines), default=0))


def _arrival(lines: Sequence[_Line]) -> float:
    """Where arrival is drawn: far enough from joining that both names fit."""
    return min(float(ARRIVAL), -_last(lines) / 5)


def _epoch_axis(ax: Axes, lines: Sequence[_Line], shots: str) -> None:
    value_axis(ax, "test accuracy of newcomers", percent=True)
    end = _last(lines)
    step = max(1, -(-end // 5))
    ax.xaxis.set_major_locator(FixedLocator([_arrival(lines), *range(0, end + 1, step)]))
    ax.set_xticklabels(["arrival", "joined", *(str(place) for place in range(step, end + 1, step))])
    given = "all samples" if shots == "all" else f"{shots} per class"
    tuned = any(np.isfinite(line.mean[2:]).any() for line in lines if not line.reference)
    ax.set_xlabel(f"epochs of fine-tuning ({given})" if tuned else f"epochs from scratch ({given}), no fine-tuning")


def _shot_axis(ax: Axes, several: Sequence[str]) -> None:
    """Every number of shots has its place, whether or not a line has a point there."""
    ax.set_xticks(range(len(several)), several)
    ax.set_xlim(-0.3, len(several) - 0.7)
    ax.set_xlabel("training samples per class\nfilled: tuned, where validation loss fell; hollow: before")
    ax.grid(axis="y")


def _named(label: str) -> str:
    name, comma, condition = label.partition(", ")
    return {"scratch": "from scratch", "fedavg_ft": "FedAvg, fine-tuned"}.get(name, name) + comma + condition


def _rows(line: _Line, several: Sequence[str]) -> list[Row]:
    """The points as data; `x` is an epoch (arrival: -1, joined: 0) or a number of shots."""
    step = "joined" if line.hollow else "tuned"
    return [
        {
            "panel": line.panel,
            "label": line.label,
            "step": line.reference or step,
            "x": several[int(x)] if line.panel == "shots" else int(x),
            "mean": float(mean),
            "std": float(std),
            "runs": line.runs,
        }
        for x, mean, std in zip(line.x, line.mean, line.std, strict=True)
    ]
