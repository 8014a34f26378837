"""One exchange with some clients: what goes down, what comes up, and what the server makes of it.

A round consists of one exchange, or of several where a method says so. Everything that an exchange does is here in the
order of its doing; the files of the steps are named in docs/a-round.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fltk.engine.base import Bench, Engine, Job
from fltk.engine.work import AskTask, ServerTask, ask_client, serve
from fltk.errors import FltkError
from fltk.memory.undo import Undo
from fltk.partition.federation import Split
from fltk.protocol.map import Map
from fltk.protocol.messages import Down, Upload
from fltk.protocol.server import ClientWork, Server, ServerWork, Sums
from fltk.protocol.server_optimiser import PREFIX as OPTIMISER
from fltk.protocol.server_optimiser import OptimiserRound
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.rounds import pipeline
from fltk.rounds.attack import own_starts
from fltk.rounds.cohort import Cohort
from fltk.rounds.terms import parameters_of
from fltk.train.trainer import SERVER, Trainer


@dataclass
class Traffic:
    """Bytes on the wire in a round."""

    down: int = 0
    up: int = 0


@dataclass(frozen=True)
class Run:
    """What stays the same in all rounds of a run."""

    job: Job
    engine: Engine
    task: Task

    @cached_property
    def bench(self) -> Bench:
        """The server's own tools; made when a method first asks for its trainer."""
        return Bench(self.job)

    def server(self, state: State, round: int, step: int, undo: Undo, traffic: Traffic) -> Server:
        """The server at the beginning of an exchange, before anything was uploaded."""
        optimiser = None
        if self.job.server_optimiser is not None:
            parameters = parameters_of(self.job, self.task)
            optimiser = OptimiserRound.of(self.job.server_optimiser, parameters, state.server)
        desk = RoundDesk(self, round, traffic)
        control = self.job.map_control
        return Server(round, self.task, optimiser=optimiser, desk=desk, undo=undo, step=step, control=control)

    def remembered(self, state: State, server: Server) -> State:
        """The state with what the server optimiser remembers."""
        if server.optimiser is None:
            return state
        kept = {name: tensor for name, tensor in state.server.items() if not name.startswith(OPTIMISER)}
        return replace(state, server={**kept, **server.optimiser.memory})

    def map_of(self, state: State) -> Map | None:
        """The collaboration map; under a server optimiser models go towards the mixture, and not to it."""
        found = self.job.method.mixing(state, self.task)
        if found is not None and found.kind == "exact" and self.job.server_optimiser is not None:
            return replace(found, kind="direction")
        return found


@dataclass(frozen=True)
class RoundDesk:
    """What the server computes with in one round, on the run's engine."""

    run: Run
    round: int
    traffic: Traffic

    @property
    def trainer(self) -> Trainer:
        """A trainer that stands at this round and at no client."""
        return self.run.bench.trainer.at(self.round, SERVER)

    @property
    def public(self) -> Split:
        """The partition's public samples."""
        return self.run.job.federation.public

    def map(self, work: ServerWork, items: Sequence[Any]) -> list[Any]:
        """The server's work on items, dealt to all workers."""
        tasks = [ServerTask(self.round, work, item) for item in items]
        return self.run.engine.map(serve, tasks, [1] * len(tasks))

    def ask(self, work: ClientWork, ids: Sequence[int], downs: Sequence[Down]) -> list[Upload]:
        """One more exchange, whose bytes count as those of the round."""
        run = self.run
        tasks = [AskTask(self.round, i, work, down) for i, down in zip(ids, downs, strict=True)]
        sizes = [int(run.task.n[i]) for i in ids]
        uploads: list[Upload] = run.engine.map(ask_client, tasks, sizes)

        columns = run.job.method.columns
        self.traffic.down += sum(down.nbytes(run.task.layout, columns) for down in downs)
        self.traffic.up += sum(upload.nbytes for upload in uploads)
        return uploads


@dataclass(frozen=True)
class Exchanged:
    """What an exchange has left."""

    state: State
    losses: Mapping[int, float]  # of the clients that trained
    ballots: Mapping[int, Tensor]
    models: bool  # whether clients sent models
    faced: pipeline.Faced
    trained_at: float  # time.perf_counter() after training


