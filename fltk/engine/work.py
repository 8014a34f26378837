"""What is done for one client: module-level functions that any engine can run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fltk.engine.base import Bench
from fltk.errors import Diverged, FltkError
from fltk.protocol.averaging import partial_sum
from fltk.protocol.messages import Down, Upload, bytes_of
from fltk.protocol.method import Method
from fltk.protocol.server import ClientWork, ServerWork
from fltk.train import own_step
from fltk.train.scoring import Score
from fltk.train.trainer import SERVER


@dataclass(frozen=True)
class TrainTask:
    """Train one client in one round.

    into: rows that take up what comes of it, if they can be reached: `w` the uploaded columns, and under their names
    what the client keeps. These are then not in the upload any more.
    """

    round: int
    client: int
    down: Down
    into: Mapping[str, Tensor] = field(default_factory=dict)
    voted: Tensor | None = None  # (P,) the personal model on whose own step the client is asked to vote


def put(upload: Upload, into: Mapping[str, Tensor], down: Down) -> Upload:
    """Writes an upload to the rows that there are for it, by name as in `TrainTask.into`, and leaves that out of it."""
    own = dict(upload.own)
    for name, row in into.items():
        if name != "w":
            row.copy_(own.pop(name, down.own[name]))
        elif upload.model:
            row.copy_(upload.w)
    return replace(upload, w=upload.w[:0].clone() if "w" in into else upload.w, own=own)


def whole(upload: Upload, rows: Mapping[str, Tensor]) -> Upload:
    """The upload with what has been written to rows."""
    own = {name: row for name, row in rows.items() if name != "w"}
    w = rows.get("w", upload.w) if upload.model else upload.w
    return replace(upload, w=w, own={**upload.own, **own})


@dataclass(frozen=True)
class ScoreTask:
    """Score one client's personal model, and the global one if there is another, on both held-out splits."""

    round: int
    client: int
    personal: Tensor
    shared: Tensor | None
    choice: int = 0  # the own step that the federation has chosen, a place in `own_step.CANDIDATES`


@dataclass(frozen=True)
class ClientScores:
    """Scores of one client; `shared` is None where the method has no global model."""

    val: Score
    test: Score
    shared_val: Score | None
    shared_test: Score | None
    triggered: Score | None = None  # on test images of other classes with a backdoor's trigger, for its target


@dataclass(frozen=True)
class RootTask:
    """Train the server's own clean set from a row."""

    round: int
    start: Tensor  # (P,)


def train_root(bench: Bench, task: RootTask) -> Tensor:
    """What the run's local training makes of a row (P,) on the server's root set."""
    data = bench.root
    try:
        return bench.trainer.at(task.round, SERVER).sgd(task.start, data) if len(data) else task.start
    except Diverged:  # from a row that a malicious client has made: what is trained from it tells nothing
        return task.start


def train_client(bench: Bench, task: TrainTask) -> tuple[Upload, float]:
    """The upload, cut into what travels and what stays and without what has a place, and the mean training loss."""
    upload, loss = _trained(bench, task)
    if task.voted is not None:
        upload = replace(upload, ballot=_ballot(bench, task, task.voted))
    return put(upload, task.into, task.down), loss


def _ballot(bench: Bench, task: TrainTask, personal: Tensor) -> Tensor | None:
    """The client's vote on the own step, from the model that it would use before this round.

    A malicious client votes with its clean data: attacks are on models and data, not on votes.
    """
    client, trainer = bench.client(task.client), bench.trainer.at(task.round, task.client)
    try:
        personal = bench.method.personalise(personal, client, trainer)
    except Diverged:
        return None
    return own_step.ballot(personal, client, trainer, bench.pooled)


def _trained(bench: Bench, task: TrainTask) -> tuple[Upload, float]:
    """What the client's round produced, cut into the columns that travel and the private ones, and its mean loss."""
    client, trainer = bench.training(task.client, task.round)
    layout, columns = trainer.layout, bench.method.columns
    down = task.down if len(task.down.w) == layout.size else task.down.whole(bench.task, columns)
    if len(down.w) > layout.size:  # private rows are as long as the largest network of the run
        down = replace(down, w=down.w[: layout.size])

    before = torch.get_rng_state()
    try:
        upload = bench.method.local_update(down, client, trainer)
    except Diverged:
        if not bench.attacked:
            raise
        return Upload(torch.full((layout.width(columns.travels),), math.nan), client=task.client), math.nan
    checked(bench.method, upload, layout.size, before)
    loss = sum(trainer.losses) / len(trainer.losses) if trainer.losses else math.nan
    if not len(upload.w):
        return replace(upload, client=task.client, model=False, nbytes=bytes_of(upload.sent)), loss

    own = dict(upload.own)
    private = layout.take(upload.w, columns.private)
    if private.numel():
        width = bench.task.layout.width(columns.private)
        own["private"] = torch.nn.functional.pad(private, (0, width - len(private)))
    sent = layout.take(upload.w, columns.travels)
    nbytes = 4 * len(sent) + bytes_of(upload.sent)
    return replace(upload, w=sent, own=own, client=task.client, nbytes=nbytes), loss


