"""Search on validation data with Optuna: for each method on each federation, one study over the distributions.

The value of a trial is the mean of the headline measure on validation data in the last round over the seeds, negative
where less is better. Studies live in an SQLite file of
their own beside the registry, or where the file's `storage` says, since Optuna and fltk each keep their own tables; the
runs live in the registry.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fltk.config import canonical_json
from fltk.data.dataset import stream
from fltk.errors import FltkError, UsageError
from fltk.evaluation.comparison_table import differing_keys, written
from fltk.experiment import Place
from fltk.objectives import headline
from fltk.registry import Store
from fltk.sweep.cells import Cell, cell, combinations
from fltk.sweep.grid import Block, Draw, Plan, Value, rounded
from fltk.sweep.state import DONE, run_of

ENOUGH = 4  # finished trials, for the importance of settings
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


@dataclass(frozen=True)
class Trial:
    """One trial of a study. `value`: mean over the seeds, larger is better; None while it is open or if it failed.

    number: from 0, as Optuna counts, open and abandoned trials included.
    """

    number: int
    params: Mapping[str, Value]
    value: float | None


@dataclass(frozen=True)
class Study:
    """A study as it stands.

    label: its method, and its settings where the method has several studies.  asked, over: how many trials the
    file wants, and how many are over.
    importance: of each searched setting the share of the variance of the values that it explains (fANOVA); empty for
    fewer than `ENOUGH` finished trials, or equal ones.  name, storage: how Optuna and optuna-dashboard find it.
    """

    label: str
    asked: int
    over: int
    trials: tuple[Trial, ...]
    importance: Mapping[str, float]
    name: str
    storage: str

    @property
    def done(self) -> list[Trial]:
        """The finished trials that have a value."""
        return [trial for trial in self.trials if trial.value is not None]

    @property
    def best(self) -> Trial | None:
        """The finished trial with the highest value, the first of equal ones."""
        return max(self.done, key=lambda trial: -math.inf if trial.value is None else trial.value, default=None)


def search(
    plan: Plan,
    place: Place,
    store: Store,
    jobs: int,
    play: Callable[[Sequence[Cell]], None],
    heard: Callable[[Study, Trial], None] = lambda study, trial: None,
) -> list[Cell]:
    """Play trials until each study has as many as the file asks for; returns the cells of all of them.

    Trials that a killed sweep left open are played again first, with the same values. `heard` is told of every trial
    when it is over.
    """
    for point, label in _labelled(plan):
        study = _study(plan, point, store)
        _reopen(study)
        while (left := plan.trials - _counted(study)) > 0:
            width = min(left, max(1, jobs // len(point.seeds)))
            trials = [study.ask() for _ in range(width)]
            asked = [point.cells(plan, place, _suggested(trial, point.block.draws)) for trial in trials]
            play([one for group in asked for one in group])
            for trial, group in zip(trials, asked, strict=True):
                _tell(study, trial, [_value(store, one) for one in group])
                seen = _seen(plan, point, label, study, _storage(plan, store), weigh=False)
                heard(seen, next(one for one in seen.trials if one.number == trial.number))
    return begun(plan, place, store)


def asked(plan: Plan) -> int:
    """How many cells the trials of a search come to."""
    return sum(plan.trials * len(point.seeds) for point in _points(plan))


def begun(plan: Plan, place: Place, store: Store) -> list[Cell]:
    """The cells of all trials so far, each once."""
    found: dict[str, Cell] = {}
    if _unopened(_storage(plan, store)):
        return []
    for point in _points(plan):
        for trial in _study(plan, point, store).get_trials(deepcopy=False):
            if trial.params.keys() == point.block.draws.keys():
                found |= {one.digest: one for one in point.cells(plan, place, _drawn(point, trial))}
    return list(found.values())


def studies(plan: Plan, store: Store) -> list[Study]:
    """The studies of a search as they stand; none where it has not begun."""
    storage = _storage(plan, store)
    if _unopened(storage):
        return []
    return [
        _seen(plan, point, label, _study(plan, point, store), storage, weigh=True) for point, label in _labelled(plan)
    ]


def _seen(plan: Plan, point: Point, label: str, study: Any, storage: str, *, weigh: bool) -> Study:
    """An Optuna study in plain data; `weigh`: with the importance of its settings."""
    trials = []
    for trial in study.get_trials(deepcopy=False):
        if trial.params.keys() == point.block.draws.keys():
            trials.append(Trial(trial.number, _drawn(point, trial), trial.value))
    importance = _importance(study) if weigh else {}
    return Study(label, plan.trials, _counted(study), tuple(trials), importance, study.study_name, storage)


def _importance(study: Any) -> dict[str, float]:
    """Setting -> share of the variance of the finished trials' values that it explains."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < ENOUGH or len(set(values)) == 1:
        return {}
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {str(key): float(share) for key, share in found.items()}


def _drawn(point: Point, trial: Any) -> dict[str, Value]:
    """The values of a trial, as its cells have them."""
    return {key: _typed(draw, trial.params[key]) for key, draw in point.block.draws.items()}


def _labelled(plan: Plan) -> list[tuple[Point, str]]:
    """The studies of a plan, each with its method and those of its settings that tell it from the others."""
    points = list(_points(plan))
    differing = differing_keys([dict(point.values) for point in points])
    found = []
    for point in points:
        words = [f"{key.rpartition('.')[2]}={written(point.values[key])}" for key in differing if key in point.values]
        found.append((point, " ".join([point.block.method, *words])))
    return found


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


def _storage(plan: Plan, store: Store) -> str:
    """Where the trials are kept, as a URL that Optuna and optuna-dashboard open."""
    return plan.storage or f"sqlite:///{store.artifact_folder.with_suffix('.optuna.db')}"


def _unopened(storage: str) -> bool:
    """Whether it is a file that no search has made yet: looking must not make it."""
    scheme, _, path = storage.partition(":///")
    return scheme == "sqlite" and not Path(path).exists()


def _study(plan: Plan, point: Point, store: Store) -> Any:
    """The study of a point, made when it is new."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise FltkError(f"{plan.path}: [search] needs Optuna: pip install 'fltk[optuna]' ({error})") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            study_name=point.name(plan), storage=_storage(plan, store), direction="maximize", load_if_exists=True
        )
    except Exception as error:  # whatever a driver of a database raises; the URL may hold a password
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FltkError(f"{plan.path} [search]: its storage cannot be opened: {reason}") from None
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
    """The run's last value on validation data as Optuna maximises it: an error with its sign turned."""
    run = run_of(store, one)
    if run is None or run.status != DONE:
        return math.nan
    measure = headline(run.last)
    return measure.gain(run.last.get(f"personal_val_{measure.key}", math.nan), 0.0)


def _tell(study: Any, trial: Any, values: Sequence[float]) -> None:
    from optuna.trial import TrialState

    if all(map(math.isfinite, values)):
        study.tell(trial, fmean(values))
    else:
        trial.set_user_attr(PLAYED, True)
        study.tell(trial, state=TrialState.FAIL)
