"""Newcomers join a stored run, after its training or during it; what came of it is stored as a run of kind `join`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from fltk import engine as engines
from fltk import experiment, methods, metrics
from fltk.config import JoinConfig, RunConfig, TrainConfig, build, canonical_json
from fltk.engine.base import Engine, Job, default_model
from fltk.errors import FltkError, UsageError
from fltk.evaluation import join
from fltk.evaluation.join import Array, Newcomer, Tuning
from fltk.evaluation.replay import state_of
from fltk.experiment import OnRound, Place
from fltk.objectives import Measure
from fltk.objectives.base import headline_of
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.registry import RunRow, Store
from fltk.registry.artifacts import ArtifactMissing
from fltk.registry.heartbeat import beating
from fltk.rounds import loop
from fltk.train import own_step

KIND = "join"
NEVER = 10**9  # evaluate every so many rounds

Started = Callable[[int], None]


@dataclass(frozen=True)
class _Case:
    """One call, checked: who joins which state of which run."""

    run: RunRow
    asked: JoinConfig
    job: Job
    task: Task
    ids: list[int]
    shots: tuple[int, ...]
    tuning: Tuning
    round: int  # finished rounds when they join
    base: tuple[int, State] | None  # a stored state at or before that round; None: the start
    notes: list[str]


def join_run(
    run: RunRow,
    store: Store,
    place: Place,
    asked: JoinConfig,
    newcomers: Sequence[int] = (),
    *,
    name: str | None = None,
    origin: Mapping[str, str] | None = None,
    started: Started | None = None,
    on_round: OnRound | None = None,
) -> int:
    """Let newcomers join a run; returns the number of the child run. The run itself is left alone.

    newcomers: ids (default: `asked.share` of all). What is refused is refused before a row is written.
    """
    experiment.require_train(run, "fltk join-new-client")
    config, prepared = experiment.restore(run, store, place)
    job = experiment.job_of(config, prepared.federation, place.device)
    case = _case(run, store, place, job, asked, newcomers)
    engine = engines.make(place.engine, case.job)
    try:
        child = _begin(case, store, place, name, origin)
        with beating(store, child), _attempt(store, child):
            if started:
                started(child)
            _play(case, child, store, place, engine, on_round)
    finally:
        engine.close()
    return child


def _case(run: RunRow, store: Store, place: Place, job: Job, asked: JoinConfig, newcomers: Sequence[int]) -> _Case:
    reason = job.method.cannot.get(KIND)
    if reason:
        raise UsageError(f"{run.label}: --method {run.method} cannot take newcomers in: {reason}")
    ids = join.choose(job.federation, run.label, newcomers, asked.share)
    shots = asked.shot_counts()
    notes = join.check_shots(job.federation, ids, shots)
    if not any(len(job.federation.newcomers[i - len(job.federation.clients)].val) for i in ids):
        notes.append("the newcomers have no validation data, so no fine-tuning is kept")
    base, note = _base(run, store, job, place, asked.at_round)
    notes += [note] if note else []
    task = job.task()
    job.method.check(task)
    round = asked.at_round or (base[0] if base else 0)
    if run.status != "done":
        notes.append(f"{run.label} is {run.status}: they join after round {round} of {job.train.rounds}")
    tuning = Tuning(asked.finetune, asked.epochs, asked.lr or job.train.lr)
    return _Case(run, asked, job, task, ids, shots, tuning, round, base, notes)


def _base(run: RunRow, store: Store, job: Job, place: Place, at_round: int) -> tuple[tuple[int, State] | None, str]:
    """The last state, or the last stored one that is no later than `at_round` (None where only the start is left).

    The text says where weights that are not here were trained again; it is empty where they are.
    """
    if not at_round:
        found = state_of(run, store, job, place)
        return (found.round, found.state), found.note

    rounds = run.config["train"]["rounds"]
    if at_round >= rounds:
        raise UsageError(
            f"--at-round {at_round}: {run.label} has {rounds} rounds and newcomers need one to train in; "
            "leave it out to let them join after the last"
        )
    if at_round > run.rounds_done:
        raise UsageError(f"--at-round {at_round}: {run.label} has come to round {run.rounds_done} so far")
    stored = [c.round for c in store.checkpoints(run.id) if c.round <= at_round]
    if not stored:
        return None, ""
    try:
        return experiment.checkpoint(run, store, max(stored)), ""
    except ArtifactMissing:
        return None, ""


def _begin(case: _Case, store: Store, place: Place, name: str | None, origin: Mapping[str, str] | None) -> int:
    run = case.run
    settings = {
        "finetune": case.tuning.part,
        "epochs": case.tuning.epochs,
        "lr": case.tuning.lr,
        "shots": [join.shots_named(count) for count in case.shots],
        "newcomers": case.ids,
        "round": case.round,
        "train_on": case.asked.at_round > 0,
    }
    config = {**run.config, KIND: settings}
    around, git = experiment.circumstances(place.device)
    return store.begin_run(
        config,
        hashlib.sha256(canonical_json(config).encode()).hexdigest(),
        name=name,
        origin={**run.origin, **(origin or {})},
        parent=run.id,
        kind=KIND,
        partition_id=run.partition_id,
        data_fingerprint=run.data_fingerprint,
        environment=around,
        git=git,
        seed=run.seed,
    )


@contextmanager
def _attempt(store: Store, run: int) -> Iterator[None]:
    """The run is done when the block ends, and stopped or failed, with the reason, when it is left otherwise."""
    store.start_attempt(run)
    try:
        yield
    except KeyboardInterrupt:
        store.finish(run, "interrupted", "stopped by a signal; nothing of it can be resumed")
        raise
    except Exception as error:
        with suppress(FltkError):  # a registry that cannot be written is the error itself; it is told once
            store.finish(run, "failed", " ".join(str(error).split())[:1000])
        raise
    store.finish(run, "done")


def _play(case: _Case, child: int, store: Store, place: Place, engine: Engine, on_round: OnRound | None) -> None:
    """Join, train on where that is asked for, and store."""
    federation, job = case.job.federation, case.job
    state = _state(case, store, engine)
    other, fedavg, note = _fedavg(case, store, place, state)
    during = case.asked.at_round > 0
    found = join.join_all(engine, state, federation, case.ids, case.shots, case.tuning, fedavg=fedavg, keep=during)
    measure = headline_of(federation.objective)
    column = f"test_{measure.key}"
    trained = loop.measured(loop.score(job.method, engine, case.task, state, case.round - 1))[1]
    before = trained.get(f"personal_{column}", np.full(case.task.n_clients, np.nan, np.float32))
    benign = metrics.without(before, malicious(job))
    size = case.task.layout.size
    table = join.arrays(found, case.ids, case.tuning.epochs, size, measure) | {f"participants_{column}": before}
    names = [federation.names[i] for i in case.ids]
    counts = np.array([len(federation.newcomers[i - case.task.n_clients].test) for i in case.ids], np.float64)
    rows = join.table_of(table, case.shots, counts, metrics.acc_mean(benign), size, measure)
    scalars, vectors = _recorded(table, rows, measure)
    store.record_round(child, case.round, scalars, vectors, None, loop.digest(state))
    summary: dict[str, Any] = {
        "rows": rows,
        "newcomers": join.newcomer_rows(table, case.shots, names, measure),
        "participants": metrics.acc_mean(benign),
        "measure": measure.key,
        "reference": None if other is None else other.id,
        "notes": [*case.notes, *_told(found, case.ids), *([note] if note else [])],
    }
    if during:
        last = _train_on(case, child, store, place, state, found[0], on_round)
        more = _after(case, store, last, counts, table[f"scratch_{column}"][0])
        summary |= {**more, "rows": [*rows, *more["rows"]]}
        table[f"end_{column}"] = last
    store.save_evaluation(child, case.round, summary, table)


def _recorded(
    table: Mapping[str, Array], rows: Sequence[Mapping[str, Any]], measure: Measure
) -> tuple[dict[str, float], dict[str, Array]]:
    """Scalars and vectors of the round in which newcomers join, for the largest number of shots."""
    shots = rows[-1]["shots"]
    steps = {row["step"]: row for row in rows if row["shots"] == shots}
    key = measure.key
    means = {step: float(row[f"{key}_mean"]) for step, row in steps.items()}
    scalars = {f"{key}_new": means.pop("joined")}
    scalars |= {f"{key}_new_{step}": mean for step, mean in means.items()}
    scalars["participation_gap"] = float(steps["joined"]["participation_gap"])
    return scalars, {f"new_{step}_test_{key}": table[f"{step}_test_{key}"][-1] for step in steps}


def _told(found: Sequence[Sequence[Newcomer]], ids: Sequence[int]) -> list[str]:
    """What joining had to say, once per text, with the newcomers that it concerns."""
    who: dict[str, list[int]] = {}
    for line in found:
        for i, newcomer in zip(ids, line, strict=True):
            if newcomer.joined.note and i not in who.setdefault(newcomer.joined.note, []):
                who[newcomer.joined.note].append(i)
    return [f"newcomer {', '.join(map(str, some))}: {text}" for text, some in who.items()]


def malicious(job: Job) -> tuple[int, ...]:
    """The run's attackers, which no mean counts."""
    return () if job.campaign is None else tuple(job.campaign.malicious)


