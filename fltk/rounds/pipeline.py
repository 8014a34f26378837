"""A round with malicious clients and a defence: from what clients trained to what the method is given.

In this order: everybody has trained, malicious clients on their own terms; their uploads are poisoned; uploads that are
not finite are dropped and counted; the defence judges the rest once; the method averages through the round's context.
What attackers and defence remember is part of the run's state, so that a resumed run has the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fltk import metrics
from fltk.attacks.base import Attack, Sent, claimed
from fltk.attacks.campaign import Campaign, Stage
from fltk.defences.base import assumed
from fltk.defences.guard import Guard, Watch
from fltk.engine.base import Engine, Job
from fltk.engine.work import ClientScores, RootTask, train_root
from fltk.errors import UsageError
from fltk.models.parts import NONE
from fltk.objectives.base import headline_of
from fltk.protocol.averaging import MIXED
from fltk.protocol.context import Context
from fltk.protocol.map import Map
from fltk.protocol.messages import Down, Upload
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.protocol.verdict import PREFIX

MEMORY = "attack."  # tensors that attackers remember
HONEST = "attack-own"  # (M, P) trained models of malicious clients that go on with their own; NaN where there is none
Values = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class Faced:
    """A round's uploads as the method gets them, its context, and what is to be stored of the round."""

    uploads: list[Upload]
    context: Context
    watch: Watch | None = None  # the defence of the round, whose verdict the context has
    left: Mapping[str, Tensor] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    clients: Mapping[str, Values] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def remembered(self, state: State) -> State:
        """The method's next state with what attackers and defence remember."""
        kept = {k: v for k, v in state.server.items() if not (k.startswith((PREFIX, MEMORY)) or k == HONEST)}
        return replace(state, server={**kept, **self.left}) if self.left or len(kept) < len(state.server) else state