@dataclass(frozen=True)
class _Trained:
    """What the clients have made of what was sent down."""

    uploads: list[Upload]
    losses: list[float]
    sums: Sums | None  # where uploads were added up in the workers


def exchange(run: Run, state: State, ids: Sequence[int], server: Server, voted: Mapping[int, Tensor]) -> Exchanged:
    """Send down, train, judge, aggregate. voted: by client, the personal model on whose own step it votes."""
    job, method, plain = run.job, run.job.method, not pipeline.acts(run.job)

    # down: a very large state may give its rows away, if nothing looks at what came before
    if plain and server.step == 0:
        state = method.prepared(state, ids, run.task, _undo(server))
    downs = method.downlink(state, ids, run.task)
    starts = downs if plain else own_starts(job, state, ids, downs)
    cohort = Cohort(method, run.task, server.round, ids, starts, voted)

    # at the clients, and up
    trained = _train(run, cohort, state, server)
    trained_at = time.perf_counter()
    models = any(upload.model for upload in trained.uploads)
    faced = pipeline.Faced(trained.uploads, server)
    if models and not plain:
        faced = pipeline.face(job, run.engine, state, downs, trained.uploads, server)
    traffic = _traffic(server)
    traffic.down += cohort.bytes_down
    traffic.up += faced.bytes_up

    # at the server
    told = _losses(trained, models)
    ballots = {u.client: u.ballot for u in faced.uploads if u.ballot is not None}
    state, faced = _aggregate(run, state, replace(faced, server=replace(faced.server, sums=trained.sums)), models)
    return Exchanged(state, told, ballots, models, faced, trained_at)


def _train(run: Run, cohort: Cohort, state: State, server: Server) -> _Trained:
    """The clients' work; where the server only averages, uploads are added up in the workers, and none arrives."""
    undo, method = _undo(server), run.job.method
    if method.adds_up() and not pipeline.acts(run.job) and run.task.class_head is None:
        return _Trained(*cohort.added_up(run.engine, state, undo))
    room = undo.kept if server.step == 0 else None
    return _Trained(*cohort.trained(run.engine, room), None)


def _losses(trained: _Trained, models: bool) -> dict[int, float]:
    """Training losses by client; in an exchange without models those who did not train have none."""
    losses = {}
    for upload, loss in zip(trained.uploads, trained.losses, strict=True):
        if models or not math.isnan(loss):
            losses[upload.client] = loss
    return losses


def _aggregate(run: Run, state: State, faced: pipeline.Faced, models: bool) -> tuple[State, pipeline.Faced]:
    """The next state, with what attackers, channel, defence and server optimiser remember; the models are let go."""
    server = faced.server
    if faced.uploads:
        state = aggregated(run, state, faced.uploads, server)
    else:
        state = run.job.method.on_empty_round(state, server.round)

    faced = pipeline.settled(faced, run.job, run.task.n_clients)
    if models:
        state = run.remembered(faced.remembered(state), server)
    empty = [Upload(torch.empty(0), client=client) for client in faced.ids]
    return state, replace(faced, uploads=empty)


def aggregated(run: Run, state: State, uploads: Sequence[Upload], server: Server) -> State:
    """The method's next state. FltkError, in one line, where it changed the present one in place."""
    held = state.tensors()
    free = None if server.undo is None else server.undo.kept
    versions = {name: tensor._version for name, tensor in held.items()}
    method = type(run.job.method).__name__
    try:
        after = run.job.method.aggregate(state, uploads, server)
    except KeyError as error:
        (name,) = error.args
        if isinstance(name, str) and not any(name in upload.sent for upload in uploads) and name not in state.server:
            raise FltkError(f"{method}.aggregate asked for {name!r}, which the clients have not sent") from error
        raise

    for name, tensor in held.items():
        if tensor._version != versions[name] and not (free is not None and tensor.data_ptr() == free.data_ptr()):
            raise FltkError(f"{method}.aggregate changed state.{name} in place; make a new tensor of it instead")
    return after


def _traffic(server: Server) -> Traffic:
    assert isinstance(server.desk, RoundDesk)
    return server.desk.traffic


def _undo(server: Server) -> Undo:
    assert server.undo is not None
    return server.undo
