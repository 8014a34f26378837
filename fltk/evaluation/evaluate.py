"""Evaluation of a stored run: every client, personal and global model, before and after local steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fltk import metrics
from fltk.config import TrainConfig, build
from fltk.engine.base import Engine, Job
from fltk.errors import UsageError
from fltk.evaluation.deploy import Deployment, DeployTask, choose, deploy_client
from fltk.objectives import ACCURACY, Measure, headline
from fltk.objectives.base import headline_of
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.registry import RunRow, Store
from fltk.rounds.loop import in_turns, measured, score
from fltk.train.own_step import Candidate, choice_of

Vectors = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Evaluation:
    """Rows of a table (one per model and moment) and the per-client vectors behind them.

    Rows, and how often each candidate was chosen, are of benign clients only; vectors are of everybody.
    """

    round: int
    deploy: Deployment
    rows: list[dict[str, Any]]
    clients: Vectors
    chosen: dict[str, int]  # candidate -> number of clients that deploy it
    rounds: dict[str, Any] = field(default_factory=dict)  # last, selected and best round
    malicious: tuple[int, ...] = ()
    measure: Measure = ACCURACY  # the headline of the objective

    @property
    def undecided(self) -> bool:
        """Whether there was something to choose, and no client with validation data to choose by."""
        modes = ("vote", "client")
        several = sum(self.deploy.mode in (*modes, c.kind) for c in self.deploy.candidates()) > 1
        known = metrics.without(self.clients[f"deployed_val_{self.measure.key}"], self.malicious)
        return several and not bool(np.isfinite(known).any())

    def summary(self) -> dict[str, Any]:
        """What the registry stores beside the vectors."""
        found = {**self.deploy.asked(), "chosen": self.chosen, "rows": self.rows, "rounds": self.rounds}
        return found | ({"malicious": list(self.malicious)} if self.malicious else {})


def evaluate(job: Job, task: Task, engine: Engine, round: int, state: State, deploy: Deployment) -> Evaluation:
    """Score a state on all clients and all candidates of a deployment, which is decided on validation data.

    round: finished rounds of the state. Local steps take the random streams and the learning rate of the last of them,
    so that the personal model scores as it did in training; a cosine schedule has no rate left for one more round.
    """
    counts = np.array([len(c.test) for c in job.federation.clients], np.float64)
    objective = job.federation.objective
    measure = headline_of(objective)
    if deploy.prior != "0" and not objective.softmax:
        raise UsageError(f"--deploy-prior {deploy.prior}: {objective.name} has no class labels; use 0")
    _, vectors = measured(score(job.method, engine, task, state, round - 1))
    candidates = deploy.candidates()
    names = [c.name for c in candidates]
    found = _tried(candidates, job, task, engine, round - 1, state)
    bad = () if job.campaign is None else job.campaign.malicious
    # a malicious client has no vote on what benign ones deploy
    values = {name: metrics.without(found[f"{name}_val_{measure.key}"], bad) for name in names}
    losses = {name: found[f"{name}_val_loss"] for name in names}
    chosen = choose(candidates, values, losses, deploy.mode, measure)

    clients: Vectors = {**vectors, **found, **_deployed(found, chosen, tuple(objective.measures))}
    rows = []
    for name in ("deployed", "personal", "global", *names):
        if f"{name}_test_{measure.key}" in clients:
            rows.append(_row(name, clients, counts, measure, bad))
    good = [c for k, c in enumerate(chosen) if k not in bad]
    votes = {name: good.count(name) for name in names if name in good}
    return Evaluation(round, deploy, rows, clients, votes, malicious=bad, measure=measure)


def _deployed(found: Vectors, chosen: Sequence[str], measures: Sequence[str]) -> Vectors:
    """Every measure of what each client deploys, by `deployed_{val|test}_{measure}`."""
    clients: Vectors = {}
    for key in measures:
        for part in ("val", "test"):
            values = [found[f"{name}_{part}_{key}"][k] for k, name in enumerate(chosen)]
            clients[f"deployed_{part}_{key}"] = np.array(values)
    return clients


def _tried(candidates: Sequence[Candidate], job: Job, task: Task, engine: Engine, round: int, state: State) -> Vectors:
    """Measures and loss of every candidate, by `{candidate}_{val|test}_{acc|loss}`, one value per client."""
    choice = choice_of(state.server)

    def tried(ids: range) -> list[Any]:
        models = zip(ids, job.method.personal_model(state, ids, task), strict=True)
        tasks = [DeployTask(round, i, w, tuple(candidates), choice) for i, w in models]
        return engine.map(deploy_client, tasks, [int(task.n[i]) for i in ids])

    results = [result for ids in in_turns(task) for result in tried(ids)]
    found: Vectors = {}
    for c in (c.name for c in candidates):
        for k, part in enumerate(("val", "test")):
            for key in job.federation.objective.measures:
                found[f"{c}_{part}_{key}"] = np.array([r[c][k].values[key] for r in results])
            found[f"{c}_{part}_loss"] = np.array([r[c][k].loss for r in results])
    return found


def _row(
    name: str, clients: Vectors, counts: np.ndarray[Any, Any], measure: Measure, malicious: Sequence[int] = ()
) -> dict[str, Any]:
    validation = metrics.without(clients[f"{name}_val_{measure.key}"], malicious)
    test = metrics.without(clients[f"{name}_test_{measure.key}"], malicious)
    known = bool(np.isfinite(validation).any())
    return {
        "model": name,
        **metrics.summary(test, counts, measure=measure),
        "val_mean": float(np.nanmean(validation.astype(np.float64))) if known else math.nan,
    }


def round_choices(store: Store, run: RunRow, malicious: Sequence[int] = ()) -> dict[str, Any]:
    """Test values at the last round, at the round chosen on validation data, and at the best round in hindsight.

    Where there are malicious clients, of the benign ones.
    """
    scalars = store.scalars(run.id)
    measure = headline(scalars)
    on_test, on_validation = f"personal_test_{measure.key}", f"personal_val_{measure.key}"
    if on_test not in scalars:
        return {}
    if malicious:
        keys = {on_test, on_validation} & {*store.client_keys(run.id)}
        scalars = {key: _benign(store, run, key, malicious) for key in keys}
    rounds, test = scalars[on_test]
    found: dict[str, Any] = {"last": _at(rounds, test, len(rounds) - 1, measure)}
    if on_validation in scalars:
        chosen = metrics.selected_round(*scalars[on_validation], measure)
        if chosen is not None:
            found["selected_on_validation"] = _at(rounds, test, int(np.flatnonzero(rounds == chosen)[0]), measure)
    if np.isfinite(test).any():
        best = np.nanargmax(test) if measure.higher_is_better else np.nanargmin(test)
        found["best_on_test_in_hindsight"] = _at(rounds, test, int(best), measure)
    return found


def _at(
    rounds: Sequence[int] | np.ndarray[Any, Any], values: np.ndarray[Any, Any], k: int, measure: Measure
) -> dict[str, float]:
    return {"round": int(rounds[k]), f"{measure.key}_mean": float(values[k])}


def _benign(store: Store, run: RunRow, key: str, malicious: Sequence[int]) -> tuple[Any, np.ndarray[Any, Any]]:
    """Rounds, and the mean of a per-client measure over benign clients in each."""
    rounds, values = store.client_values(run.id, key)
    return rounds, np.array([metrics.acc_mean(row) for row in metrics.without(values, malicious)])


def references(store: Store, run: RunRow) -> list[RunRow]:
    """Finished runs of `local` and `fedavg-ft` on the same partition with the same training set-up and seed.

    `local` averages nothing, so its run serves whatever `--head-mix` is; how often a run was evaluated matters to none.
    """
    wanted: TrainConfig = build(TrainConfig, run.config["train"]).training
    same = []
    for method in ("local", "fedavg-ft"):
        for other in reversed(store.runs(method=method, status="done")):
            if (
                other.id != run.id
                and other.kind == "train"
                and other.partition_id == run.partition_id
                and other.seed == run.seed
                and _setup(other, method, wanted) == wanted
            ):
                same.append(other)
                break
    return same


def _setup(run: RunRow, method: str, wanted: TrainConfig) -> TrainConfig:
    train: TrainConfig = build(TrainConfig, run.config["train"]).training
    return replace(train, head_mix=wanted.head_mix) if method == "local" else train


def against_local(store: Store, run: RunRow, done: Evaluation) -> list[dict[str, Any]]:
    """The rows with gain and harm against `local` on the same partition, where the registry has it finished."""
    local = next((r for r in references(store, run) if r.method == "local"), None)
    if local is None or run.method == "local":
        return done.rows
    measure = done.measure
    alone = store.client_values(local.id, f"personal_test_{measure.key}")[1][-1]
    known = metrics.without(alone, done.malicious)
    rows = []
    for row in done.rows:
        own = done.clients[f"{row['model']}_test_{measure.key}"]
        gain, harm = metrics.gain_vs_local(own, known, measure), metrics.harmed(own, known, measure)
        rows.append({**row, "gain_vs_local": gain, "harmed": harm})
    return rows
