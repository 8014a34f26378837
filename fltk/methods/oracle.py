"""FedAvg inside the true groups: what a clustering method could reach if it guessed every group right.

No paper; the upper reference for clustering on partitions whose groups are known (`rotated`,
`permuted-labels`, domains).

    w_g <- sum_{i in S, group(i) = g} p_i w_i        p renormalised inside the group

A group without participants keeps its model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.errors import UsageError
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
class Oracle(Method):
    """One FedAvg per true group."""

    title: ClassVar[str] = "FedAvg inside the known groups"
    averages: ClassVar[str] = CLUSTERS
    needs_groups: ClassVar[bool] = True

    def check(self, task: Task) -> None:
        if task.groups is None:
            raise UsageError("--method oracle needs known groups: use --scheme rotated or permuted-labels, or domains")

    def init(self, task: Task) -> State:
        self.check(task)
        assert task.groups is not None
        models = task.w0.repeat(int(task.groups.max()) + 1, 1)
        rows = torch.zeros(len(models), task.n_clients, dtype=torch.float64)
        last = torch.full((task.n_clients,), -1)
        return State(server={"models": models, "rows": rows, "group": task.groups}, client={}, last=last)

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        return [Down(w) for w in self.personal_model(state, ids, task)]

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        models, rows = cluster_means(
            state.server, [int(state.server["group"][u.client]) for u in uploads], uploads, server
        )
        return self.next_state(state, uploads, server, {"models": models, "rows": rows})

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        return [state.server["models"][int(state.server["group"][i])] for i in ids]

    def global_model(self, state: State, task: Task) -> Tensor | None:
        return None

    def mixing(self, state: State, task: Task) -> Map | None:
        return cluster_map(state.server["rows"], state.server["group"], self.map_kind, task)

    def client_diagnostics(self, state: State, task: Task) -> dict[str, Tensor]:
        return {"cluster": state.server["group"].double()}

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer takes the model of its true group; theta^0 where nobody trained one."""
        models, rows = state.server["models"], state.server["rows"]
        g = client.group
        known = g is not None and g < len(models) and bool(rows[g].any())
        w = models[g] if known else task.w0
        return Joined(
            arrival=w,
            model=w,
            row=rows[g] if known else None,
            down=4 * task.layout.size if known else 0,
            note="" if known else f"no client of group {g} has trained: the initial model",
        )
