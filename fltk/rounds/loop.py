"""The round loop: sample, train, aggregate, evaluate, and tell.

`rounds` is a generator of events. Who stores them, draws bars or stops early is none of its business, so a
run without a database is a plain for-loop.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import torch
import xxhash
from torch import Tensor

from fltk import metrics
from fltk.clustering.agreement import membership
from fltk.config import TrainConfig
from fltk.engine.base import Engine, Job
from fltk.engine.work import ClientScores, ScoreTask, score_client
from fltk.memory.shared import MOST
from fltk.memory.undo import Undo
from fltk.protocol.map import Map
from fltk.protocol.method import Method
from fltk.protocol.mixing import TOGETHER
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.rounds import checks, effects, pipeline
from fltk.rounds.exchange import Run, Traffic, exchange
from fltk.train import own_step
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
    withdraw: Callable[[], None] = lambda: None  # undoes the round for whom it does not count: see `rounds`


def sample(task: Task, train: TrainConfig, streams: Streams, round: int) -> list[int]:
    """The participants of a round, ascending: max(1, round(participation N)) clients, all equally likely."""
    n = task.n_clients
    m = max(1, math.floor(train.participation * n + 0.5))
    if m >= n:
        return list(range(n))
    return sorted(torch.randperm(n, generator=streams.generator("sampling", round))[:m].tolist())


def digest(state: State) -> str:
    """What tells a state from every other: SHA-256 over names and kinds of its tensors, and XXH3 of their bytes."""
    h = hashlib.sha256()
    for name, tensor in sorted(state.tensors().items()):
        h.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        h.update(_hashed(tensor.detach()))
    return h.hexdigest()


def former_digest(state: State) -> str:
    """What `digest` was at first, and what stands in older registries: SHA-256 over all bytes in one go."""
    h = hashlib.sha256()
    for name, tensor in sorted(state.tensors().items()):
        h.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        h.update(tensor.detach().contiguous().numpy().data.cast("B") if tensor.numel() else b"")
    return h.hexdigest()


def _hashed(tensor: Tensor) -> bytes:
    """XXH3, 128 bits: as fast as memory is read, where SHA-256 would be a tenth of a short round."""
    found = xxhash.xxh3_128()
    for part in tensor if tensor.dim() > 1 and not tensor.is_contiguous() else [tensor]:  # the shelf leaves gaps
        if part.numel():
            found.update(part.contiguous().numpy().data.cast("B"))
    return found.digest()


def rounds(
    job: Job, engine: Engine, *, resume: tuple[int, State] | None = None, task: Task | None = None
) -> Iterator[RoundDone]:
    """Play the rounds of a job, from the start or behind a checkpoint (rounds done, state).

    A round writes the rows of a very large state where they are. An error in it leaves the state of the round before as
    it was; who has been given a round and cannot use it has that state back by `RoundDone.withdraw`.
    """
    task = task or job.task()
    notes = checks.check(job, task)
    run = Run(job, engine, task)
    finished, state = resume if resume else (0, beginning(job, task))
    with closing(Undo()) as undo:
        for t in range(finished, job.train.rounds):
            undo.forget()
            try:
                done = _round(run, state, t, undo)
            except BaseException:
                undo.back()
                raise
            state = done.state
            yield replace(done, notes=(*notes, *done.notes), withdraw=undo.back)
            notes = ()


def beginning(job: Job, task: Task) -> State:
    """The state before the first round, with room for votes where the run's own step is voted on."""
    state = job.method.init(task)
    if job.train.own_step != "vote":
        return state
    return replace(state, server={**state.server, **own_step.Votes.none_yet(task.n_clients).tensors()})


@dataclass(frozen=True)
class _Played:
    """What training and aggregation of a round have left; the clients' models are gone."""

    state: State
    ids: list[int]  # the participants
    losses: dict[int, float]  # their training losses, of the last exchange in which they trained
    ballots: int | None  # votes on the own step that were counted; None where there is no vote
    traffic: Traffic
    faced: pipeline.Faced  # of the last exchange in which models were sent
    trained_at: float  # time.perf_counter() after the last training


def _round(run: Run, state: State, t: int, undo: Undo) -> RoundDone:
    """Round t, counted from 0."""
    started = time.perf_counter()
    job, task = run.job, run.task
    before = _client_numbers(job.method, task, state)
    played = _played(run, state, t, undo)
    state = played.state
    aggregated = time.perf_counter()

    scalars, clients = _recorded(job, task, played, before)
    if (t + 1) % job.train.eval_every == 0 or t + 1 == job.train.rounds:
        more, vectors = _evaluated(job, run.engine, task, state, t)
        scalars |= more
        clients |= vectors

    ended = time.perf_counter()
    scalars["seconds"] = ended - started
    scalars["seconds_train"] = played.trained_at - started
    scalars["seconds_aggregate"] = aggregated - played.trained_at
    scalars["seconds_eval"] = ended - aggregated

    found = run.map_of(state)
    scalars |= effects.weight_of_attackers(job, found, state, played.faced.ids)
    return RoundDone(t + 1, scalars, clients, found, digest(state), state, tuple(played.faced.notes))


