"""From what clients send to what the method averages: attack, finite check, channel, defence, in this order.

One call per exchange, and none without an attack, a channel and a defence. What these remember from round to round is
part of the run's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fltk.attacks.base import claimed
from fltk.defences.guard import DefenceRound, DefenceRun
from fltk.engine.base import Engine, Job
from fltk.engine.work import RootTask, train_root
from fltk.protocol.messages import Down, Upload
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.protocol.verdict import PREFIX
from fltk.rounds import attack, channel
from fltk.rounds.effects import Values, knowledge, verdicts
from fltk.rounds.terms import guard_of, weights_of


@dataclass(frozen=True)
class Faced:
    """A round's uploads as the method gets them, the server that averages them, and what is stored of the round."""

    uploads: list[Upload]
    server: Server
    watch: DefenceRound | None = None  # the defence of the round, whose verdict the server has
    left: Mapping[str, Tensor] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    clients: Mapping[str, Values] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lost_bytes: int = 0  # of uploads that came and were dropped

    @property
    def ids(self) -> list[int]:
        """The clients whose uploads are left."""
        return [u.client for u in self.uploads]

    @property
    def bytes_up(self) -> int:
        """What the clients sent, on the wire."""
        return self.lost_bytes + sum(upload.nbytes for upload in self.uploads)

    def remembered(self, state: State) -> State:
        """The method's next state with what attackers, channel and defence remember."""
        ours = {name for name in state.server if name.startswith((PREFIX, attack.MEMORY, channel.RESIDUAL))}
        ours |= {attack.HONEST} & state.server.keys()
        if not self.left and not ours:
            return state
        kept = {name: tensor for name, tensor in state.server.items() if name not in ours}
        return replace(state, server={**kept, **self.left})


def acts(job: Job) -> bool:
    """Whether anything happens to uploads between clients and method."""
    return job.campaign is not None or job.protection is not None or job.channel is not None


def face(
    job: Job, engine: Engine, state: State, downs: Sequence[Down], uploads: Sequence[Upload], server: Server
) -> Faced:
    """What becomes of a round's uploads; `downs` is what was sent to their clients, as the server knows it."""
    down = {u.client: d for u, d in zip(uploads, downs, strict=True)}
    faced = Faced(list(uploads), _told(job, server))
    if job.protection is not None or (job.campaign is not None and job.campaign.malicious):
        faced = _attacked(job, state, down, faced)

    if faced.uploads and job.channel is not None:
        arrived = channel.through(job, server.task, state, down, faced.uploads, server.round)
        faced = replace(faced, uploads=arrived.uploads, left={**faced.left, **arrived.residuals})

    guard = guard_of(job, server.task)
    if guard is None:
        return faced
    if not faced.uploads:  # the defence remembers what it did
        before = {name: tensor for name, tensor in state.server.items() if name.startswith(PREFIX)}
        return replace(faced, left={**faced.left, **before})

    # a rule's state is settled when the method has averaged: the watch is read then, by `settled`
    watch = _judged(job, engine, guard, state, [down[client] for client in faced.ids], faced)
    return replace(faced, watch=watch, server=replace(faced.server, watch=watch))


def _told(job: Job, server: Server) -> Server:
    """The server with the numbers of samples that clients claim to have."""
    campaign = job.campaign
    if campaign is None or campaign.size == 1 or not campaign.on(server.round):
        return server
    claims = claimed(server.task.n, campaign.malicious, campaign.size)
    return replace(server, task=replace(server.task, n=claims))


def _attacked(job: Job, state: State, down: Mapping[int, Down], faced: Faced) -> Faced:
    """The uploads as attackers really send them, without those that are not finite."""
    campaign, server = job.campaign, faced.server
    told = finite(faced.uploads)
    scalars: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    left = attack.remembered(state)

    if campaign is not None and campaign.on(server.round) and told:
        done = attack.poisoned(job, server.task, state, down, told, server.round)
        scalars = {**done.numbers, **knowledge(campaign.attack)}
        scalars["attackers"] = float(sum(campaign.hits(server.round, client) for client in faced.ids))
        told, left, notes = finite(done.uploads), dict(done.memory), done.notes
    elif campaign is not None:
        left = attack.repentant(campaign, left, [u.client for u in told])

    kept = {u.client for u in told}
    lost = [u for u in faced.uploads if u.client not in kept]
    scalars["dropped"] = float(len(lost))
    lost_bytes = sum(u.nbytes for u in lost)
    return replace(faced, uploads=told, left=left, scalars=scalars, notes=notes, lost_bytes=lost_bytes)


def finite(uploads: Sequence[Upload]) -> list[Upload]:
    """The uploads without NaN or infinity in what they send."""
    kept = []
    for u in uploads:
        sent = (u.w, *u.sent.values())
        if all(bool(torch.isfinite(tensor).all()) for tensor in sent):
            kept.append(u)
    return kept


def _judged(
    job: Job, engine: Engine, guard: DefenceRun, state: State, downs: Sequence[Down], faced: Faced
) -> DefenceRound:
    """The defence's watch over a round, with its verdict on the uploads."""
    task, round, uploads = faced.server.task, faced.server.round, faced.uploads
    references = job.method.references(state, downs, uploads, task)
    root = root_updates(job, engine, guard, task, references, round) if guard.defence.needs_root else None
    p = weights_of(job, task, uploads)
    return guard.watch(round, faced.ids, [u.w for u in uploads], references, p, state.server, root)


def root_updates(
    job: Job, engine: Engine, guard: DefenceRun, task: Task, references: Sequence[Tensor], round: int
) -> Tensor:
    """(K, d): what the server's own training on its root set makes of each reference, once for equal ones."""
    columns = job.method.columns
    private = task.layout.take(task.w0, columns.private)
    keys = [reference.numpy().tobytes() for reference in references]
    distinct = dict(zip(keys, references, strict=True))
    tasks = [RootTask(round, task.whole(columns, reference, private)) for reference in distinct.values()]
    trained = dict(zip(distinct, engine.map(train_root, tasks, [1] * len(tasks)), strict=True))

    d = guard.parameters
    rows = []
    for key, reference in zip(keys, references, strict=True):
        row = task.layout.take(trained[key], columns.travels)
        rows.append(row[:d] - reference[:d])
    return torch.stack(rows)


def settled(faced: Faced, job: Job, n: int) -> Faced:
    """The same with what the defence has left behind, once the method has averaged."""
    watch = faced.watch
    if watch is None:
        return faced
    scalars = {**faced.scalars, **watch.numbers}
    clients: dict[str, Values] = {}
    if "screen" in watch.guard.form:
        trust = np.full(n, np.nan, np.float32)
        trust[faced.ids] = watch.trust[faced.ids].float().numpy()
        clients = {"trust": trust, "clip": watch.factor.float().numpy()}
        if watch.guard.defence.rejects:
            scalars |= verdicts(job.campaign, watch, faced.ids)
    notes = (*faced.notes, *watch.notes)
    return replace(faced, left={**faced.left, **watch.left}, scalars=scalars, clients=clients, notes=notes)