def guard_of(job: Job, task: Task) -> Guard | None:
    """The run's defence at work."""
    found = job.protection
    if found is None:
        return None
    uniform = found.weights == "uniform" or (not found.weights and not found.defence.weighted)
    return Guard(
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


def check(job: Job, task: Task) -> tuple[str, ...]:
    """Refuse, with the option's name, what method, attack and defence cannot do together; gives lines to tell."""
    job.method.check(task)
    n, campaign = participants(job, task), job.campaign
    notes = nothing_private(job, task)
    if campaign is not None:
        bad = min(n, len(campaign.malicious))
        if bad and campaign.start >= job.train.rounds:
            raise UsageError(
                f"--attack-start {campaign.start + 1}: the run has {job.train.rounds} rounds, and no client would ever "
                "attack; lower it or raise --rounds"
            )
        objective = job.federation.objective
        if campaign.attack.labels and not objective.softmax:
            raise UsageError(
                f"--kind: this attack changes class labels, and {objective.name} has none; choose one on models, "
                "such as random-model"
            )
        notes += campaign.attack.check(job.federation.shape, job.federation.n_classes, n, bad)
    guard, found = guard_of(job, task), job.protection
    if guard is None or found is None:
        return notes
    why = job.method.cannot.get("defence")
    if why:
        raise UsageError(f"--defence {found.name}: {why}; leave --defence out")
    share = 0.0 if campaign is None else len(campaign.malicious) / task.n_clients
    if share >= 0.5 and guard.defence.most(n) < assumed(share, n):
        raise UsageError(
            f"--malicious: --defence {found.name} cannot face {assumed(share, n)} of the {n} clients in a round, "
            f"at most {max(0, guard.defence.most(n))}"
        )
    guard.check(found.name, n, task.class_head is not None)
    if guard.defence.private and job.method.beside:
        raise UsageError(
            f"--defence {found.name} does not go with this --method: clients also send {job.method.beside}, which it "
            "neither clips nor hides"
        )
    if guard.defence.needs_root and not any(len(part) for part in job.federation.held_out):
        raise UsageError(
            f"--defence {found.name} needs a clean set on the server, which is drawn from the newcomers' data: train "
            "with --newcomers 4"
        )
    return notes


def nothing_private(job: Job, task: Task) -> tuple[str, ...]:
    """A line to tell where clients keep a part of the model of which this network has nothing."""
    private = job.method.columns.private
    if private == NONE or task.layout.width(private):
        return ()
    return (f"--model: this network has no part {private}, so that clients keep nothing private",)


def participants(job: Job, task: Task) -> int:
    """Clients in a round."""
    return min(task.n_clients, max(1, math.floor(job.train.participation * task.n_clients + 0.5)))


def own_starts(job: Job, state: State, ids: Sequence[int], downs: Sequence[Down]) -> list[Down]:
    """What clients really train from: a malicious one that goes on with its own model has not the one it uploaded."""
    if HONEST not in state.server or job.campaign is None:
        return list(downs)
    models = dict(zip(job.campaign.malicious, state.server[HONEST], strict=True))  # client -> (P,)

    starts = []
    for client, down in zip(ids, downs, strict=True):
        model = models.get(client)
        if model is not None and not bool(model.isnan().any()):  # NaN: it has not trained yet
            down = replace(down, w=model)
        starts.append(down)
    return starts


def face(
    job: Job, engine: Engine, task: Task, state: State, downs: Sequence[Down], uploads: Sequence[Upload], round: int
) -> Faced:
    """What becomes of a round's uploads; `downs` is what was sent to their clients, as the server knows it."""
    campaign, guard = job.campaign, guard_of(job, task)
    attacked = campaign is not None and campaign.on(round)
    if campaign is not None and attacked and campaign.size != 1:
        task = replace(task, n=claimed(task.n, campaign.malicious, campaign.size))
    if guard is None and (campaign is None or not campaign.malicious):
        return Faced(list(uploads), Context(round, task))
    scalars = {"dropped": float(len(uploads))}
    notes: tuple[str, ...] = ()
    down = {u.client: d for u, d in zip(uploads, downs, strict=True)}
    told, left = finite(uploads), {k: v for k, v in state.server.items() if k.startswith(MEMORY) or k == HONEST}
    if campaign is not None and attacked and told:
        told, left, more, notes = poisoned(job, campaign, task, state, down, told, round)
        scalars |= more | knowledge(campaign.attack)
        scalars["attackers"] = float(sum(campaign.hits(round, u.client) for u in uploads))
        told = finite(told)
    elif campaign is not None:
        left = repentant(campaign, left, [u.client for u in told])
    scalars["dropped"] -= len(told)
    watch = judged(job, engine, guard, task, state, [down[u.client] for u in told], told, round) if told else None
    if guard is not None and watch is None:
        left |= {k: v for k, v in state.server.items() if k.startswith(PREFIX)}
    if watch is None:
        return Faced(told, Context(round, task), None, left, scalars, {}, notes)
    # a rule's state is settled when the method has averaged: the watch is read then, by `settled`
    return Faced(told, Context(round, task, watch), watch, left, scalars, {}, notes)


def knowledge(attack: Attack) -> dict[str, float]:
    """What attackers know and whether they send one vector, 0 or 1: stored, so that a run says what it stands for."""
    known = {f"attack_knows_{what}": float(what in attack.sees) for what in ("benign", "defence")}
    return known | {"attack_colludes": float(attack.colludes)}


def finite(uploads: Sequence[Upload]) -> list[Upload]:
    """The uploads without NaN or infinity in what they send."""
    return [u for u in uploads if all(bool(torch.isfinite(sent).all()) for sent in (u.w, *u.sent.values()))]


def poisoned(
    job: Job,
    campaign: Campaign,
    task: Task,
    state: State,
    downs: Mapping[int, Down],
    uploads: Sequence[Upload],
    round: int,
) -> tuple[list[Upload], dict[str, Tensor], dict[str, float], tuple[str, ...]]:
    """Uploads as they are really sent, what attackers remember, scalars of the round and lines to tell."""
    method, layout = job.method, task.layout
    known = method.references(state, [downs[u.client] for u in uploads], uploads, task)
    true = {u.client: r for u, r in zip(uploads, known, strict=True)}
    if HONEST in state.server:
        for k, row in zip(campaign.malicious, state.server[HONEST], strict=True):
            if k in true and not bool(row.isnan().any()):
                true[k] = layout.take(row, method.columns.travels)
    weights = dict(zip((u.client for u in uploads), weights_of(job, task, uploads).tolist(), strict=True))
    memory = {k.removeprefix(MEMORY): v for k, v in state.server.items() if k.startswith(MEMORY)}
    stage = Stage(
        round=round,
        sent=tuple(Sent(u.client, u.w, true[u.client]) for u in uploads),
        parameters=parameters_of(job, task),
        weights=weights,
        fresh=lambda generator: layout.take(job.untrained(generator), method.columns.travels),
        kind=method.averages,
        server_step=method.server_step,
        assumed=None if job.protection is None else job.protection.share,
    )
    done = campaign.poison(stage, {k: v for k, v in memory.items() if ":" not in k})
    left = {f"{MEMORY}{k}": v for k, v in done.memory.items()}
    out = [replace(u, w=done.rows[u.client]) for u in uploads]
    for name, start in method.also_sent.items():
        own = {k.removeprefix(f"{name}:"): v for k, v in memory.items() if k.startswith(f"{name}:")}
        out, own = further(campaign, stage, out, name, {k: down.server.get(start) for k, down in downs.items()}, own)
        left |= {f"{MEMORY}{name}:{k}": v for k, v in own.items()}
    if method.continues and campaign.attack.on_upload:
        left[HONEST] = honest_rows(campaign, state, uploads)
    return out, left, dict(done.numbers), done.notes


def further(
    campaign: Campaign,
    stage: Stage,
    uploads: list[Upload],
    name: str,
    starts: Mapping[int, Tensor | None],
    memory: dict[str, Tensor],
) -> tuple[list[Upload], dict[str, Tensor]]:
    """The same for a second model that some clients send as `name`, from `starts`: uploads and attackers' memory."""
    rows = [(u.client, u.sent[name], starts[u.client]) for u in uploads if name in u.sent]
    sent = tuple(Sent(client, row, start) for client, row, start in rows if start is not None)
    if not sent:
        return uploads, memory
    done = campaign.poison(replace(stage, sent=sent), memory)
    out = [replace(u, sent={**u.sent, name: done.rows[u.client]}) if u.client in done.rows else u for u in uploads]
    return out, dict(done.memory)


def weights_of(job: Job, task: Task, uploads: Sequence[Upload]) -> Tensor:
    """The weights (K,) of the participants in an average: the method's, or equal ones where the defence has those."""
    guard = guard_of(job, task)
    task = replace(task, uniform=True) if job.method.equal or (guard is not None and guard.equal) else task
    return task.weights([u.client for u in uploads])


def honest_rows(campaign: Campaign, state: State, uploads: Sequence[Upload]) -> Tensor:
    """The models (M, P) with which malicious clients go on that keep their own."""
    before = state.server.get(HONEST)
    rows = uploads[0].w.new_full((len(campaign.malicious), len(uploads[0].w)), torch.nan) if before is None else before
    rows = rows.clone()
    for u in uploads:
        if u.client in campaign.malicious:
            rows[campaign.malicious.index(u.client)] = u.w
    return rows


def repentant(campaign: Campaign, left: Mapping[str, Tensor], ids: Sequence[int]) -> dict[str, Tensor]:
    """What attackers remember behind an honest round of the clients `ids`: the server has their own models again."""
    if HONEST not in left:
        return dict(left)
    rows = left[HONEST].clone()
    rows[[k for k, i in enumerate(campaign.malicious) if i in ids]] = torch.nan
    return {**left, HONEST: rows}


def judged(
    job: Job,
    engine: Engine,
    guard: Guard | None,
    task: Task,
    state: State,
    downs: Sequence[Down],
    uploads: Sequence[Upload],
    round: int,
) -> Watch | None:
    """The defence's watch over a round, with its verdict on the uploads."""
    if guard is None:
        return None
    references = job.method.references(state, downs, uploads, task)
    root = root_updates(job, engine, guard, task, references, round) if guard.defence.needs_root else None
    ids = [u.client for u in uploads]
    p = weights_of(job, task, uploads)
    return guard.watch(round, ids, [u.w for u in uploads], references, p, state.server, root)


def root_updates(
    job: Job, engine: Engine, guard: Guard, task: Task, references: Sequence[Tensor], round: int
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
        ids = [u.client for u in faced.uploads]
        trust = np.full(n, np.nan, np.float32)
        trust[ids] = watch.trust[ids].float().numpy()
        clients = {"trust": trust, "clip": watch.factor.float().numpy()}
        if watch.guard.defence.rejects:
            scalars |= verdicts(job.campaign, watch, ids)
    notes = (*faced.notes, *watch.notes)
    return replace(faced, left={**faced.left, **watch.left}, scalars=scalars, clients=clients, notes=notes)


def verdicts(campaign: Campaign | None, watch: Watch, ids: Sequence[int]) -> dict[str, float]:
    """Rejected are clients with trust below 0.5: how many, the shares of malicious and of benign ones, precision."""
    bad = {i for i in ids if campaign is not None and campaign.hits(watch.round, i)}
    rejected = {i for i in ids if float(watch.trust[i]) < 0.5}
    good = len(ids) - len(bad)
    return {
        "rejected": float(len(rejected)),
        "rejected_tpr": len(rejected & bad) / len(bad) if bad else math.nan,
        "rejected_fpr": len(rejected - bad) / good if good else math.nan,
        "rejected_precision": len(rejected & bad) / len(rejected) if rejected else math.nan,
    }


def weight_of_attackers(job: Job, found: Map | None, state: State, faced: Faced) -> dict[str, float]:
    """Mean weight that benign clients give to malicious ones, and its ratio to that of an average client.

    Average among those whose models could enter: the participants, and with mixed rows everybody who ever sent one.
    """
    campaign = job.campaign
    if campaign is None or not campaign.malicious or found is None:
        return {}
    there = {u.client for u in faced.uploads}
    if job.method.averages == MIXED:
        there = set(torch.nonzero(state.last >= 0).flatten().tolist())
    bad = sorted(there & set(campaign.malicious))
    good = [i for i in range(len(state.last)) if i not in campaign.malicious]
    if not bad or not good:
        return {}
    weight = float(found.whole()[good][:, bad].mean())
    return {"mal_weight": weight, "mal_weight_ratio": weight * len(there)}


def outcome(job: Job, vectors: Mapping[str, Values], scores: Sequence[ClientScores]) -> dict[str, float]:
    """Headline measure of the worst benign and of malicious clients on clean test data, and a backdoor's success."""
    campaign = job.campaign
    measure = headline_of(job.federation.objective)
    column = f"test_{measure.key}"
    if campaign is None or not campaign.malicious or f"personal_{column}" not in vectors:
        return {}
    bad = np.isin(np.arange(len(scores)), campaign.malicious)
    own = vectors[f"personal_{column}"]
    told = {f"attacker_{column}": metrics.acc_mean(own[bad])}
    for name, key in (("personal", "benign"), ("global", "benign_global")):
        if f"{name}_{column}" in vectors:
            told[f"{key}_worst10_{column}"] = metrics.acc_worst10(vectors[f"{name}_{column}"][~bad], measure)
    fooled = [s.triggered for s in scores if s.triggered is not None and s.triggered.n]  # benign clients' alone
    if fooled:
        told |= {"asr": metrics.acc_mean(np.array([s.accuracy for s in fooled])), "asr_clients": float(len(fooled))}
    return told
