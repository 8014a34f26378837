"""One number per run, by name: of its last evaluation (`deployed`, `personal.worst10`) or its last round.

deployed            headline measure of the deployed model in the last evaluation, mean over clients
deployed.worst10    another column of `fltk evaluate`, by its name with or without the measure (acc_)
personal_test_acc   what the last round recorded
personal_test_acc.worst10   a statistic of that round's per-client values
rounds_to_target    a number of the whole course, see `convergence`
map_group_share     a number of the last collaboration map, see `maps`
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk import metrics
from fltk.errors import FltkError, UsageError
from fltk.evaluation.convergence import COURSES, courses, no_course
from fltk.evaluation.maps import MAPS, of_maps
from fltk.evaluation.robustness import attackers
from fltk.metrics.metric_names import higher_is_better
from fltk.names import DEPLOYMENTS
from fltk.objectives import ACCURACY, MEASURES, Measure, headline
from fltk.objectives.measures import measure_of
from fltk.registry import EvaluationRow, RunRow, Store

Floats = npt.NDArray[np.float64]

STATISTICS = {
    "mean": (metrics.acc_mean, "mean over clients"),
    "worst10": (metrics.acc_worst10, "mean of the worst tenth of the clients"),
    "best10": (metrics.acc_best10, "mean of the best tenth of the clients"),
    "min": (metrics.acc_min, "worst client"),
    "std": (metrics.acc_std, "standard deviation over clients"),
    "jain": (metrics.jain, "Jain's index over clients"),
}
# Those that look at one end of the clients.
ENDS = {"worst10": metrics.acc_worst10, "best10": metrics.acc_best10, "min": metrics.acc_min}
# What only an evaluation has, because it knows more than the vector of accuracies.
EVALUATED = {
    "weighted": "mean over clients, weighted by their test samples",
    "val_mean": "mean over clients on validation data",
    "gain_vs_local": "gain against local training, mean over clients",
    "harmed": "share of clients that lose against local training",
}
# What an evaluation stored before it could be asked for.
_ASKED = {"deploy_prior": "0", "deploy_w": "1", "deploy_own": "0"}
DERIVED: Mapping[str, str] = {**COURSES, **MAPS}  # numbers that are worked out when they are asked for
DEPLOYED = "deployed"


@dataclass(frozen=True)
class Metric:
    """A number that runs have. `source` is a model of an evaluation (`evaluated`) or what a round recorded.

    `statistic` is empty for a round's own scalar.
    """

    source: str
    statistic: str
    evaluated: bool
    measure: Measure = ACCURACY  # the headline of the runs

    @property
    def name(self) -> str:
        """As one types it."""
        return f"{self.source}.{self.statistic}" if self.statistic else self.source

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        if self.evaluated or self.source == "auc_rounds":
            lower = self.statistic in ("std", "harmed")
            towards_zero = not self.measure.higher_is_better and self.statistic not in ("jain", "gain_vs_local")
            return not (lower or towards_zero)
        return higher_is_better(self.name)

    @property
    def vector(self) -> str:
        """The per-client measure behind the number."""
        return f"{self.source}_test_{self.measure.key}" if self.evaluated else self.source

    @property
    def per_client(self) -> bool:
        """Whether the number is a mean over clients, so that clients can be paired to compare it."""
        return self.statistic in ("", "mean")

    @property
    def accuracy(self) -> bool:
        """Whether it is a share of right answers, which may be written as percent."""
        if self.evaluated:
            return self.statistic == "harmed" or (self.measure.fraction and self.statistic != "jain")
        return self.statistic != "jain" and self.source.endswith("_acc")

    @property
    def description(self) -> str:
        """In words."""
        if self.source in DERIVED:
            return DERIVED[self.source]
        words = {name: text for name, (_, text) in STATISTICS.items()} | EVALUATED
        over = words.get(self.statistic, self.statistic)
        if not self.evaluated:
            return f"last round{', ' + over if over else ''}"
        what = "" if self.statistic in ("val_mean", "gain_vs_local", "harmed") else f"test {self.measure.title}, "
        return f"{what}{over}, {self.source} model of the last evaluation"


@dataclass(frozen=True)
class Reading:
    """The metric of every run that has it, and what a reader should know about how it came about."""

    metric: Metric
    values: Mapping[int, float]  # run -> number, finite
    notes: tuple[str, ...]
    never: frozenset[int] = frozenset()  # runs that do not reach the target of a DERIVED number


def read(store: Store, runs: Sequence[RunRow], name: str | None) -> Reading:
    """The metric `name` of the runs; without a name that of `choose`. FltkError when no run has it."""
    evaluations: dict[int, EvaluationRow] = {}
    recorded = {key for run in runs for key in run.last}
    if name is None or _split(name)[0] not in recorded:
        evaluations = store.last_evaluations(run.id for run in runs)
    metric = choose(runs, evaluations) if name is None else _named(name, runs, evaluations)

    found = _found(store, runs, metric, evaluations)
    values: dict[int, float] = {}
    never = set()
    for number, value in found.items():
        if value is not None and math.isfinite(value):
            values[number] = value
        elif value == math.inf and metric.source in DERIVED:
            never.add(number)
    if not values:
        why = f": {no_course(runs, metric.source)}" if metric.source in COURSES else ""
        raise FltkError(f"--metric: none of these runs has a value of {metric.name}{why}")

    notes = _evaluation_notes(runs, evaluations) if metric.evaluated else ()
    return Reading(metric, values, (*notes, *_missing(runs, values, metric)), frozenset(never))


def _found(
    store: Store, runs: Sequence[RunRow], metric: Metric, evaluations: Mapping[int, EvaluationRow]
) -> Mapping[int, float | None]:
    """The number of every run, None where it has none: derived from the rounds, evaluated, or of the last round."""
    if metric.source in COURSES:
        return courses(store, runs, metric.source)
    if metric.source in DERIVED:
        return of_maps(store, runs, metric.source)
    if metric.evaluated:
        return {number: _of_evaluation(row, metric) for number, row in evaluations.items()}
    return _of_round(store, runs, metric)


def choose(runs: Sequence[RunRow], evaluations: Mapping[int, EvaluationRow]) -> Metric:
    """The headline measure of deployed models where all runs have it, otherwise of personal ones in the last round."""
    measure = common(runs)
    deployed = Metric(DEPLOYED, "mean", True, measure)
    if all(run.id in evaluations and _of_evaluation(evaluations[run.id], deployed) is not None for run in runs):
        return deployed
    return Metric(f"personal_test_{measure.key}", "", False, measure)


def common(runs: Iterable[RunRow]) -> Measure:
    """The headline measure of all runs; UsageError where they have different ones, which no table can hold together."""
    found = {headline(run.last).key: headline(run.last) for run in runs if run.last}
    if len(found) > 1:
        titles = " and ".join(measure.title for measure in found.values())
        raise UsageError(f"these runs are scored by {titles}, which cannot be compared: choose runs of one --dataset")
    return next(iter(found.values()), ACCURACY)


def client_values(store: Store, runs: Sequence[RunRow], metric: Metric) -> dict[int, Floats]:
    """The per-client values (N,) behind the metric, NaN for malicious clients; runs without them are absent."""
    if metric.source in DERIVED:
        return {}
    if metric.evaluated:
        rows = store.last_evaluations((run.id for run in runs), [metric.vector])
        found = {
            number: metrics.without(row.clients[metric.vector], row.summary.get("malicious", ()))
            for number, row in rows.items()
            if metric.vector in row.clients
        }
    else:
        found = _last_vectors(store, runs, metric)
    return {number: np.asarray(values, np.float64) for number, values in found.items()}


def _split(name: str) -> tuple[str, str]:
    """Source and statistic; a source may hold points itself."""
    source, _, statistic = name.rpartition(".")
    for key in MEASURES:
        statistic = statistic.removeprefix(f"{key}_")
    known = source and (statistic in STATISTICS or statistic in EVALUATED)
    return (source, statistic) if known else (name, "")


def _named(name: str, runs: Sequence[RunRow], evaluations: Mapping[int, EvaluationRow]) -> Metric:
    """The metric of that name; UsageError with near names where there is none."""
    measure = common(runs)
    if name in DERIVED:
        return Metric(name, "", False, measure)
    source, statistic = _split(name)
    recorded = {key for run in runs for key in run.last}
    models = _models(evaluations)
    if source in models:
        return Metric(source, statistic or "mean", True, measure)
    if source in recorded and statistic not in EVALUATED:
        return Metric(source, statistic, False, measure)
    raise _no_metric(name, runs, models, recorded)


def _models(evaluations: Mapping[int, EvaluationRow]) -> set[str]:
    """The names of all models that were evaluated."""
    names = set()
    for found in evaluations.values():
        for row in found.summary.get("rows", []):
            if "model" in row:
                names.add(str(row["model"]))
    return names


def _no_metric(name: str, runs: Sequence[RunRow], models: set[str], recorded: set[str]) -> UsageError:
    """Why there is no metric of that name, and what would help."""
    source, statistic = _split(name)
    if not models and source in (DEPLOYED, "personal", "global", *DEPLOYMENTS):
        refs = " ".join(f"run{run.id}" for run in runs[:5]) + (" ..." if len(runs) > 5 else "")
        return UsageError(f"--metric {name}: none of these runs is evaluated; `fltk evaluate {refs}` does that")
    if source in recorded:
        return UsageError(f"--metric {name}: only evaluated models have {statistic}; try deployed.{statistic}")

    known = sorted(models | recorded | set(DERIVED))
    close = get_close_matches(source, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"
    return UsageError(f"--metric: none of these runs has {source!r}; {hint}")


def _of_evaluation(found: EvaluationRow, metric: Metric) -> float | None:
    row: Mapping[str, Any]
    row = next((r for r in found.summary.get("rows", []) if r.get("model") == metric.source), {})
    value = row.get(f"{metric.measure.key}_{metric.statistic}", row.get(metric.statistic))
    return None if value is None else float(value)


def _of_round(store: Store, runs: Sequence[RunRow], metric: Metric) -> dict[int, float | None]:
    if not metric.statistic:
        return {run.id: run.last.get(metric.source) for run in runs}
    vectors = _last_vectors(store, runs, metric)
    return {number: statistic(values, metric) for number, values in vectors.items()}


def statistic(values: np.ndarray[Any, Any], metric: Metric) -> float:
    """A statistic of per-client values (N,); which end is the worst depends on the measure."""
    taken, _ = STATISTICS[metric.statistic]
    numbers = values.astype(np.float64)
    if metric.statistic not in ENDS:
        return taken(numbers)
    direction = measure_of(metric.source)
    if direction is None:  # a loss, or a number of a method
        direction = replace(ACCURACY, higher_is_better=higher_is_better(metric.source))
    return ENDS[metric.statistic](numbers, direction)


def _last_vectors(store: Store, runs: Sequence[RunRow], metric: Metric) -> dict[int, np.ndarray[Any, Any]]:
    """What the last round recorded of every client, NaN for malicious ones."""
    found, by_id = store.last_vectors((run.id for run in runs), metric.vector), {run.id: run for run in runs}
    return {k: metrics.without(values, attackers(by_id[k].config, len(values))) for k, values in found.items()}


def _evaluation_notes(runs: Sequence[RunRow], evaluations: Mapping[int, EvaluationRow]) -> tuple[str, ...]:
    """Evaluations that were not made alike."""
    notes = []
    early = [run for run in runs if run.id in evaluations and evaluations[run.id].round != run.rounds_done]
    if early:
        shown = ", ".join(f"run{r.id} after round {evaluations[r.id].round} of {r.rounds_done}" for r in early[:5])
        notes.append(f"evaluated before the last round: {shown}{_more(early, 5)}")
    asked: dict[str, int] = {}
    for found in evaluations.values():
        told = _ASKED | {k: v for k, v in found.summary.items() if k not in ("rows", "rounds", "chosen", "malicious")}
        text = ", ".join(f"{key} {value}" for key, value in sorted(told.items()))
        asked[text] = asked.get(text, 0) + 1
    if len(asked) > 1:
        notes.append("evaluated in different ways: " + "; ".join(f"{text} ({n} runs)" for text, n in asked.items()))
    return tuple(notes)


def _missing(runs: Sequence[RunRow], values: Mapping[int, float], metric: Metric) -> tuple[str, ...]:
    without = [run for run in runs if run.id not in values]
    if not without:
        return ()
    shown = ", ".join(f"run{run.id}" for run in without[:8])
    return (f"no finite value of {metric.name}: {shown}{_more(without, 8)}",)


def _more(items: Sequence[Any], shown: int) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
