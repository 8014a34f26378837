"""FedEM: a few component models for all, and for each client its own mixture of what they predict.

O. Marfoq, G. Neglia, A. Bellet, L. Kameni, R. Vidal. "Federated Multi-Task Learning under a Mixture of Distributions."
NeurIPS 2021. arXiv:2108.10252

    p(y | x)  = sum_m pi_im softmax(h_m(x))_y                       what client i predicts
    (E)       q_sm ~ pi_im softmax(h_m(x_s))_{y_s}                  sums to 1 over m
    (M)       pi_im = 1/n_i sum_s q_sm;   theta_m <- SGD(sum_s q_sm loss_m(s))
    (server)  theta_m <- sum_{i in S} p_i theta_im                  pi_i never leaves the client

The network of the run is one whose output is log p(y | x): M copies of the given one, and the log-shares log pi_i as
private columns.

Differs from the paper: q follows the weights from batch to batch, where theirs stays as it was at the round's
beginning. With fresh q the M step's gradient is that of -log p, so that local work is plain SGD on the mixture; with M
= 1 it is FedAvg. A newcomer finds its shares by EM and trains no weight, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fltk.hyper import hyper
from fltk.models.layout import ROOT
from fltk.models.parts import Columns, Part
from fltk.partition.federation import ClientData, Split
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer

SHARES = Part(ROOT)  # the columns of the log-shares: parameters of the mixture itself
LEAST = 1e-6  # of a share, so that a component can come back
JOIN_STEPS = 20  # of EM on a newcomer's shares


class Mixture(nn.Module):
    """log p(y | x) of M networks by shares: (n, ...) -> (n, C)."""

    def __init__(self, components: list[nn.Module]) -> None:
        super().__init__()
        self.log_shares = nn.Parameter(torch.empty(len(components)))
        self.components = nn.ModuleList(components)

    def reset_parameters(self) -> None:
        """Equal shares."""
        with torch.no_grad():
            self.log_shares.fill_(-torch.tensor(float(len(self.components))).log())

    def forward(self, x: Tensor) -> Tensor:
        log_p = torch.stack([component(x).log_softmax(1) for component in self.components])
        return torch.logsumexp(self.log_shares.log_softmax(0)[:, None, None] + log_p, 0)


@dataclass(frozen=True)
class FedEM(Method):
    """FedAvg on components, and EM on each client's shares."""

    title: ClassVar[str] = "shared component models, mixed in each client's predictions"
    printed: ClassVar[str] = "personal"

    components: int = hyper(3, "number of component models M", low=1)

    def check(self, task: Task) -> None:
        task.need_labels("fedem")

    @property
    def columns(self) -> Columns:
        return Columns(travels=~SHARES, private=SHARES)

    def network(self, base: Callable[[], nn.Module]) -> nn.Module:
        with torch.device("meta"):
            return Mixture([base() for _ in range(self.components)])

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        w = self._with_shares(down.w, client.train, trainer)
        return Upload(trainer.sgd(w, client.train, only=self.columns.travels))

    def _with_shares(self, w: Tensor, data: Split, trainer: Trainer, steps: int = 1) -> Tensor:
        """The mixture (P,) after EM on its shares alone; every step makes the samples more likely, or as likely."""
        likelihood = self._likelihoods(w, data, trainer)
        shares = trainer.layout.take(w, SHARES).double().softmax(0)
        for _ in range(steps):
            q = likelihood * shares
            shares = (q / q.sum(1, keepdim=True)).mean(0).clamp_min(LEAST)
            shares = shares / shares.sum()
        return trainer.layout.put(w, SHARES, shares.log().float())

    def _likelihoods(self, w: Tensor, data: Split, trainer: Trainer) -> Tensor:
        """(n, M) float64: what each component says of each sample's label, up to a factor per sample."""
        columns = []
        for m in range(self.components):
            alone = torch.full((self.components,), -torch.inf)
            alone[m] = 0.0
            log_p = trainer.outputs(trainer.layout.put(w, SHARES, alone), data.x)
            columns.append(log_p[torch.arange(len(data)), data.y].double())
        log_likelihood = torch.stack(columns, 1)
        return (log_likelihood - log_likelihood.amax(1, keepdim=True)).exp()

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer takes the components and finds its shares."""
        joined = super().join(state, client, trainer, task)
        model = self._with_shares(joined.arrival, client.train, trainer, JOIN_STEPS)
        return Joined(joined.arrival, model, row=joined.row, down=joined.down)
