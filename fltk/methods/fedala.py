"""FedALA: each client takes from the global model what helps it, element by element.

J. Zhang, Y. Hua, H. Wang, T. Song, Z. Xue, R. Ma, H. Guan. "FedALA: Adaptive Local Aggregation for Personalized
Federated Learning." AAAI 2023. arXiv:2212.01197

    theta^_i = theta_i + (w - theta_i) * W_i        in the last layers; w below them
    W_i <- clip(W_i - eta grad_{theta^_i} F_i * (w - theta_i), 0, 1)       batch by batch, on some of the client's data
    theta_i <- SGD(F_i, theta^_i)
    w <- sum_{i in S} p_i theta_i                   W_i stays

W_i begins at 1, the global model. The first time it is learned until the loss settles, later in one pass; in a client's
first round not at all, because both models are theta^0.

Differs from the paper: nothing; the samples that W_i is learned from are drawn, not a stretch of them as they lie. The
loss that must settle is that of the last batch, as in the authors' code. Running statistics are the global model's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import pstdev
from typing import ClassVar

import torch
from torch import Tensor

from fltk.hyper import hyper
from fltk.models.layout import Layout
from fltk.models.parts import NONE, Part
from fltk.partition.federation import ClientData, Split
from fltk.protocol.averaging import common_rows
from fltk.protocol.map import Map
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer

SETTLED = 10  # passes whose losses are compared


@dataclass(frozen=True)
class FedALA(Method):
    """FedAvg whose clients start from an elementwise mixture of their own and the global model."""

    title: ClassVar[str] = "each client mixes its own model and the global one, element by element"
    printed: ClassVar[str] = "personal"
    map_kind: ClassVar[str] = "direction"

    ala_layers: int = hyper(1, "number of last layers that are mixed; below them the global model is taken", low=0)
    ala_eta: float = hyper(1.0, "rate of the weights W", low=0)
    ala_share: float = hyper(0.8, "share of the training data that W is learned from", low=1e-12, high=1)
    ala_threshold: float = hyper(0.1, "the first time: standard deviation of ten losses that have settled", low=1e-12)
    ala_passes: int = hyper(50, "the first time: passes at most", low=1)

    @property
    def part(self) -> Part:
        """The layers that are mixed."""
        return Part(f"top:{self.ala_layers}") if self.ala_layers else NONE

    def init(self, task: Task) -> State:
        n = task.n_clients
        weights = torch.ones(n, task.layout.width(self.part))
        learned = torch.zeros(n, dtype=torch.bool)
        return replace(
            super().init(task), client={"theta": task.w0.repeat(n, 1), "weights": weights, "learned": learned}
        )

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        theta, weights, learned = (down.own[name] for name in ("theta", "weights", "learned"))
        if not down.first and self.ala_eta and self.ala_layers:
            weights = self._learned(down, client, trainer)
            learned = torch.tensor(True)
        w = trainer.sgd(self._mixed(down.w, theta, weights, trainer.layout), client.train)
        return Upload(w, own={"theta": w, "weights": weights, "learned": learned})

    def _mixed(self, w: Tensor, theta: Tensor, weights: Tensor, layout: Layout) -> Tensor:
        """theta^_i (P,), from the global and the own model and the weights of the mixed layers."""
        ours, theirs = (layout.take(row, self.part) for row in (theta, w))
        return layout.put(w, self.part, torch.lerp(ours, theirs, weights))

    def _learned(self, down: Down, client: ClientData, trainer: Trainer) -> Tensor:
        """The next W_i, from batches of a random part of the training data."""
        layout, theta, weights = trainer.layout, down.own["theta"], down.own["weights"]
        apart = layout.take(down.w, self.part) - layout.take(theta, self.part)
        batches, losses = self._batches(client.train, trainer), []
        for _ in range(1 if bool(down.own["learned"]) else self.ala_passes):
            for batch in batches:
                mixed = self._mixed(down.w, theta, weights, layout)
                slope = layout.take(trainer.gradient(mixed, batch), self.part)
                weights = (weights - self.ala_eta * slope * apart).clamp_(0, 1)
            losses.append(trainer.score(self._mixed(down.w, theta, weights, layout), batches[-1]).loss)
            if len(losses) > SETTLED and pstdev(losses[-SETTLED:]) < self.ala_threshold:
                break
        return weights

    def _batches(self, data: Split, trainer: Trainer) -> list[Split]:
        generator = trainer.streams.generator("ala", trainer.round, trainer.client)
        some = torch.randperm(len(data), generator=generator)[: math.ceil(self.ala_share * len(data))]
        cuts = torch.split(some, trainer.config.batch_size)
        return [Split(data.x[cut], data.y[cut]) for cut in cuts]

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        """What clients made of their last mixture."""
        return [state.client["theta"][i] for i in ids]

    def mixing(self, state: State, task: Task) -> Map | None:
        """Own and global model by the mean weight; clients that have not taken part start from the global one."""
        if "p" not in state.server:
            return None
        common = common_rows(state.server["p"])
        weights = state.client["weights"].double()
        share = weights.mean(1).where(state.last >= 0, 1.0) if weights.numel() else torch.ones(task.n_clients)
        mixed = torch.diag(1 - share) + share[:, None] * common
        return Map.of(self.map_kind, {self.part: mixed, ~self.part: common}, task.layout)

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer has no model to mix with: it trains the global one."""
        joined = super().join(state, client, trainer, task)
        w = trainer.sgd(joined.arrival, client.train)
        return replace(joined, model=w, own={"theta": w})
