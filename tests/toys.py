"""Small federations and runs, shared by the tests of the core. Nothing here reads a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fltk import methods, partition
from fltk.config import PartitionConfig, TrainConfig
from fltk.data import Dataset, create
from fltk.data.dataset import Ints
from fltk.engine.base import Bench, Engine, Job
from fltk.engine.serial import Serial
from fltk.memory.undo import Undo
from fltk.partition.federation import Federation, build
from fltk.protocol.messages import Upload
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.rounds import loop
from fltk.rounds.cohort import Cohort
from fltk.rounds.exchange import Run, Traffic
from fltk.rounds.loop import RoundDone

SIZES = (12, 23, 8, 17)  # unequal, and no multiple of the batch size: weights and last batches matter
HELD_OUT = 4  # validation samples of a client, and test samples


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers from a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def federation(
    sizes: Sequence[int] = SIZES,
    shape: tuple[int, ...] = (1, 4, 4),
    classes: int = 4,
    groups: Sequence[int] | None = None,
    seed: int = 0,
    public: int = 8,
) -> Federation:
    """Clients with `sizes` training samples around class centres; half of client k's samples are of class k."""
    ends = np.cumsum([0, *(size + 2 * HELD_OUT for size in sizes)])
    y = torch.randint(classes, (int(ends[-1]),), generator=torch.Generator().manual_seed(seed))
    for k, start in enumerate(ends[:-1]):
        y[start : start + sizes[k] // 2] = k % classes
    x = random(classes, *shape, seed=seed + 1)[y] + random(len(y), *shape, seed=seed + 2)
    if public:
        more = torch.arange(public) % classes
        x = torch.cat([x, random(classes, *shape, seed=seed + 1)[more] + random(public, *shape, seed=seed + 3)])
        y = torch.cat([y, more])
    data = create("digits", x.numpy(), y.numpy(), tuple(f"class {c}" for c in range(classes)))
    cuts = [np.split(np.arange(a, b), [n, n + HELD_OUT]) for (a, b), n in zip(pairwise(ends), sizes, strict=True)]
    return dealt(data, cuts, groups, np.arange(len(y) - public, len(y)) if public else None)


def dealt(
    data: Dataset,
    cuts: Sequence[Sequence[Ints]],
    groups: Sequence[int] | None = None,
    public: Ints | None = None,
) -> Federation:
    """A federation from each client's positions of train, validation and test samples in `data`."""
    train, val, test = zip(*cuts, strict=True)
    config = PartitionConfig(clients=len(cuts), newcomers=0)
    known = None if groups is None else np.array(groups, np.int64)
    made = partition.create(config, data.fingerprint, (train, val, test), group=known, public=public)
    return build(data, made)


def job(
    method: str,
    params: Mapping[str, Any] | None = None,
    data: Federation | None = None,
    seed: int = 1,
    **train: Any,
) -> Job:
    """A job on the toy federation: logistic-sized network, two rounds."""
    settings = {"model": "mlp", "hidden": "6", "rounds": 2, "batch_size": 5, "lr": 0.1, "eval_every": 100, **train}
    made = methods.create(method, params or {})
    return Job(data or federation(groups=(0, 1, 0, 1)), TrainConfig(**settings), made, seed)


def model_attn(params: Mapping[str, Any] | None = None, **settings: Any) -> Job:
    """The same of the attn that compares models instead of class tables."""
    return job("attn", {"token": "model", **(params or {})}, **settings)


def echo(bench: Bench, task: Any) -> Any:
    return task


def staffed(engine: Engine) -> None:
    """Waits until all workers are there; short runs would end before."""
    while not engine.ready:
        engine.map(echo, list(range(40)), [1] * 40)


def play(job: Job, resume: tuple[int, State] | None = None) -> list[RoundDone]:
    """All rounds of a job, one client after another."""
    return list(loop.rounds(job, Serial(job), resume=resume))


def models(job: Job, state: State) -> Tensor:
    """Everybody's personal model, (N, P)."""
    task = job.task()
    return torch.stack(job.method.personal_model(state, range(task.n_clients), task))


def final(method: str, params: Mapping[str, Any] | None = None, **settings: Any) -> Tensor:
    """Personal models (N, P) after the rounds of a toy run."""
    made = job(method, params, **settings)
    return models(made, play(made)[-1].state)


def uploads(job: Job, state: State, ids: Sequence[int] | None = None, round: int = 0) -> list[Upload]:
    """What the clients would send in a round, as `aggregate` gets it."""
    task = job.task()
    some = range(task.n_clients) if ids is None else ids
    return Cohort.of(job.method, task, state, some, round).trained(Serial(job))[0]


def server(job: Job, round: int) -> Server:
    """The server of a round, with all that it computes with."""
    run = Run(job, Serial(job), job.task())
    return run.server(job.method.init(run.task), round, 0, Undo(), Traffic())


def rows(job: Job, sent: Sequence[Upload]) -> Tensor:
    """The whole trained models behind uploads, (K, P): shared columns and private ones joined."""
    task, columns = job.task(), job.method.columns
    return torch.stack([task.whole(columns, u.w, u.own.get("private", u.w[:0])) for u in sent])


def made_up(job: Job, models: Tensor, **own: Tensor) -> list[Upload]:
    """Uploads with chosen models (K, P), from the clients 0..K-1, for tests of `aggregate` alone."""
    return [Upload(w, own={k: v[i] for k, v in own.items()}, client=i) for i, w in enumerate(models)]


def aggregated(job: Job, sent: Sequence[Upload], round: int = 0, state: State | None = None, **task: Any) -> State:
    """The state after these uploads, from the initial one unless told otherwise."""
    told: Task = replace(job.task(), **task)
    return job.method.aggregate(state or job.method.init(told), sent, Server(round, told))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, to see whether somebody wrote into them."""
    h = hashlib.sha256()
    for name, t in sorted(tensors.items()):
        h.update(name.encode() + str((t.dtype, tuple(t.shape))).encode() + t.contiguous().numpy().tobytes())
    return h.hexdigest()
