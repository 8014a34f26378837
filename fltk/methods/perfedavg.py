"""Per-FedAvg: a global model that is good one local step later.

A. Fallah, A. Mokhtari, A. Ozdaglar. "Personalized Federated Learning with Theoretical Guarantees: A Model-Agnostic
Meta-Learning Approach." NeurIPS 2020. arXiv:2002.07948

    min_w sum_i p_i F_i(w - alpha grad F_i(w))

    (client, for batches D, D', D'')
        w~ = w - alpha grad F_i(w; D),   g = grad F_i(w~; D')
        fo    w <- w - beta g
        hf    w <- w - beta (g - alpha h),   h = (grad F_i(w + delta g; D'') - grad F_i(w - delta g; D'')) / (2 delta)
    (server)  w <- sum_{i in S} p_i w_i
    (use)     v_i = w after `adapt_steps` local steps of rate alpha

`fo` drops the second-order term, `hf` estimates the Hessian's product with g.

Differs from the paper: clients weigh by samples (`--agg-weights uniform` for the paper's mean). The batches are the
run's local work, two or three of them a step, which so has as many samples as in every other method. Gradients of `hf`
are taken in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.errors import UsageError
from fltk.hyper import hyper
from fltk.partition.federation import ClientData, Split
from fltk.protocol.messages import Down, Upload
from fltk.protocol.method import Method
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class PerFedAvg(Method):
    """FedAvg of a start that is meant for a local step."""

    title: ClassVar[str] = "a global model that is good one local step later (MAML)"
    cannot: ClassVar[Mapping[str, str]] = {"augment": "its rule goes from batch to batch, as they are"}
    printed: ClassVar[str] = "tuned"

    variant: str = hyper("fo", "first-order, or with a finite difference for the Hessian", choices=("fo", "hf"))
    alpha: float = hyper(0.01, "rate of the inner step, and of the step before use", low=0)
    beta: float | None = hyper(None, "rate of the outer step (default: the local rate)", low=0)
    delta: float = hyper(1e-3, "hf: distance of the finite difference", low=1e-12)
    adapt_steps: int = hyper(1, "steps of a client before it uses the model", low=0)

    def check(self, task: Task) -> None:
        if not task.plain_sgd:
            raise UsageError(
                "--method perfedavg assumes plain SGD: leave out --momentum, --weight-decay, --clip-grad, --client-opt"
            )

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        each, w = 2 if self.variant == "fo" else 3, down.w
        steps = max(1, trainer.steps(len(client.train)) // each)
        batches = iter(trainer.batches(client.train, steps * each))
        for some in zip(*[batches] * each, strict=True):
            w = self._step(w, some, trainer)
        return Upload(w)

    def _step(self, w: Tensor, batches: tuple[Split, ...], trainer: Trainer) -> Tensor:
        beta = trainer.lr if self.beta is None else self.beta
        inner = trainer.sgd(w, batches[0], epochs=1, lr=self.alpha) if self.alpha else w
        if self.variant == "fo":
            there = trainer.sgd(inner, batches[1], epochs=1, lr=beta)
            return there if inner is w else w + (there - inner)
        g = trainer.gradient(inner, batches[1])
        ahead, behind = (trainer.gradient(w + sign * self.delta * g, batches[2]) for sign in (1, -1))
        return w - beta * (g - self.alpha * (ahead - behind) / (2 * self.delta))

    def personalise(self, w: Tensor, client: ClientData, trainer: Trainer) -> Tensor:
        for batch in trainer.batches(client.train, self.adapt_steps):
            w = trainer.sgd(w, batch, epochs=1, lr=self.alpha)
        return w
