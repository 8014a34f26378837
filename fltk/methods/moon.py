"""MOON: local training that keeps a client's features near the global model's and away from its own last ones.

Q. Li, B. He, D. Song. "Model-Contrastive Federated Learning." CVPR 2021. arXiv:2103.16257

    L_i   = CE + mu l_con
    l_con = -log e^(cos(z, z_glob) / tau) / (e^(cos(z, z_glob) / tau) + e^(cos(z, z_prev) / tau))
    w     <- sum_{i in S} p_i w_i

z, z_glob, z_prev: features of a sample under the weights in training, the global model that came down, and the client's
model at the end of its last round; the latter two are fixed. In a client's first round the previous model is the global
one, so that l_con is log 2.

Differs from the paper: the features are those that the last layer sees; the authors put a projection of two layers in
front of it, and compare with FedAvg with the same projection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fltk.hyper import hyper
from fltk.partition.federation import ClientData
from fltk.protocol.messages import Down, Upload
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.losses import Batch, Given, Net
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class MOON(Method):
    """FedAvg with a contrastive term."""

    title: ClassVar[str] = "FedAvg whose clients stay near the global model's features"

    mu: float = hyper(1.0, "weight of the contrastive term (0: FedAvg)", low=0)
    tau: float = hyper(0.5, "temperature", low=1e-3)

    def check(self, task: Task) -> None:
        task.need_labels("moon")

    def init(self, task: Task) -> State:
        state = super().init(task)
        return replace(state, client={**state.client, "previous": task.w0.repeat(task.n_clients, 1)})

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        if not self.mu:
            w = trainer.sgd(down.w, client.train)
            return Upload(w, own={"previous": w})

        previous = down.w if down.first else down.own["previous"]
        fixed = {"global": down.w, "previous": previous, "mu": torch.tensor(self.mu), "tau": torch.tensor(self.tau)}
        w = trainer.sgd(down.w, client.train, loss=contrastive, given=fixed)
        return Upload(w, own={"previous": w})


def contrastive(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
    """L_i of each sample, (n,). given: the global and the previous model (P,), mu and tau."""
    outputs, z = net.both(w, batch.x)
    z_glob = net.features(given["global"], batch.x)
    z_prev = net.features(given["previous"], batch.x)

    near = F.cosine_similarity(z, z_glob, dim=1) / given["tau"]
    far = F.cosine_similarity(z, z_prev, dim=1) / given["tau"]
    l_con = torch.logaddexp(near, far) - near
    return F.cross_entropy(outputs, batch.y, reduction="none") + given["mu"] * l_con
