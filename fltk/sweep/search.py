"""Search on validation accuracy with Optuna: for each method on each federation, one study over the distributions.

The value of a trial is the mean validation accuracy of the last round over the seeds. Studies live in an SQLite file of
their own beside the registry, since Optuna and fltk each keep their own tables; the runs live in the registry.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fltk.config import canonical_json
from fltk.data.dataset import stream
from fltk.errors import FltkError, UsageError
from fltk.experiment import Place
from fltk.registry import Store
from fltk.sweep.cells import Cell, cell, combinations
from fltk.sweep.grid import Block, Draw, Plan, Value, rounded
from fltk.sweep.state import DONE, VALIDATION, run_of

PLAYED = "played"  # marks a failed trial that counts, unlike one that was abandoned


@dataclass(frozen=True)
class Point:
    """One study: a method and one combination of its lists, but for the seeds, over which trials are averaged."""

    block: Block
    values: Mapping[str, Value]

    @property
    def seeds(self) -> tuple[Value, ...]:
        return self.block.lists["seed"]

    def name(self, plan: Plan) -> str:
        """Equal for an equal search, whatever its number of trials."""
        draws = {key: [draw.kind, *draw.values] for key, draw in self.block.draws.items()}
        content = [self.block.method, dict(self.values), draws, list(self.seeds), plan.draw_seed]
        return f"{plan.name}/{self.block.method}/{hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]}"

    def cells(self, plan: Plan, place: Place, drawn: Mapping[str, Value]) -> list[Cell]:
        """The cells of one trial, one for each seed."""
        return [cell(plan, self.block.method, {**self.values, **drawn, "seed": s}, place) for s in self.seeds]


def search(plan: Plan, place: Place, store: Store, jobs: int, play: Callable[[Sequence[Cell]], None]) -> list[Cell]:
    """Play trials until each study has as many as the file asks for; returns the cells of all of them.

    Trials that a killed sweep left open are played again first, with the same values.
    """
    for point in _points(plan):
        study = _study(plan, point, store)
        _reopen(study)
        while (left := plan.trials - _counted(study)) > 0:
            width = min(left, max(1, jobs // len(point.seeds)))
            trials = [study.ask() for _ in range(width)]
            asked = [point.cells(plan, place, _suggested(trial, point.block.draws)) for trial in trials]
            play([one for group in asked for one in group])
            for trial, group in zip(trials, asked, strict=True):
                _tell(study, trial, [_value(store, one) for one in group])
    return begun(plan, place, store)


def begun(plan: Plan, place: Place, store: Store) -> list[Cell]:
    """The cells of all trials so far, each once."""
    found: dict[str, Cell] = {}
    if not _path(store).exists():
        return []
    for point in _points(plan):
        for trial in _study(plan, point, store).get_trials(deepcopy=False):
            if trial.params.keys() == point.block.draws.keys():
                drawn = {key: _typed(draw, trial.params[key]) for key, draw in point.block.draws.items()}
                found |= {one.digest: one for one in point.cells(plan, place, drawn)}
    return list(found.values())


def _points(plan: Plan) -> Iterator[Point]:
    """The studies of a plan; methods that have nothing to search for are played like a grid."""
    for block in plan.blocks:
        if not block.draws:
            continue
        if 0 in block.lists.get("partition.val_share", ()):
            raise UsageError(f"{plan.path}: [search] needs validation data; raise val_share above 0")
        lists = {key: values for key, values in block.lists.items() if key != "seed"}
        for values in combinations(lists):
            yield Point(block, values)


def _path(store: Store) -> Any:
    return store.artifact_folder.with_suffix(".optuna.db")


def _study(plan: Plan, point: Point, store: Store) -> Any:
    """The study of a point, made when it is new."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise FltkError(f"{plan.path}: [search] needs Optuna: pip install 'fltk[optuna]' ({error})") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=point.name(plan), storage=f"sqlite:///{_path(store)}", direction="maximize", load_if_exists=True
    )
    # A sampler that began with the same seed again would ask for the first trials again. The liar keeps trials that are
    # played at once from all going to the same place.
    seed = stream(plan.draw_seed, "sweep/search", len(study.get_trials(deepcopy=False))).integers(2**31)
    study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
    return study


def _reopen(study: Any) -> None:
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.params:
            study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)


def _counted(study: Any) -> int:
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum(t.state == TrialState.COMPLETE or bool(t.user_attrs.get(PLAYED)) for t in trials)


def _suggested(trial: Any, draws: Mapping[str, Draw]) -> dict[str, Value]:
    values = {}
    for key, draw in draws.items():
        if draw.kind == "choice":
            value = trial.suggest_categorical(key, list(draw.values))
        elif draw.kind == "integers":
            value = trial.suggest_int(key, *draw.values)
        else:
            value = trial.suggest_float(key, *draw.values, log=draw.kind == "log_uniform")
        values[key] = _typed(draw, value)
    return values


def _typed(draw: Draw, value: Any) -> Value:
    typed: Value = rounded(value) if draw.kind in ("uniform", "log_uniform") else value
    return typed


def _value(store: Store, one: Cell) -> float:
    run = run_of(store, one)
    return run.last.get(VALIDATION, math.nan) if run is not None and run.status == DONE else math.nan


def _tell(study: Any, trial: Any, values: Sequence[float]) -> None:
    from optuna.trial import TrialState

    if all(map(math.isfinite, values)):
        study.tell(trial, fmean(values))
    else:
        trial.set_user_attr(PLAYED, True)
        study.tell(trial, state=TrialState.FAIL)
