"""IFCA: several global models; every client joins the one that fits its data best.

A. Ghosh, J. Chung, D. Yin, K. Ramchandran. "An Efficient Framework for Clustered Federated Learning." NeurIPS
2020. arXiv:2006.04088

    (client)  k_i = argmin_k F_i(theta_k)        one pass over its training data, in evaluation mode
              w_i <- SGD(F_i, theta_{k_i})
    (server)  theta_k <- sum_{i in S: k_i = k} p_i w_i;  a cluster that nobody chose keeps its model

Differs from the paper: model averaging with the run's local SGD (the gradient variant is not offered);
weights by samples (the authors' code: uniform, `--agg-weights uniform`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.hyper import hyper
from fltk.methods.clusters import cluster_map, cluster_means
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import CLUSTERS
from fltk.protocol.map import Map
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class IFCA(Method):
    """K models, chosen by training loss."""

    title: ClassVar[str] = "K global models; each client joins the one with the lowest loss"
    averages: ClassVar[str] = CLUSTERS

    clusters: int = hyper(4, "number of models K", low=1)

    def init(self, task: Task) -> State:
        # Equal models would never separate; the first one is the common start, so that K = 1 is FedAvg.
        models = [task.w0, *(task.fresh("ifca", k) for k in range(1, self.clusters))]
        rows = torch.zeros(self.clusters, task.n_clients, dtype=torch.float64)
        choice = torch.zeros(task.n_clients, dtype=torch.int64)
        last = torch.full((task.n_clients,), -1)
        return State(server={"models": torch.stack(models), "rows": rows}, client={"choice": choice}, last=last)

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        models = state.server["models"]
        return [Down(models[0, :0], server={"models": models}) for _ in ids]

    def references(self, state: State, downs: Sequence[Down], uploads: Sequence[Upload], task: Task) -> list[Tensor]:
        return [state.server["models"][int(u.sent["choice"])] for u in uploads]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        models = down.server["models"]
        k = choose(models, client, trainer)
        choice = torch.tensor(k)
        return Upload(trainer.sgd(models[k], client.train), sent={"choice": choice}, own={"choice": choice})

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        models, rows = cluster_means(state.server, [int(u.sent["choice"]) for u in uploads], uploads, server)
        return self.next_state(state, uploads, server, {"models": models, "rows": rows})

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        return [state.server["models"][int(state.client["choice"][i])] for i in ids]

    def global_model(self, state: State, task: Task) -> Tensor | None:
        return state.server["models"][0] if self.clusters == 1 else None

    def mixing(self, state: State, task: Task) -> Map | None:
        return cluster_map(state.server["rows"], state.client["choice"], self.map_kind, task)

    def client_diagnostics(self, state: State, task: Task) -> dict[str, Tensor]:
        return {"cluster": state.client["choice"].double().masked_fill(state.last < 0, torch.nan)}

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer downloads the K models and takes the one with the lowest training loss.

        On arrival it has looked at no data: the model of the most samples.
        """
        models = state.server["models"]
        members = torch.zeros(len(models), dtype=torch.float64)
        weights = task.weights(range(task.n_clients)) * (state.last >= 0)
        members.index_add_(0, state.client["choice"], weights)
        k = choose(models, client, trainer)
        row = state.server["rows"][k]
        known = bool(row.any())
        return Joined(
            arrival=models[int(members.argmax())],
            model=models[k],
            own={"choice": torch.tensor(k)},
            row=row if known else None,
            down=4 * models.numel(),
            note="" if known else f"model {k} fits best, which no client ever chose",
        )


def choose(models: Tensor, client: ClientData, trainer: Trainer) -> int:
    """Index of the model (K, P) with the lowest training loss; ties go to the first."""
    if len(models) == 1:
        return 0
    losses = [trainer.score(w, client.train).loss for w in models]
    return min(range(len(losses)), key=losses.__getitem__)
