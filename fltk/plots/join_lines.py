"""The lines of a figure of newcomers: means over newcomers, then over runs, and the references to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fltk.objectives import ACCURACY, Measure
from fltk.plots.lines import Tag, sample_std
from fltk.plots.method_styles import LineStyle
from fltk.plots.style import Array, Row

# Both references are drawn with every method, so they are grey and have markers that no method has: of the first
# condition the first marker.
REFERENCES = {
    "scratch": ("#666666", ("x", "1", "2", "3", "4"), (0, (1.5, 1.2))),
    "fedavg_ft": ("#333333", ("+", "|", "_", "1", "2"), (0, (5, 1.5))),
}
NAMES = {"scratch": "from scratch", "fedavg_ft": "FedAvg, fine-tuned"}
ARRIVAL = -1  # its place on the axis of epochs, before 0 = joined; drawn further off where there are many epochs


@dataclass(frozen=True)
class JoinRun(Tag):
    """One run of newcomers: test values of M newcomers with S numbers of shots; runs of a label are averaged.

    steps: arrival, joined, tuned, scratch, fedavg_ft -> (S, M).  curves: tuned, scratch, fedavg_ft -> (S, M, E + 1),
    after 0, 1, ..., E epochs.  NaN for what there is not.  work: epochs that joining took, which the references made
    as well.  data: what runs must share to have the same references, such as partition and seed.  setting: what the
    runs of a line share and other lines may not; each setting has references of its own, unless they are the same.
    """

    label: str
    data: str
    shots: tuple[str, ...]
    steps: Mapping[str, Array]
    curves: Mapping[str, Array]
    work: float
    measure: Measure = ACCURACY


@dataclass(frozen=True)
class JoinLine:
    """One line of a panel: mean and std (X,) at x; std is NaN for a single run.

    reference: the name of a reference, and empty for methods.  hollow: before fine-tuning.
    """

    panel: str
    label: str
    x: list[float]
    mean: Array
    std: Array
    runs: int
    style: LineStyle
    hollow: bool = False
    reference: str = ""

    @property
    def seen(self) -> bool:
        """Whether it has a point."""
        return bool(np.isfinite(self.mean).any())

    @property
    def name(self) -> str:
        """In the legend."""
        name, comma, setting = self.label.partition(", ")
        return NAMES.get(name, name) + comma + setting if self.reference else self.label


Sources = Mapping[str, Mapping[str, Sequence[JoinRun]]]  # reference -> setting -> runs that it is taken from
Value = Callable[[JoinRun], Array]  # what a run has along the x axis


def epoch_lines(
    runs: Sequence[JoinRun], shots: str, styles: Mapping[str, LineStyle], sources: Sources
) -> list[JoinLine]:
    """The lines over epochs of fine-tuning with so many shots, from arrival on."""

    def path(run: JoinRun) -> Array:
        at = run.shots.index(shots)
        before = [_mean(run.steps["arrival"][at]), _mean(run.steps["joined"][at])]
        return np.concatenate([before, path_of(run, "tuned", shots)[1:]])

    lines = _of_methods(runs, "epochs", ARRIVAL, path, styles)
    lines += _of_references(sources, "epochs", lambda run, name: path_of(run, name, shots))
    return [line for line in lines if line.seen]


def shot_lines(
    runs: Sequence[JoinRun], several: Sequence[str], styles: Mapping[str, LineStyle], sources: Sources
) -> list[JoinLine]:
    """The lines over numbers of shots: after fine-tuning, and hollow before it."""

    def over(run: JoinRun, step: str) -> Array:
        values = np.full(len(several), np.nan)
        for k, shots in enumerate(run.shots):
            values[several.index(shots)] = _mean(run.steps[step][k])
        return values

    lines = _of_methods(runs, "shots", 0, lambda run: over(run, "tuned"), styles)
    lines += _of_methods(runs, "shots", 0, lambda run: over(run, "joined"), styles, hollow=True)
    lines += _of_references(sources, "shots", over)
    return [line for line in lines if line.seen]


def sources_of(runs: Sequence[JoinRun], shots: str) -> Sources:
    """For each setting and data, the run whose joining took most work: its references took at least as many steps.

    Settings whose references are the same, point by point, make one, which has the name of the first.
    """
    found: dict[str, dict[str, list[JoinRun]]] = {}
    for name in REFERENCES:
        known = [run for run in runs if np.isfinite(run.steps[name]).any()]
        found[name] = {}
        for setting in dict.fromkeys(run.setting for run in known):
            inside = [run for run in known if run.setting == setting]
            chosen = _most_work(inside)
            if not any(_same(chosen, others, name, shots) for others in found[name].values()):
                found[name][setting] = chosen
    return found


def _most_work(runs: Sequence[JoinRun]) -> list[JoinRun]:
    """One run for each data, that whose joining took most work."""
    by_data: dict[str, JoinRun] = {}
    for run in sorted(runs, key=lambda run: run.work):
        by_data[run.data] = run
    return list(by_data.values())


def _same(some: Sequence[JoinRun], others: Sequence[JoinRun], name: str, shots: str) -> bool:
    """Whether a reference has the same path in both."""
    if len(some) != len(others):
        return False
    for one, other in zip(some, others, strict=True):
        a, b = path_of(one, name, shots), path_of(other, name, shots)
        if a.shape != b.shape or not np.array_equal(a, b, equal_nan=True):
            return False
    return True


def path_of(run: JoinRun, name: str, shots: str) -> Array:
    """(E + 1,) the mean over newcomers after each epoch."""
    table = run.curves[name][run.shots.index(shots)]  # (M, E + 1)
    return np.array([_mean(column) for column in table.T])


def _of_methods(
    runs: Sequence[JoinRun],
    panel: str,
    start: int,
    value: Value,
    styles: Mapping[str, LineStyle],
    *,
    hollow: bool = False,
) -> list[JoinLine]:
    """One line for each label."""
    lines = []
    for label in dict.fromkeys(run.label for run in runs):
        values = [value(run) for run in runs if run.label == label]
        lines.append(_line(panel, label, start, values, styles[label], hollow=hollow))
    return lines


def _of_references(sources: Sources, panel: str, value: Callable[[JoinRun, str], Array]) -> list[JoinLine]:
    """A line for each reference, and for each setting where these have different ones."""
    lines = []
    for name, by_setting in sources.items():
        colour, markers, dash = REFERENCES[name]
        for k, (setting, runs) in enumerate(by_setting.items()):
            label = f"{name}, {setting or 'others'}" if len(by_setting) > 1 else name
            style = LineStyle(colour, markers[k % len(markers)], dash)
            values = [value(run, name) for run in runs]
            lines.append(_line(panel, label, 0, values, style, reference=name))
    return lines


def _line(
    panel: str,
    label: str,
    start: int,
    values: Sequence[Array],
    style: LineStyle,
    *,
    hollow: bool = False,
    reference: str = "",
) -> JoinLine:
    """The mean of runs at start, start + 1, ..., up to the last point that all have."""
    end = min(map(len, values))
    table = np.stack([own[:end] for own in values])
    x: list[float] = list(range(start, start + end))
    return JoinLine(
        panel, label, x, table.mean(axis=0), sample_std(table), len(values), style, hollow=hollow, reference=reference
    )


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def line_rows(line: JoinLine, several: Sequence[str]) -> list[Row]:
    """The points as data; `x` is an epoch (arrival: -1, joined: 0) or a number of shots."""
    step = line.reference or ("joined" if line.hollow else "tuned")
    made: list[Row] = []
    for x, mean, std in zip(line.x, line.mean, line.std, strict=True):
        row: Row = {"panel": line.panel, "label": line.label, "step": step}
        row["x"] = several[int(x)] if line.panel == "shots" else int(x)
        made.append({**row, "mean": float(mean), "std": float(std), "runs": line.runs})
    return made
