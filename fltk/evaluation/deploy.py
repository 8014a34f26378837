"""What a client may still do with its personal model before it uses it, offered to every method alike.

Candidates: `mixed` (the model as it is), `ft1` and `ft5` (1 or 5 more local epochs), `head10` (10 epochs of the last
layer, base frozen). The federation votes on mean validation accuracy and leaves `mixed` only for a gain above a margin,
because twenty validation sets of twenty samples are noisy; `client` lets each client choose by its own validation loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fltk.engine.base import Bench
from fltk.errors import unknown
from fltk.names import DEPLOYMENTS
from fltk.train.trainer import Score

CANDIDATES = ("mixed", "ft1", "ft5", "head10")
MARGIN = 0.01

Vector = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class DeployTask:
    """One client's personal model, to be tuned in every way and scored."""

    round: int
    client: int
    model: Tensor


def deploy_client(bench: Bench, task: DeployTask) -> dict[str, tuple[Score, Score]]:
    """Validation and test score of every candidate of one client."""
    client, trainer = bench.client(task.client), bench.trainer.at(task.round, task.client)
    models = {
        "mixed": task.model,
        "ft1": trainer.sgd(task.model, client.train, epochs=1),
        "ft5": trainer.sgd(task.model, client.train, epochs=5),
        "head10": trainer.sgd(task.model, client.train, epochs=10, only="head"),
    }
    return {name: (trainer.score(w, client.val), trainer.score(w, client.test)) for name, w in models.items()}


def choose(val_acc: dict[str, Vector], val_loss: dict[str, Vector], mode: str) -> list[str]:
    """The candidate of every client under a deployment mode.

    val_acc, val_loss: per candidate (N,), NaN for a client without validation samples; nothing else decides.
    """
    n = len(val_acc["mixed"])
    if mode in CANDIDATES:
        return [mode] * n
    if mode == "client":
        losses = np.stack([np.nan_to_num(val_loss[c], nan=np.inf) for c in CANDIDATES])
        return [CANDIDATES[k] for k in losses.argmin(0)]
    if mode != "vote":
        raise unknown("deployment", mode, DEPLOYMENTS, "--deploy")
    if np.isnan(val_acc["mixed"]).all():
        return ["mixed"] * n
    means = {c: float(np.nanmean(val_acc[c])) for c in CANDIDATES}
    best = max(CANDIDATES, key=lambda c: means[c])
    return [best if means[best] > means["mixed"] + MARGIN else "mixed"] * n
