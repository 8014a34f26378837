"""What a client may still do with its personal model before it uses it, offered to every method alike.

Kinds: `mixed` (the model as it is), `ft1` and `ft5` (1 or 5 more local epochs), `head10` (10 epochs of the last layer,
base frozen), and `own` (after the method's own personal step, and the own step that the federation voted for while it
trained: the model that `fltk train` prints). Each of the others also with the client's label prior (`-prior`: the
offset of `fltk.train.prior` in the logits, while tuning too), and the tuned ones drawn back towards the model they came
from, u + w (tuned - u) (`-w0.5`).

The federation votes on the mean of the headline measure on validation data. It leaves the first candidate, which is
`mixed` unless something else is asked for, only for a gain above a margin, because twenty validation sets of twenty
samples are noisy. `client` lets
each client choose by its own validation loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fltk.engine.base import Bench
from fltk.errors import unknown
from fltk.names import DEPLOY_PRIORS, DEPLOY_WEIGHTS, DEPLOYMENTS
from fltk.objectives import ACCURACY, Measure
from fltk.train.own_step import WORK, Candidate, adapted, label_offset, used
from fltk.train.scoring import Score

KINDS = ("mixed", *WORK, "own")
OWN = Candidate("own")
MARGIN = 0.01

Vector = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Deployment:
    """What may be deployed, and who decides.

    mode: `vote`, `client`, or a kind to which the vote is restricted.  prior: 0 without, 1 with the label prior, auto
    for both.  w: a share, or auto for all of them.
    """

    mode: str = "vote"
    prior: str = "0"
    w: str = "1"

    def __post_init__(self) -> None:
        for option, value, names in (
            ("deploy", self.mode, DEPLOYMENTS),
            ("deploy-prior", self.prior, DEPLOY_PRIORS),
            ("deploy-w", self.w, DEPLOY_WEIGHTS),
        ):
            if value not in names:
                raise unknown("deployment", value, names, f"--{option}")

    def asked(self) -> dict[str, str]:
        """As the registry stores it in the summary of an evaluation."""
        return {"deploy": self.mode, "deploy_prior": self.prior, "deploy_w": self.w, "deploy_own": "1"}

    def made(self, summary: Mapping[str, Any]) -> bool:
        """Whether a stored evaluation is of this deployment; older ones do not name what there was no choice of."""
        return {"deploy_prior": "0", "deploy_w": "1", **summary}.items() >= self.asked().items()

    def candidates(self) -> list[Candidate]:
        """All that is tried, the simplest first: a tie goes to the earlier one."""
        priors = (False, True) if self.prior == "auto" else (self.prior == "1",)
        shares = [float(w) for w in (DEPLOY_WEIGHTS if self.w == "auto" else (self.w,)) if w != "auto"]
        found = []
        for prior in priors:
            found.append(Candidate("mixed", prior))
            found += [Candidate(kind, prior, w) for w in shares for kind in WORK]
        return [*found, OWN]


@dataclass(frozen=True)
class DeployTask:
    """One client's personal model, to be used in every way and scored."""

    round: int
    client: int
    model: Tensor  # (P,)
    candidates: tuple[Candidate, ...]
    choice: int  # of the federation's own step, a place in `own_step.CANDIDATES`


def deploy_client(bench: Bench, task: DeployTask) -> dict[str, tuple[Score, Score]]:
    """Validation and test score of every candidate of one client, by its name."""
    client, trainer = bench.client(task.client), bench.trainer.at(task.round, task.client)
    others = [candidate for candidate in task.candidates if candidate.kind != "own"]
    offset = torch.empty(0)  # only candidates with a prior add one
    if any(candidate.prior for candidate in others):
        offset = label_offset(client, bench.pooled, trainer)
    models = dict(zip(others, adapted(task.model, offset, client, trainer, others), strict=True))

    personal = bench.method.personalise(task.model, client, trainer)
    models[OWN] = used(personal, task.choice, client, trainer, bench.pooled)

    found = {}
    for candidate, model in models.items():
        found[candidate.name] = trainer.score(model, client.val), trainer.score(model, client.test)
    return found


def choose(
    candidates: Sequence[Candidate],
    val: Mapping[str, Vector],
    val_loss: Mapping[str, Vector],
    mode: str,
    measure: Measure = ACCURACY,
) -> list[str]:
    """The name of every client's candidate under a deployment mode.

    val, val_loss: values of the measure, and losses, per candidate (N,), NaN for a client without validation
    samples; nothing else decides.
    """
    names = [c.name for c in candidates if mode in ("vote", "client", c.kind)]
    n = len(val[names[0]])
    if mode == "client":
        losses = np.stack([np.nan_to_num(val_loss[name], nan=np.inf) for name in names])
        return [names[k] for k in losses.argmin(0)]
    if np.isnan(val[names[0]]).all():
        return [names[0]] * n
    means = {name: float(np.nanmean(val[name])) for name in names}
    first = means[names[0]]
    gains = {name: measure.gain(means[name], first) for name in names}
    best = max(names, key=lambda name: gains[name])
    least = first * MARGIN if measure.relative else MARGIN
    return [best if gains[best] > least else names[0]] * n
