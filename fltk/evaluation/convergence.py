"""How fast runs learn: numbers of a whole course of training instead of its last round.

auc_rounds          mean of the headline measure on validation data over the evaluated rounds: the area under the curve
rounds_to_target    first round at which its mean over the last five rounds reaches the target
bytes_to_target     bytes that all clients have sent and received until then
seconds_to_target   seconds of training, averaging and evaluation until then

The target is 95 % of what `fedavg-ft` ends with on the same partition, with the same seed and training set-up; of an
error, where less is better, it is 1/0.95 of that. Where a learning rate or another setting of the optimiser was tuned
for each method, it is that of the only run of `fedavg-ft` with the same budget. A run that never reaches its target is
infinitely late; one that has no such run among those compared has no value. Validation data only: nothing here looks at
test data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk.config import canonical_json
from fltk.evaluation.comparison_table import OPTIMISER
from fltk.objectives import ACCURACY, Measure, headline
from fltk.registry import RunRow, Store

REFERENCE, SHARE, WINDOW = "fedavg-ft", 0.95, 5
COURSES: Mapping[str, str] = {
    "auc_rounds": "headline measure on validation data, mean over the evaluated rounds",
    "rounds_to_target": f"first round with {SHARE:.0%} of what {REFERENCE} ends with on validation data",
    "bytes_to_target": f"bytes until {SHARE:.0%} of what {REFERENCE} ends with on validation data",
    "seconds_to_target": f"seconds until {SHARE:.0%} of what {REFERENCE} ends with on validation data",
}

Course = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]  # rounds (R,), ascending, and values (R,)
Conditions = tuple[int | None, int, str]  # partition, seed, training


def courses(store: Store, runs: Sequence[RunRow], name: str) -> dict[int, float | None]:
    """The number `name` of each run; None where it has none, inf where it never reaches its target."""
    target_of = _targets(runs)
    found: dict[int, float | None] = {}
    for run in runs:
        series, measure = store.scalars(run.id), headline(run.last)
        course, target = series.get(_key(run)), target_of(run)
        if course is None:
            found[run.id] = None
        elif name == "auc_rounds":
            found[run.id] = float(course[1].mean())
        else:
            reached = None if target is None else first_reach(course, target, measure)
            late = None if target is None else math.inf
            found[run.id] = late if reached is None else _price(series, name, reached)
    return found


def no_course(runs: Sequence[RunRow], name: str) -> str:
    """Why none of the runs has the number `name`."""
    if not any(_key(run) in run.last for run in runs):
        return "they have no validation data; train with --val-share above 0"
    target = f"the target is {SHARE:.0%} of what {REFERENCE} ends with on the same partition, with the same training"
    if not any(_is_reference(run) for run in runs):
        return f"{target}; train {REFERENCE} there and compare it with them"
    return f"{target}, and the mean of {WINDOW} rounds never reaches it"


def first_reach(course: Course, target: float, measure: Measure = ACCURACY) -> int | None:
    """The first round, from the fifth on, at which the values of the last five rounds average to the target."""
    rounds, values = course
    for last in rounds[rounds >= WINDOW].tolist():
        inside = (rounds > last - WINDOW) & (rounds <= last)
        if measure.gain(float(values[inside].mean()), target) >= 0:
            return int(last)
    return None


def _price(series: Mapping[str, Course], name: str, reached: int) -> float:
    if name == "rounds_to_target":
        return float(reached)
    keys = ("bytes_down", "bytes_up") if name == "bytes_to_target" else ("seconds",)
    return float(sum(values[rounds <= reached].sum() for rounds, values in (series[key] for key in keys)))


def _is_reference(run: RunRow) -> bool:
    return run.method == REFERENCE and _key(run) in run.last


def _key(run: RunRow) -> str:
    """The stored name of the run's headline measure on validation data."""
    return f"personal_val_{headline(run.last).key}"


def _target(reference: RunRow) -> float:
    """What a run compared with this one has to reach."""
    last = reference.last[_key(reference)]
    return SHARE * last if headline(reference.last).higher_is_better else last / SHARE


def _targets(runs: Sequence[RunRow]) -> Callable[[RunRow], float | None]:
    """The target of a run: that of the reference with the same training, or of the only one with the same budget."""
    exact: dict[Conditions, float] = {}
    by_budget: dict[Conditions, set[int]] = {}
    ends: dict[int, float] = {}
    for run in runs:
        if _is_reference(run):
            ends[run.id] = _target(run)
            exact[_conditions(run)] = ends[run.id]
            by_budget.setdefault(_conditions(run, without=OPTIMISER), set()).add(run.id)

    def target(run: RunRow) -> float | None:
        found = exact.get(_conditions(run))
        if found is not None:
            return found
        alike = by_budget.get(_conditions(run, without=OPTIMISER), set())
        return ends[min(alike)] if len(alike) == 1 else None

    return target


def _conditions(run: RunRow, without: Collection[str] = ()) -> Conditions:
    """What two runs share whose courses are compared: partition, seed, and the training set-up but for evaluations."""
    train: dict[str, Any] = {}
    for key, value in run.config["train"].items():
        if key != "eval_every" and f"train.{key}" not in without:
            train[key] = value
    return run.partition_id, run.seed, canonical_json(train)