def _played(run: Run, state: State, t: int, undo: Undo) -> _Played:
    """Sample, and then as many exchanges as the method wants: send down, train, judge, aggregate."""
    method = run.job.method
    sampled = sample(run.task, run.job.train, run.job.streams(), t)

    # who votes on the own step, and on which model: the one that a client would use before this round
    votes = own_step.Votes.of(state.server)
    asked = [] if votes is None else votes.due(sampled, state.last, t)
    voted = dict(zip(asked, method.personal_model(state, asked, run.task), strict=True)) if asked else {}

    faced, trained_at = pipeline.Faced([], Server(t, run.task)), time.perf_counter()
    there: set[int] = set()
    losses: dict[int, float] = {}
    ballots: dict[int, Tensor] = {}
    traffic = Traffic()
    for step in count():
        server = run.server(state, t, step, undo, traffic)
        ids = method.participants(state, sampled, server)
        if ids is None:
            break
        done = exchange(run, state, ids, server, voted if step == 0 else {})
        state, trained_at = done.state, done.trained_at
        there.update(ids)
        ballots |= done.ballots
        losses |= done.losses
        if done.models or step == 0:
            faced = done.faced

    if t + 1 == run.job.train.rounds:
        server = run.server(state, t, 0, undo, traffic)
        state = run.remembered(method.finish(state, server), server)
    if votes is None:
        return _Played(state, sorted(there), losses, None, traffic, faced, trained_at)
    state = replace(state, server={**state.server, **votes.counted(ballots, t).tensors()})
    return _Played(state, sorted(there), losses, len(ballots), traffic, faced, trained_at)


def _recorded(
    job: Job, task: Task, played: _Played, before: dict[str, Values]
) -> tuple[dict[str, float], dict[str, Values]]:
    """Scalars and per-client vectors of a round, but for its evaluation. before: the method's vectors before it."""
    method, participants = job.method, len(played.ids)
    told = _client_numbers(method, task, played.state)
    order = sorted(played.losses)
    in_order = [played.losses[client] for client in order]
    losses = _scatter(task.n_clients, order, in_order)
    clients = {"train_loss": losses, **told, **played.faced.clients}

    scalars = {"train_loss": _mean(in_order), "participants": float(participants)}
    scalars |= {**played.faced.scalars, **method.diagnostics(played.state, task)}
    if "cluster" in told:
        scalars |= membership(told["cluster"], before["cluster"], _array(task.groups))

    ballots = played.ballots or 0
    if played.ballots is not None:
        scalars["own_step"] = float(own_step.choice_of(played.state.server))
        scalars["ballots"] = float(ballots)

    scalars["bytes_down"] = float(played.traffic.down)
    scalars["bytes_up"] = float(played.traffic.up + own_step.BYTES * ballots)
    return scalars, clients


def _evaluated(
    job: Job, engine: Engine, task: Task, state: State, t: int
) -> tuple[dict[str, float], dict[str, Values]]:
    """Scalars and per-client vectors of a round's evaluation; scalars are of benign clients."""
    malicious = () if job.campaign is None else job.campaign.malicious
    scores = score(job.method, engine, task, state, t)
    scalars, vectors = measured(scores, malicious)
    return scalars | effects.outcome(job, vectors, scores), vectors


def score(method: Method, engine: Engine, task: Task, state: State, round: int) -> list[ClientScores]:
    """Scores of all clients, sampled or not, after the own step that the federation has chosen."""
    shared, choice = method.global_model(state, task), own_step.choice_of(state.server)

    def scored(ids: range) -> list[ClientScores]:
        models = method.personal_model(state, ids, task)
        tasks = [ScoreTask(round, i, w, shared, choice) for i, w in zip(ids, models, strict=True)]
        return engine.map(score_client, tasks, [int(task.n[i]) for i in ids])

    return [scores for ids in in_turns(task) for scores in scored(ids)]


def in_turns(task: Task) -> list[range]:
    """All clients, so many at a time that models which are made for them alone fit into memory."""
    together = -(-MOST // (4 * task.layout.size * TOGETHER)) * TOGETHER
    starts = range(0, task.n_clients, together)
    return [range(start, min(start + together, task.n_clients)) for start in starts]


def measured(
    scores: Sequence[ClientScores], malicious: Sequence[int] = ()
) -> tuple[dict[str, float], dict[str, Values]]:
    """Means over benign clients, and vectors of everybody, of one evaluation.

    `personal_*` is each client's own model, `global_*` the one server model on the same data (absent without
    one).
    """
    vectors: dict[str, Values] = {}
    for part in ("val", "test"):
        own = [getattr(s, part) for s in scores]
        other = [getattr(s, f"shared_{part}") for s in scores]
        for name, column in (("personal", own), ("global", other)):
            if any(s is None for s in column):
                continue
            for key in column[0].values:
                vectors[f"{name}_{part}_{key}"] = np.array([s.values[key] for s in column], np.float32)
            vectors[f"{name}_{part}_loss"] = np.array([s.loss for s in column], np.float32)
    return {key: _mean(metrics.without(value, malicious)) for key, value in vectors.items()}, vectors


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
