"""SCAFFOLD: control variates correct each client's drift.

S. P. Karimireddy, S. Kale, M. Mohri, S. J. Reddi, S. U. Stich, A. T. Suresh. "SCAFFOLD: Stochastic Controlled
Averaging for Federated Learning." ICML 2020. arXiv:1910.06378

    (client)  y <- y - eta (g_i(y) - c_i + c)            K steps from x
              c_i+ = c_i - c + (x - y) / (K eta)         option II
    (server)  x <- x + eta_g / |S| sum_{i in S} (y_i - x)
              c <- c + 1/N sum_{i in S} (c_i+ - c_i)     N counts all clients

Differs from the paper: nothing with eta_g = 1, where the mean of models is taken instead of x plus the mean
of differences (the same up to rounding). Option II assumes plain SGD, so momentum is refused. Running
statistics have no control variate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fltk.errors import UsageError
from fltk.hyper import hyper
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import equal_weights, stepped
from fltk.protocol.map import spread
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class Scaffold(Method):
    """FedAvg with a server and a client control variate, both of the length of the trainable columns."""

    title: ClassVar[str] = "FedAvg with control variates against client drift"
    equal: ClassVar[bool] = True
    additive: ClassVar[bool] = True
    beside: ClassVar[str] = "changes of control variates"

    server_lr: float = hyper(1.0, "server step eta_g", low=0)

    @property
    def map_kind(self) -> str:  # type: ignore[override]  # the one method whose kind depends on a parameter
        return "exact" if self.server_lr == 1 else "direction"

    @property
    def server_step(self) -> float:  # type: ignore[override]  # as above
        return self.server_lr

    def check(self, task: Task) -> None:
        if not task.plain_sgd:
            raise UsageError(
                "--method scaffold assumes plain SGD: leave out --momentum, --weight-decay, --clip-grad, --client-opt"
            )

    def init(self, task: Task) -> State:
        state = super().init(task)
        zero = torch.zeros(task.layout.trainable)
        return replace(
            state,
            server={**state.server, "c": zero},
            client={**state.client, "c": torch.zeros(task.n_clients, task.layout.trainable)},
        )

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        downs = super().downlink(state, ids, task)
        return [replace(d, server={"c": state.server["c"]}) for d in downs]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        c, c_i = down.server["c"], down.own["c"]
        drift = c - c_i
        y = trainer.sgd(down.w, client.train, drift=drift)
        way = trainer.steps(len(client.train)) * trainer.lr
        if not way:  # nothing was trained, and nothing is learned about gradients
            return Upload(y, sent={"dc": torch.zeros_like(c)}, own={"c": c_i})
        c_new = (down.w - y)[: len(c)].div_(way).sub_(drift)
        return Upload(y, sent={"dc": c_new - c_i}, own={"c": c_new})

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        ids = [u.client for u in uploads]
        equal = equal_weights(len(ids))
        mean, p = server.average([u.w for u in uploads], equal, ids, state.server["w"])
        x = stepped(state.server["w"], mean, self.server_lr, server.task.layout.trainable)
        dc = server.total("dc", uploads, equal * server.trust(ids))
        c = state.server["c"] + dc * (len(uploads) / server.task.n_clients)
        return self.next_state(state, uploads, server, {"w": x, "c": c, "p": spread(p, uploads, server.task)})

    def add_clients(self, state: State, joined: Sequence[Joined], task: Task) -> State:
        """Newcomers have no control variate yet, and c stays the mean of all."""
        grown = super().add_clients(state, joined, task)
        c = state.server["c"] * (len(state.last) / task.n_clients)
        return replace(grown, server={**grown.server, "c": c})
