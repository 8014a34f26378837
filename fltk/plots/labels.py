"""What the lines of a figure are called, so that only runs that differ in their seeds share a line."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from fltk.evaluation.comparison_table import AttackPlace, attack_places, lines, listed
from fltk.registry import RunRow


@dataclass(frozen=True)
class Labels:
    """The runs that are drawn, in the order they were named, the line of each, and what a reader should know.

    names: by run, the label of its line.  rows: the same without the setting.  conditions: by run, what its line's
    setting is, without the method; empty where all runs share it.
    """

    runs: tuple[RunRow, ...]
    names: dict[int, str]
    rows: dict[int, str]
    conditions: dict[int, str]
    notes: tuple[str, ...]

    def tag(self, run: RunRow) -> TagFields:
        """What a figure has to know of the run, for the fields of `Tag`."""
        return {
            "method": run.method,
            "setting": self.conditions[run.id],
            "row": self.rows[run.id],
            "seed": run.seed,
        }


class TagFields(TypedDict):
    """The fields of `Tag`."""

    method: str
    setting: str
    row: str
    seed: int


def line_labels(runs: Sequence[RunRow]) -> Labels:
    """Method, parameters and setting as far as they differ. Runs of one label are seeds of one line.

    Of repeated runs the latest is drawn. A run that is not finished has a line of its own.
    """
    distinct = list({run.id: run for run in runs}.values())
    places = lines(distinct)
    names: dict[int, str] = {}
    rows: dict[int, str] = {}
    conditions: dict[int, str] = {}
    for run in distinct:
        place = places[run.id]
        conditions[run.id] = place.setting
        names[run.id] = own_line(f"{place.method} {place.setting}".strip(), run)
        rows[run.id] = own_line(place.method, run)

    drawn, repeated = _latest(distinct, {run.id: (names[run.id], places[run.id].seeds) for run in distinct})
    notes = _repeated(repeated)
    if len(drawn) > 1:
        notes += [f"no part of a mean: {stopped(run)}" for run in drawn if run.status != "done"]
    return Labels(tuple(drawn), names, rows, conditions, tuple(notes))


def run_labels(runs: Sequence[RunRow]) -> dict[int, str]:
    """By run: method, parameters and setting as far as they differ, and the run's number where that is not enough.

    A single run needs no label.
    """
    if len(runs) == 1:
        return {runs[0].id: ""}
    places = lines(runs)
    names = {run.id: f"{places[run.id].method} {places[run.id].setting}".strip() for run in runs}
    known = list(names.values())
    for number, name in names.items():
        if known.count(name) > 1:
            names[number] = f"{name} (run{number})"
    return names


def _latest(runs: Sequence[RunRow], keys: Mapping[int, Hashable]) -> tuple[list[RunRow], list[RunRow]]:
    """The latest run of each key, in the order of the runs, and the others."""
    latest: dict[Hashable, int] = {}
    for run in runs:
        key = keys[run.id]
        latest[key] = max(run.id, latest.get(key, run.id))

    drawn: list[RunRow] = []
    repeated: list[RunRow] = []
    for run in runs:
        (drawn if latest[keys[run.id]] == run.id else repeated).append(run)
    return drawn, repeated


def _repeated(runs: Sequence[RunRow]) -> list[str]:
    """A note on runs that are left out because a later one has the same configuration and seed."""
    return [f"repeated runs left out, only the latest is used: {listed(runs)}"] if runs else []


@dataclass(frozen=True)
class AttackLabels:
    """The finished runs that are drawn, the place of each by run, and what a reader should know."""

    runs: tuple[RunRow, ...]
    places: dict[int, AttackPlace]
    notes: tuple[str, ...]


def attack_labels(runs: Sequence[RunRow]) -> AttackLabels:
    """Attack, method with its defence, and data of finished runs, as far as they differ.

    Of repeated runs the latest is drawn.
    """
    done = [run for run in runs if run.status == "done"]
    places = attack_places(done)
    seeds = {number: entry.seeds for number, entry in lines(done).items()}

    drawn, repeated = _latest(done, {run.id: (places[run.id], seeds[run.id]) for run in done})
    notes = _repeated(repeated)
    notes += [f"not finished, left out: {stopped(run)}" for run in runs if run.status != "done"]
    return AttackLabels(tuple(drawn), places, tuple(notes))


def stopped(run: RunRow) -> str:
    """How far a run came that is not finished."""
    return f"run{run.id} {run.status}, round {run.rounds_done} of {run.config['train']['rounds']}"


def own_line(name: str, run: RunRow) -> str:
    """The name of a line, or that of a line of its own for a run that is not finished."""
    return name if run.status == "done" else f"{name} ({stopped(run)})"
