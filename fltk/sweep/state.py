"""How far the cells of a sweep are, read from the registry, and the best of them on validation data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from fltk.config import canonical_json
from fltk.evaluation.tuning import contest_of
from fltk.objectives import ACCURACY, Measure, headline
from fltk.registry import RunRow, Store
from fltk.registry.method_code import has_other_code
from fltk.registry.rows import TRAINED
from fltk.sweep.cells import Cell

NEW = "new"
DONE = "done"
CHANGED = "done (other code)"  # finished with another source of its method than it has now
RUNNING = "running"
FAILED = "failed"


@dataclass(frozen=True)
class CellState:
    """A cell and its run; `state` is the run's status, or new where there is none, or CHANGED."""

    cell: Cell
    run: RunRow | None
    message: str | None = None

    @property
    def state(self) -> str:
        if self.run is None:
            return FAILED if self.message else NEW
        return CHANGED if finished_otherwise(self.run) else self.run.status


def states(store: Store, cells: Sequence[Cell], failures: Mapping[str, str] | None = None) -> list[CellState]:
    """The state of every cell. `failures` (hash -> reason) tells of cells that failed before they had a run."""
    rows: dict[str, list[RunRow]] = {}
    for row in store.runs():
        rows.setdefault(row.config_hash, []).append(row)
    found = []
    for cell in cells:
        run = best_run(rows.get(cell.digest, []))
        reason = (failures or {}).get(cell.digest)
        found.append(CellState(cell, run, reason or (None if run is None else run.message)))
    return found


def run_of(store: Store, cell: Cell) -> RunRow | None:
    """The run of one cell at this moment."""
    return best_run(store.runs(config_hash=cell.digest))


def best_run(rows: Sequence[RunRow]) -> RunRow | None:
    """Of the runs of one configuration the finished one, else the one being played, else the latest.

    A run that was finished with other code of its method gives way to one that is being played.
    """
    rank = {DONE: 3, RUNNING: 2}
    trained = [row for row in rows if row.kind in TRAINED]
    return max(
        trained,
        key=lambda row: (1 if finished_otherwise(row) else rank.get(row.status, 0), row.id),
        default=None,
    )


def finished_otherwise(run: RunRow) -> bool:
    """Whether a run is finished, with another source of its method than it has now."""
    return run.status == DONE and has_other_code(run)


@dataclass(frozen=True)
class Setting:
    """The cells that differ in nothing but their seed, all of them finished.

    val, val_std: mean over the seeds of the headline measure on validation data in the last round, and its sample
    standard deviation (None for one seed); test, test_std likewise.  trials: the settings it was chosen from, itself
    included.
    """

    cells: tuple[CellState, ...]
    val: float
    val_std: float | None
    test: float
    test_std: float | None
    trials: int = 1
    measure: Measure = ACCURACY


def best(found: Sequence[CellState]) -> list[Setting]:
    """For every method, federation and budget the setting with the best mean on validation data over its seeds.

    The same cells as `fltk.evaluation.tuning` chooses from a registry; test data decide nothing. Settings with an
    unfinished cell, or without validation data, take no part; a tie goes to the setting that stands first in the file.
    """
    groups: dict[str, list[CellState]] = {}
    for state in found:
        groups.setdefault(setting_of(state.cell), []).append(state)
    chosen: dict[str, Setting] = {}
    trials: Counter[str] = Counter()
    for group in groups.values():
        setting = _setting(group)
        key = contest_of(group[0].cell.config.to_dict())
        trials[key] += 1
        if setting is None:
            continue
        if key not in chosen or setting.measure.gain(setting.val, chosen[key].val) > 0:
            chosen[key] = setting
    return [replace(setting, trials=trials[key]) for key, setting in chosen.items()]


def setting_of(cell: Cell) -> str:
    """What identifies a configuration but for its seeds."""
    config = cell.config.to_dict()
    del config["seed"], config["partition"]["partition_seed"]
    return canonical_json(config)


def _setting(group: Sequence[CellState]) -> Setting | None:
    runs = [state.run for state in group if state.run is not None and state.run.status == DONE]
    if len(runs) < len(group):
        return None
    measure = headline(runs[0].last)
    val = [run.last.get(f"personal_val_{measure.key}", math.nan) for run in runs]
    test = [run.last.get(f"personal_test_{measure.key}", math.nan) for run in runs]
    if not all(map(math.isfinite, val)):
        return None
    return Setting(tuple(group), fmean(val), _std(val), fmean(test), _std(test), measure=measure)


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def differing(found: Sequence[CellState], code: str) -> list[RunRow]:
    """The finished runs that were played with other code of fltk than `code` (its digest), but the same method."""
    done = [state.run for state in found if state.run is not None and state.state == DONE]
    return [run for run in done if run.git.get("core_sha256") != code]


def shown_numbers(run: RunRow | None) -> dict[str, Any]:
    """The headline measure of a run's last round on validation and test data."""
    last: Mapping[str, Any] = {} if run is None else run.last
    key = headline(last).key
    return {"val": last.get(f"personal_val_{key}"), "test": last.get(f"personal_test_{key}")}
