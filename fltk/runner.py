"""The round loop: sample, train, aggregate, evaluate, and tell.

`rounds` is a generator of events. Who stores them, draws bars or stops early is none of its business, so a
run without a database is a plain for-loop.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fltk import threats
from fltk.clustering.agreement import membership
from fltk.config import TrainConfig
from fltk.defences.base import added, parts
from fltk.engine.base import Engine, Job
from fltk.engine.work import (
    ClientScores,
    Part,
    ScoreTask,
    TrainTask,
    Weighted,
    add_up,
    score_client,
    train_client,
    train_weighted,
)
from fltk.methods.base import Context, Down, Map, Method, State, Task, Upload, written_anew
from fltk.train.streams import Streams

Values = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class RoundDone:
    """One finished round, counted from 1; per-client vectors have one entry per client, NaN for no value."""

    round: int
    scalars: dict[str, float]
    clients: dict[str, Values]
    map: Map | None
    digest: str
    state: State
    notes: tuple[str, ...] = ()  # what attack or defence had to tell


def sample(task: Task, train: TrainConfig, streams: Streams, round: int) -> list[int]:
    """The participants of a round, ascending: max(1, round(participation N)) clients, all equally likely."""
    n = task.n_clients
    m = max(1, math.floor(train.participation * n + 0.5))
    if m >= n:
        return list(range(n))
    return sorted(torch.randperm(n, generator=streams.generator("sampling", round))[:m].tolist())


def digest(state: State) -> str:
    """SHA-256 over all tensors of a state, by name."""
    h = hashlib.sha256()
    for name, tensor in sorted(state.tensors().items()):
        h.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        h.update(tensor.detach().contiguous().numpy().data.cast("B") if tensor.numel() else b"")
    return h.hexdigest()


def rounds(
    job: Job, engine: Engine, *, resume: tuple[int, State] | None = None, task: Task | None = None
) -> Iterator[RoundDone]:
    """Play the rounds of a job, from the start or behind a checkpoint (rounds done, state)."""
    task = task or job.task()
    notes = threats.check(job, task)
    done, state = resume if resume else (0, job.method.init(task))
    for t in range(done, job.train.rounds):
        started = time.perf_counter()
        ids = sample(task, job.train, job.streams(), t)
        downs = job.method.downlink(state, ids, task)
        starts, sums = threats.own_starts(job, state, ids, downs), None
        if _adds_up(job, task):
            uploads, losses, sums = added_up(engine, task, state, ids, starts, t)
        else:
            uploads, losses = work(engine, task, ids, starts, t)
        trained = time.perf_counter()
        before = _client_numbers(job.method, task, state)
        faced = threats.face(job, engine, task, state, downs, uploads, t)
        if faced.uploads:
            state = job.method.aggregate(state, faced.uploads, _with(faced.context, sums))
        faced = threats.settled(faced, job, task.n_clients)
        state = faced.remembered(state)
        aggregated = time.perf_counter()
        scalars = {"train_loss": _mean(losses), "participants": float(len(ids)), **faced.scalars}
        told = _client_numbers(job.method, task, state)
        clients = {"train_loss": _scatter(task.n_clients, ids, losses), **told, **faced.clients}
        scalars |= job.method.diagnostics(state, task)
        if "cluster" in told:
            scalars |= membership(told["cluster"], before["cluster"], _array(task.groups))
        cost = job.method.cost(task.layout)
        scalars |= {"bytes_down": float(cost.down * len(ids)), "bytes_up": float(cost.up * len(ids))}
        if (t + 1) % job.train.eval_every == 0 or t + 1 == job.train.rounds:
            scores = score(job.method, engine, task, state, t)
            more, vectors = accuracy_of(scores)
            scalars, clients = scalars | more | threats.outcome(job, vectors, scores), clients | vectors
        ended = time.perf_counter()
        scalars |= {"seconds": ended - started, "seconds_train": trained - started}
        scalars |= {"seconds_aggregate": aggregated - trained, "seconds_eval": ended - aggregated}
        found = job.method.mixing(state, task)
        scalars |= threats.weight_of_attackers(job, found, state, faced)
        yield RoundDone(t + 1, scalars, clients, found, digest(state), state, (*notes, *faced.notes))
        notes = ()


def train(
    method: Method, engine: Engine, task: Task, state: State, ids: Sequence[int], round: int
) -> tuple[list[Upload], list[float]]:
    """Local work of the clients `ids`, in client-id order: uploads and training losses."""
    return work(engine, task, ids, method.downlink(state, ids, task), round)


def work(
    engine: Engine, task: Task, ids: Sequence[int], downs: Sequence[Down], round: int
) -> tuple[list[Upload], list[float]]:
    """The same from what was sent down."""
    tasks = [TrainTask(round, i, down) for i, down in zip(ids, downs, strict=True)]
    results = engine.map(train_client, tasks, [int(task.n[i]) for i in ids])
    return [upload for upload, _ in results], [loss for _, loss in results]


def _adds_up(job: Job, task: Task) -> bool:
    """Whether all that the server wants of the uploaded models is their mean, so that none has to be kept."""
    threatened = job.campaign is not None or job.protection is not None
    return type(job.method).aggregate is Method.aggregate and task.class_head is None and not threatened


@dataclass(frozen=True)
class Sums:
    """What has become of uploads that were taken in as they came."""

    mean: torch.Tensor  # (P,) of the models
    kept: dict[str, torch.Tensor]  # what clients keep: of all of them, with the new rows


def added_up(
    engine: Engine, task: Task, state: State, ids: Sequence[int], downs: Sequence[Down], round: int
) -> tuple[list[Upload], list[float], Sums]:
    """Like `work`, with uploads that are empty: models are added up where they come from, and need not fit in memory.

    What clients keep goes to its place as it comes.
    """
    weights = task.weights(ids).tolist()
    tasks = [Weighted(TrainTask(round, i, down), p) for i, down, p in zip(ids, downs, weights, strict=True)]
    cuts = parts(len(tasks))
    sizes = [int(task.n[list(ids[cut])].sum()) for cut in cuts]
    found: dict[int, tuple[list[Upload], list[float]]] = {}
    kept: dict[str, torch.Tensor] = {}

    def taken(part: Part) -> tuple[list[Upload], list[float]]:
        """A part's uploads without what clients keep, which goes to its place, and the losses."""
        for upload in part.uploads:
            for name, row in upload.own.items():
                if name not in kept:
                    kept[name] = written_anew(state.client[name], len(ids))
                kept[name][upload.client] = row
        rest = [replace(u, own={}, sent={name: value.clone() for name, value in u.sent.items()}) for u in part.uploads]
        return rest, part.losses

    def sums() -> Iterator[torch.Tensor]:
        """Those of the parts in order, whatever order they come in."""
        early: dict[int, torch.Tensor] = {}
        turn = 0
        for k, part in engine.fold(train_weighted, add_up, [tasks[cut] for cut in cuts], sizes):
            found[k] = taken(part)
            early[k] = part.total if k == turn else part.total.clone()
            while turn in early:
                yield early.pop(turn)
                turn += 1

    mean = added(sums()).float()
    uploads = [upload for k in sorted(found) for upload in found[k][0]]
    losses = [loss for k in sorted(found) for loss in found[k][1]]
    return uploads, losses, Sums(mean, kept)