# The state to join, and FedAvg beside it


def _state(case: _Case, store: Store, engine: Engine) -> State:
    """The state after `case.round`: stored, or played again from the best earlier one and compared with the record."""
    if case.base is not None and case.base[0] == case.round:
        return case.base[1]
    job = replace(case.job, train=replace(case.job.train, eval_every=NEVER))
    for done in loop.rounds(job, engine, resume=case.base, task=case.task):
        if done.round == case.round:
            break
    if store.digests(case.run.id).get(case.round) != done.digest:
        raise FltkError(
            f"--at-round {case.round}: that round of {case.run.label} comes out otherwise now than it was stored "
            "(changed code or libraries); join at a round with a checkpoint, or train the run again"
        )
    return done.state


def _fedavg(case: _Case, store: Store, place: Place, state: State) -> tuple[RunRow | None, Tensor | None, str]:
    """FedAvg's model after as many rounds: its run, the model (P,), and a note where there is none."""
    run, job = case.run, case.job
    if run.method in ("fedavg", "fedavg-ft"):
        return run, job.method.global_model(state, case.task), ""
    wanted = build(TrainConfig, run.config["train"])
    for method in ("fedavg", "fedavg-ft"):
        for other in reversed(store.runs(method=method, status="done")):
            same = other.kind == "train" and other.partition_id == run.partition_id and other.seed == run.seed
            if not same or build(TrainConfig, other.config["train"]).training != wanted.training:
                continue
            if case.round not in [c.round for c in store.checkpoints(other.id)]:
                return None, None, f"no fedavg_ft: {other.label} has no checkpoint of round {case.round}"
            config = RunConfig.from_dict(other.config)
            made = methods.create(config.method, config.params)
            other_job = experiment.job_of(config, case.job.federation, place.device)
            found = state_of(other, store, other_job, place, case.round)
            return other, made.global_model(found.state, case.task), found.note
    data = job.federation
    model = default_model(data.shape, data.objective.tokens)
    return None, None, f"no fedavg_ft: {_how(run, wanted, model)} makes a FedAvg run"


