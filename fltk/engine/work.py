"""What is done for one client: module-level functions that any engine can run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from fltk.engine.base import Bench
from fltk.methods.base import Down, Upload
from fltk.train.trainer import Score


@dataclass(frozen=True)
class TrainTask:
    """Train one client in one round."""

    round: int
    client: int
    down: Down


@dataclass(frozen=True)
class ScoreTask:
    """Score one client's personal model, and the global one if there is another, on both held-out splits."""

    round: int
    client: int
    personal: Tensor
    shared: Tensor | None


@dataclass(frozen=True)
class ClientScores:
    """Scores of one client; `shared` is None where the method has no global model."""

    val: Score
    test: Score
    shared_val: Score | None
    shared_test: Score | None


def train_client(bench: Bench, task: TrainTask) -> tuple[Upload, float]:
    """The upload, cut into what travels and what stays, and the mean training loss."""
    trainer = bench.trainer.at(task.round, task.client)
    upload = bench.method.local_update(task.down, bench.client(task.client), trainer)
    layout, shared = trainer.layout, bench.method.shared
    private = layout.take(upload.w, layout.rest(shared))
    own = {**upload.own, "private": private.clone()} if private.numel() else upload.own
    loss = sum(trainer.losses) / len(trainer.losses) if trainer.losses else math.nan
    return replace(upload, w=layout.take(upload.w, shared).clone(), own=own, client=task.client), loss


def score_client(bench: Bench, task: ScoreTask) -> ClientScores:
    """Scores after the method's own personalisation step; nothing is fed back."""
    client, trainer = bench.client(task.client), bench.trainer.at(task.round, task.client)
    personal = bench.method.personalise(task.personal, client, trainer)
    val, test = trainer.score(personal, client.val), trainer.score(personal, client.test)
    if task.shared is None:
        return ClientScores(val, test, None, None)
    if task.shared.data_ptr() == personal.data_ptr():  # one model for everybody: score it once
        return ClientScores(val, test, val, test)
    return ClientScores(val, test, trainer.score(task.shared, client.val), trainer.score(task.shared, client.test))