def _with(context: Context, sums: Sums | None) -> Context:
    return context if sums is None else replace(context, mean=sums.mean, kept=sums.kept)


def score(method: Method, engine: Engine, task: Task, state: State, round: int) -> list[ClientScores]:
    """Scores of all clients, sampled or not."""
    ids = range(task.n_clients)
    shared = method.global_model(state, task)
    models = method.personal_model(state, ids, task)
    tasks = [ScoreTask(round, i, w, shared) for i, w in zip(ids, models, strict=True)]
    return engine.map(score_client, tasks, [int(task.n[i]) for i in ids])


def accuracy_of(scores: Sequence[ClientScores]) -> tuple[dict[str, float], dict[str, Values]]:
    """Means and per-client vectors of one evaluation.

    `personal_*` is each client's own model, `global_*` the one server model on the same data (absent without
    one).
    """
    vectors: dict[str, Values] = {}
    for part in ("val", "test"):
        own = [getattr(s, part) for s in scores]
        other = [getattr(s, f"shared_{part}") for s in scores]
        for name, column in (("personal", own), ("global", other)):
            if all(s is not None for s in column):
                vectors[f"{name}_{part}_acc"] = np.array([s.accuracy for s in column], np.float32)
                vectors[f"{name}_{part}_loss"] = np.array([s.loss for s in column], np.float32)
    return {key: _mean(value) for key, value in vectors.items()}, vectors


def _client_numbers(method: Method, task: Task, state: State) -> dict[str, Values]:
    """The method's own per-client vectors."""
    return {key: value.float().numpy() for key, value in method.client_diagnostics(state, task).items()}


def _array(groups: torch.Tensor | None) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None:
    return None if groups is None else groups.numpy()


def _mean(values: Sequence[float] | Values) -> float:
    """Mean over the clients that have a value; NaN where none has."""
    array = np.asarray(values, np.float64)
    return float(np.nanmean(array)) if np.isfinite(array).any() else math.nan


def _scatter(n: int, ids: Sequence[int], values: Sequence[float]) -> Values:
    full = np.full(n, np.nan, np.float32)
    full[list(ids)] = values
    return full
