"""What malicious clients make of a round: what they train from, what they send, and what they remember of it.

Attackers act after everybody has trained. What they remember is part of the run's state, so that a resumed run has the
same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fltk.attacks.base import Sent
from fltk.attacks.campaign import Campaign, Stage
from fltk.engine.base import Job
from fltk.protocol.messages import Down, Upload
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.rounds.terms import parameters_of, weights_of

MEMORY = "attack."  # tensors that attackers remember
HONEST = "attack-own"  # (M, P) trained models of malicious clients that go on with their own; NaN where there is none


@dataclass(frozen=True)
class Poisoned:
    """Uploads as they are really sent, what attackers remember, scalars of the round and lines to tell."""

    uploads: list[Upload]
    memory: Mapping[str, Tensor]
    numbers: Mapping[str, float]
    notes: tuple[str, ...]


def own_starts(job: Job, state: State, ids: Sequence[int], downs: Sequence[Down]) -> list[Down]:
    """What clients really train from: a malicious one that goes on with its own model has not the one it uploaded."""
    if HONEST not in state.server or job.campaign is None:
        return list(downs)

    models = _own_models(job.campaign, state)
    starts = []
    for client, down in zip(ids, downs, strict=True):
        model = models.get(client)
        starts.append(down if model is None else replace(down, w=model))
    return starts


def _own_models(campaign: Campaign, state: State) -> dict[int, Tensor]:
    """The models (P,) that malicious clients go on with, of those that have trained."""
    if HONEST not in state.server:
        return {}
    rows = zip(campaign.malicious, state.server[HONEST], strict=True)
    return {client: row for client, row in rows if not bool(row.isnan().any())}


def remembered(state: State) -> dict[str, Tensor]:
    """What attackers remember from the rounds before, under the names of the run's state."""
    return {name: tensor for name, tensor in state.server.items() if name.startswith(MEMORY) or name == HONEST}


def poisoned(
    job: Job, task: Task, state: State, downs: Mapping[int, Down], uploads: Sequence[Upload], round: int
) -> Poisoned:
    """What the participants of an attacked round really send; `downs` is what was sent down to each."""
    campaign, method = job.campaign, job.method
    assert campaign is not None
    stage = _stage(job, campaign, task, state, downs, uploads, round)
    before = {name.removeprefix(MEMORY): t for name, t in state.server.items() if name.startswith(MEMORY)}

    # the model that every client sends; further models have their part of the memory under their own names
    whole = {name: tensor for name, tensor in before.items() if ":" not in name}
    done = campaign.poison(stage, whole)
    left = {f"{MEMORY}{name}": tensor for name, tensor in done.memory.items()}
    sent = [replace(u, w=done.rows[u.client]) for u in uploads]

    for name, source in method.also_sent.items():
        starts = {client: down.server.get(source) for client, down in downs.items()}
        mine = {k.removeprefix(f"{name}:"): t for k, t in before.items() if k.startswith(f"{name}:")}
        sent, mine = _further(campaign, stage, sent, name, starts, mine)
        left |= {f"{MEMORY}{name}:{k}": t for k, t in mine.items()}

    if method.continues and campaign.attack.on_upload:
        left[HONEST] = _honest_rows(campaign, state, uploads)
    return Poisoned(sent, left, dict(done.numbers), done.notes)


def _stage(
    job: Job,
    campaign: Campaign,
    task: Task,
    state: State,
    downs: Mapping[int, Down],
    uploads: Sequence[Upload],
    round: int,
) -> Stage:
    """The round as an attack is told of it."""
    method, layout = job.method, task.layout
    ids = [u.client for u in uploads]
    known = method.references(state, [downs[client] for client in ids], uploads, task)
    references = dict(zip(ids, known, strict=True))
    for client, row in _own_models(campaign, state).items():
        if client in references:
            references[client] = layout.take(row, method.columns.travels)

    return Stage(
        round=round,
        sent=tuple(Sent(u.client, u.w, references[u.client]) for u in uploads),
        parameters=parameters_of(job, task),
        weights=dict(zip(ids, weights_of(job, task, uploads).tolist(), strict=True)),
        fresh=lambda generator: layout.take(job.untrained(generator), method.columns.travels),
        kind=method.averages,
        server_step=method.server_step,
        assumed=None if job.protection is None else job.protection.share,
    )


def _further(
    campaign: Campaign,
    stage: Stage,
    uploads: list[Upload],
    name: str,
    starts: Mapping[int, Tensor | None],
    memory: dict[str, Tensor],
) -> tuple[list[Upload], dict[str, Tensor]]:
    """The same for a second model that some clients send as `name`, from `starts`: uploads and attackers' memory."""
    sent = []
    for u in uploads:
        start = starts[u.client]
        if name in u.sent and start is not None:
            sent.append(Sent(u.client, u.sent[name], start))
    if not sent:
        return uploads, memory

    done = campaign.poison(replace(stage, sent=tuple(sent)), memory)
    out = []
    for u in uploads:
        row = done.rows.get(u.client)
        out.append(u if row is None else replace(u, sent={**u.sent, name: row}))
    return out, dict(done.memory)


def _honest_rows(campaign: Campaign, state: State, uploads: Sequence[Upload]) -> Tensor:
    """The models (M, P) with which malicious clients go on that keep their own."""
    before = state.server.get(HONEST)
    if before is None:
        before = uploads[0].w.new_full((len(campaign.malicious), len(uploads[0].w)), torch.nan)
    rows = before.clone()
    for u in uploads:
        if u.client in campaign.malicious:
            rows[campaign.malicious.index(u.client)] = u.w
    return rows


def repentant(campaign: Campaign, left: Mapping[str, Tensor], ids: Sequence[int]) -> dict[str, Tensor]:
    """What attackers remember after an honest round of the clients `ids`: the server has their own models again."""
    if HONEST not in left:
        return dict(left)
    rows = left[HONEST].clone()
    honest = [k for k, client in enumerate(campaign.malicious) if client in ids]
    rows[honest] = torch.nan
    return {**left, HONEST: rows}