def _how(run: RunRow, train: TrainConfig, model: str) -> str:
    """The command for FedAvg on the same partition with the same seed and training set-up."""
    words = [f"fltk train --method fedavg --partition part{run.partition_id} --seed {run.seed}"]
    for item in fields(TrainConfig):
        value = getattr(train, item.name)
        if item.name == "own_step" or value in (item.default, model if item.name == "model" else item.default):
            continue
        name = item.name.replace("_", "-")
        words.append(f"--{name}" if value is True else f"--{name} {value}")
    return f"`{' '.join(words)}`"


# Training on with the newcomers


def _train_on(
    case: _Case,
    child: int,
    store: Store,
    place: Place,
    state: State,
    found: Sequence[Newcomer],
    on_round: OnRound | None,
) -> Array:
    """The other rounds with N + M clients, stored one by one; test values of all clients (N + M,) after the last."""
    job, n = case.job, case.task.n_clients
    measure = headline_of(job.federation.objective)
    column = f"personal_test_{measure.key}"
    brought = [join.few_shots(job.federation.newcomers[i - n], case.shots[0], job.streams()) for i in case.ids]
    grown = replace(job, federation=job.federation.grown(brought))
    task = grown.task()
    votes = own_step.Votes.of(state.server)
    state = job.method.add_clients(state, [one.joined for one in found], task)
    if votes is not None:
        state = replace(state, server={**state.server, **votes.enlarged(task.n_clients).tensors()})
    engine = engines.make(place.engine, grown)
    try:
        for done in loop.rounds(grown, engine, resume=(case.round, state), task=task):
            scalars = dict(done.scalars)
            if column in done.clients:
                values = done.clients[column]
                incumbents = metrics.without(values[:n], malicious(job))
                scalars[f"{measure.key}_new"] = metrics.acc_mean(values[n:])
                scalars[f"{measure.key}_incumbent"] = metrics.acc_mean(incumbents)
            blob = experiment.map_blob(done, grown)
            store.record_round(child, done.round, scalars, done.clients, blob, done.digest)
            if on_round:
                on_round(done)
    finally:
        engine.close()
    return done.clients[column]


def _after(case: _Case, store: Store, last: Array, counts: Array, scratch: Array) -> dict[str, Any]:
    """What the newcomers have in the end, and what those who were there before gained or lost against the run.

    Malicious clients are left out.
    """
    n, bad = case.task.n_clients, malicious(case.job)
    measure = headline_of(case.job.federation.objective)
    mean = f"{measure.key}_mean"
    before = metrics.without(last[:n], bad)
    known = metrics.summary(last[n:], counts, scratch, measure)
    row = {"shots": join.shots_named(case.shots[0]), "step": "end", **known}
    row["participation_gap"] = measure.gain(metrics.acc_mean(before), known[mean])
    incumbents = {mean: metrics.acc_mean(before), "without": None, "gain": None, "harmed": None}
    rounds, values = store.client_values(case.run.id, f"personal_test_{measure.key}")
    if rounds[-1] == case.job.train.rounds:
        alone = metrics.without(values[-1], bad)
        incumbents |= {
            "without": metrics.acc_mean(alone),
            "gain": metrics.gain_vs_local(before, alone, measure),
            "harmed": metrics.harmed(before, alone, measure),
        }
    return {"rows": [row], "incumbents": incumbents}
