"""Terms of a run that rounds, attacks and defences share: who averages what, on which columns, with which weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fltk.defences.guard import DefenceRun
from fltk.engine.base import Job
from fltk.protocol.averaging import MIXED
from fltk.protocol.messages import Upload
from fltk.protocol.task import Task


def guard_of(job: Job, task: Task) -> DefenceRun | None:
    """The run's defence at work."""
    found = job.protection
    if found is None:
        return None
    uniform = found.weights == "uniform" or (not found.weights and not found.defence.weighted)
    return DefenceRun(
        defence=found.defence,
        kind=job.method.averages,
        share=found.share,
        equal=uniform and job.method.averages != MIXED,
        parameters=parameters_of(job, task),
        streams=job.streams(),
        n_clients=task.n_clients,
        participation=participants(job, task) / task.n_clients,
        rounds=job.train.rounds,
    )


def parameters_of(job: Job, task: Task) -> int:
    """Columns of the shared part that are no buffers; they come first."""
    last = task.layout.trainable
    ranges = task.layout.ranges(job.method.columns.travels)
    return sum(max(0, min(stop, last) - start) for start, stop in ranges)


def participants(job: Job, task: Task) -> int:
    """Clients in a round."""
    return min(task.n_clients, max(1, math.floor(job.train.participation * task.n_clients + 0.5)))


def weights_of(job: Job, task: Task, uploads: Sequence[Upload]) -> Tensor:
    """The weights (K,) of the participants in an average: the method's, or equal ones where the defence has those."""
    guard = guard_of(job, task)
    equal = job.method.equal or (guard is not None and guard.equal)
    if equal:
        task = replace(task, uniform=True)
    return task.weights([u.client for u in uploads])
