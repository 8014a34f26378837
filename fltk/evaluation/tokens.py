"""Tokens of all clients and newcomers, to see who looks alike: the method's own, or those of one round from theta^0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fltk.engine.base import Bench, Job
from fltk.partition.federation import ClientData
from fltk.protocol.state import State
from fltk.protocol.task import Task


@dataclass(frozen=True)
class Tokens:
    """rows: (M, d), one per client of `ids`, the newcomers last; found clusters (M,), NaN for none, or None."""

    rows: Tensor
    ids: tuple[int, ...]
    newcomers: int
    clusters: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None
    note: str = ""  # why these are other tokens than those that were asked for


def client_tokens(job: Job, state: State, kind: str = "method", *, newcomers: bool = True) -> Tokens:
    """What clients look like in a stored state; newcomers join it by the method's rule, and change nothing stored.

    kind `method`: what the method knows clients by. Where several clients share one (a method with a model for all,
    or one per cluster), and with kind `birth`: the displacement that one round of local work from theta^0 gives.
    """
    bench = Bench(job)
    guests = [c for c in job.federation.newcomers if len(c.train)] if newcomers else []
    if "join" in job.method.cannot:
        guests = []
    task, larger = _with(guests, job, bench, state)
    told = job.method.client_diagnostics(larger, task)
    clusters = told["cluster"].double().numpy() if "cluster" in told else None
    ids = (*range(len(job.federation.clients)), *(c.id for c in guests))
    note = ""
    if kind == "method":
        rows = job.method.tokens(larger, task)
        if len({row.numpy().tobytes() for row in rows}) == len(rows):
            return Tokens(rows, ids, len(guests), clusters)
        note = "clients share models, so tokens of one round from the initial model are drawn"
    rows = _births([*job.federation.clients, *guests], bench, task.w0)
    return Tokens(rows, ids, len(guests), clusters, note)


def _with(guests: list[ClientData], job: Job, bench: Bench, state: State) -> tuple[Task, State]:
    """What the method knows of the federation that the newcomers have entered, and the state with which it goes on."""
    task = job.task()
    if not guests:
        return task, state
    joined = [job.method.join(state, c, bench.trainer.at(0, c.id), task) for c in guests]
    larger = replace(job, federation=job.federation.grown(guests)).task()
    return larger, job.method.add_clients(state, joined, larger)


def _births(clients: list[ClientData], bench: Bench, w0: Tensor) -> Tensor:
    """Displacements (M, P) after a first round of local work from theta^0."""
    return torch.stack([bench.trainer.at(0, c.id).sgd(w0, c.train) - w0 for c in clients])
