"""What differs between runs: settings, data, code and environment, and then what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from fltk.evaluation import comparison_table
from fltk.evaluation.statistics import sample_std
from fltk.registry import EvaluationRow, RunRow, Store
from fltk.registry.changes import ABSENT, facts
from fltk.registry.where import flatten

TIMED = "seconds"  # measured times differ between any two runs
_EVALUATED = ("acc_mean", "acc_worst10")


@dataclass(frozen=True)
class Line:
    """One thing by name and its value in each run, None where a run has no such thing."""

    section: str  # run | configuration | data | environment | git | result
    key: str
    values: tuple[Any, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs do not agree."""
        return any(not _same(value, self.values[0]) for value in self.values)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of results over runs that differ in their seeds alone."""

    label: str
    runs: tuple[int, ...]
    results: Mapping[str, tuple[float, float]]  # key -> mean, standard deviation


def diff(store: Store, runs: Sequence[RunRow]) -> list[Line]:
    """Everything that is known of the runs, section by section; `Line.differs` picks what is not the same."""
    around = store.environments(run.id for run in runs)
    circumstances = [facts(around.get(run.id, {}), run.git) for run in runs]
    of_git = [{key: value for key, value in found.items() if _is_git(key)} for found in circumstances]
    rest = [{key: value for key, value in found.items() if not _is_git(key)} for found in circumstances]
    return [
        *_lines("run", [_run(run) for run in runs]),
        *_lines("configuration", [flatten(run.config) for run in runs]),
        *_lines("data", _data(store, runs)),
        *_lines("environment", rest, absent=ABSENT),
        *_lines("git", of_git, absent=ABSENT),
        *_lines("result", _results(store, runs)),
    ]


def spreads(lines: Sequence[Line], runs: Sequence[RunRow]) -> list[Spread]:
    """The results of those among the runs that are one configuration with several seeds."""
    groups: dict[tuple[str, str], list[int]] = {}
    for entry in comparison_table.arrange(runs).entries:
        groups.setdefault((entry.method, entry.setting), []).append(entry.run.id)
    several = len({setting for _, setting in groups}) > 1
    place = {run.id: index for index, run in enumerate(runs)}
    found = []
    for (method, setting), members in groups.items():
        if len(members) > 1:
            results = _spread(lines, [place[number] for number in members])
            found.append(Spread(f"{method}, {setting}" if several else method, tuple(members), results))
    return found


def _spread(lines: Sequence[Line], columns: Sequence[int]) -> dict[str, tuple[float, float]]:
    found = {}
    for line in lines:
        values = [line.values[column] for column in columns]
        if line.section == "result" and all(isinstance(value, float) and math.isfinite(value) for value in values):
            found[line.key] = (sum(values) / len(values), sample_std(values))
    return found


def _is_git(name: str) -> bool:
    return name.startswith(("git ", "fltk "))


def _run(run: RunRow) -> dict[str, Any]:
    return {
        "kind": run.kind,
        "made of": None if run.parent is None else f"run{run.parent}",
        "status": run.status,
        "rounds": run.rounds_done,
    }


def _data(store: Store, runs: Sequence[RunRow]) -> list[dict[str, Any]]:
    """Fingerprints; a partition is looked up once."""
    numbers = {run.partition_id for run in runs} - {None}
    prints = {number: store.find_partition(number).fingerprint for number in numbers if number is not None}
    return [
        {
            "data fingerprint": run.data_fingerprint,
            "partition": None if run.partition_id is None else f"part{run.partition_id}",
            "partition fingerprint": prints.get(run.partition_id or 0),
        }
        for run in runs
    ]


def _results(store: Store, runs: Sequence[RunRow]) -> list[dict[str, Any]]:
    """The numbers of the last round and the last evaluation, and how long the weights were the first run's."""
    evaluations = store.last_evaluations(run.id for run in runs)
    digests = [store.digests(run.id) for run in runs]
    equal = [sum(1 for _ in takewhile(lambda item: digests[0].get(item[0]) == item[1], own.items())) for own in digests]
    played_again = any(equal[1:]) or len({run.config_hash for run in runs}) == 1
    results = []
    for run, rounds in zip(runs, equal, strict=True):
        weights = {f"rounds with the weights of run{runs[0].id}": rounds} if played_again else {}
        numbers = {key: float(value) for key, value in run.last.items() if not key.startswith(TIMED)}
        results.append({**weights, **numbers, **_evaluated(evaluations.get(run.id))})
    return results


def _evaluated(found: EvaluationRow | None) -> dict[str, float]:
    rows = [] if found is None else found.summary.get("rows", [])
    return {
        f"{row['model']}.{name.removeprefix('acc_')}": float(row[name])
        for row in rows
        for name in _EVALUATED
        if "model" in row and row.get(name) is not None
    }


def _lines(section: str, found: Sequence[Mapping[str, Any]], absent: Any = None) -> list[Line]:
    keys = dict.fromkeys(key for item in found for key in item)
    return [Line(section, key, tuple(item.get(key, absent) for item in found)) for key in keys]


def _same(one: Any, other: Any) -> bool:
    """Equality for which NaN is itself; 1 and 1.0 are the same setting, 1 and true are not."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