def checked(method: Method, upload: object, size: int, before: Tensor) -> None:
    """FltkError, in one line, where `local_update` broke a promise that every method makes.

    size: P, of a whole model.  before: the state of torch's global random numbers before the call.
    """
    name = f"{type(method).__name__}.local_update"
    if not isinstance(upload, Upload):
        raise FltkError(f"{name} has to return an Upload, not {type(upload).__name__}")
    if not isinstance(upload.w, Tensor) or tuple(upload.w.shape) not in ((size,), (0,)):
        found = tuple(upload.w.shape) if isinstance(upload.w, Tensor) else type(upload.w).__name__
        raise FltkError(f"{name} has to return a whole model of shape ({size},), or an empty one, not {found}")
    if not torch.equal(before, torch.get_rng_state()):
        raise FltkError(f"{name} drew from torch's global random numbers; take trainer.streams.generator(...) instead")


@dataclass(frozen=True)
class AskTask:
    """One exchange that the server asks for beyond the round's own, with one client."""

    round: int
    client: int
    work: ClientWork
    down: Down


def ask_client(bench: Bench, task: AskTask) -> Upload:
    """The client's answer, with its bytes."""
    client, trainer = bench.training(task.client, task.round)
    upload = task.work(task.down, client, trainer)
    return replace(upload, client=task.client, nbytes=4 * len(upload.w) + bytes_of(upload.sent))


@dataclass(frozen=True)
class ServerTask:
    """One item of the server's own work."""

    round: int
    work: ServerWork
    item: Any


def serve(bench: Bench, task: ServerTask) -> Any:
    """What the server's work makes of an item, with a trainer that stands at no client."""
    return task.work(bench.trainer.at(task.round, SERVER), task.item)


@dataclass(frozen=True)
class Weighted:
    """A client's training, and what its upload weighs in the sum of all."""

    task: TrainTask
    weight: float


@dataclass(frozen=True)
class Part:
    """Clients whose uploads have been added up where they were trained; what has been added is in them no more."""

    totals: Mapping[str, Tensor]  # float64: of the models (`w`) and of whatever else was sent, by name
    uploads: list[Upload]
    losses: list[float]


def train_weighted(bench: Bench, given: Weighted) -> tuple[Upload, float, float]:
    """The upload, the mean training loss, and the weight."""
    return (*train_client(bench, given.task), given.weight)


def add_up(trained: Sequence[tuple[Upload, float, float]]) -> Part:
    """The weighted sums of some clients' uploads, in their order."""
    uploads, losses, weights = zip(*trained, strict=True)
    share = torch.tensor(weights, dtype=torch.float64)
    totals = {name: partial_sum([upload.sent[name] for upload in uploads], share) for name in uploads[0].sent}
    totals["w"] = partial_sum([upload.w for upload in uploads], share)
    return Part(totals, [replace(upload, w=upload.w[:0].clone(), sent={}) for upload in uploads], list(losses))


def score_client(bench: Bench, task: ScoreTask) -> ClientScores:
    """Scores after the method's own personalisation step, on clean data; nothing is fed back.

    In an attacked run a step that diverges is left out, and training that does makes an upload that is not finite.
    """
    client, trainer = bench.client(task.client), bench.trainer.at(task.round, task.client)
    personal = task.personal
    try:
        personal = bench.method.personalise(task.personal, client, trainer)
    except Diverged:
        if not bench.attacked:
            raise
    if task.choice:
        personal = own_step.used(personal, task.choice, client, trainer, bench.pooled)
    val, test = trainer.scores(personal, client.val, client.test)
    triggered = bench.triggered(client)
    fooled = None if triggered is None else trainer.score(personal, triggered)
    if task.shared is None:
        return ClientScores(val, test, None, None, fooled)
    if task.shared.data_ptr() == personal.data_ptr():  # one model for everybody: score it once
        return ClientScores(val, test, val, test, fooled)
    shared_val, shared_test = trainer.scores(task.shared, client.val, client.test)
    return ClientScores(val, test, shared_val, shared_test, fooled)
