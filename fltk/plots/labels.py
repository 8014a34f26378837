"""What the lines of a figure are called, so that only runs that differ in their seeds share a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fltk.evaluation.settings import Entry, attack_places, lines, listed
from fltk.registry import RunRow


@dataclass(frozen=True)
class Labels:
    """The runs that are drawn, in the order they were named, the line of each, and what a reader should know.

    conditions: by run, what its line's setting is, without the method; empty where all runs share it.
    """

    runs: tuple[RunRow, ...]
    names: dict[int, str]
    conditions: dict[int, str]
    notes: tuple[str, ...]


def line_labels(runs: Sequence[RunRow], each: bool = False) -> Labels:
    """Method, parameters and setting as far as they differ; with `each` a line for every run, by number if need be.

    Otherwise runs of one label are seeds: of repeated ones the latest counts, and one that is not finished stands
    alone.
    """
    distinct = list({run.id: run for run in runs}.values())
    places = lines(distinct)
    names = {run.id: _name(places[run.id]) for run in distinct}
    conditions = {run.id: places[run.id].setting for run in distinct}
    if each:
        known = list(names.values())
        names = {
            k: f"{name} (run{k})" if known.count(name) > 1 and "(run" not in name else name for k, name in names.items()
        }
        return Labels(tuple(distinct), names, conditions, ())
    latest = {(names[run.id], places[run.id].seeds): run.id for run in sorted(distinct, key=lambda run: run.id)}
    kept = set(latest.values())
    repeated = [run for run in distinct if run.id not in kept]
    notes = [f"repeated runs: only the latest is used; left out: {listed(repeated)}"] if repeated else []
    lone = [run for run in distinct if run.id in kept and run.status != "done"]
    notes += [f"no part of a mean: {stopped(run)}" for run in lone] if len(kept) > 1 else []
    return Labels(tuple(run for run in distinct if run.id in kept), names, conditions, tuple(notes))


def attack_labels(runs: Sequence[RunRow]) -> Labels:
    """Attacks (`names`) and methods with their defence (`conditions`) of finished runs, as far as they differ."""
    done = [run for run in runs if run.status == "done"]
    places, seeds = attack_places(done), {number: entry.seeds for number, entry in lines(done).items()}
    latest = {(places[run.id], seeds[run.id]): run.id for run in sorted(done, key=lambda run: run.id)}
    kept = [run for run in done if run.id in set(latest.values())]
    repeated = [run for run in done if run not in kept]
    notes = [f"repeated runs: only the latest is used; left out: {listed(repeated)}"] if repeated else []
    notes += [f"not finished, left out: {stopped(run)}" for run in runs if run.status != "done"]
    names, conditions = ({run.id: places[run.id][side] for run in kept} for side in (0, 1))
    return Labels(tuple(kept), names, conditions, tuple(notes))


def stopped(run: RunRow) -> str:
    """How far a run came that is not finished."""
    return f"run{run.id} {run.status}, round {run.rounds_done} of {run.config['train']['rounds']}"


def own_line(name: str, run: RunRow) -> str:
    """The name of a line, or that of a line of its own for a run that is not finished."""
    return name if run.status == "done" else f"{name} ({stopped(run)})"


def _name(place: Entry) -> str:
    return own_line(" ".join(filter(None, [place.method, place.setting])), place.run)
