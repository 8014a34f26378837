"""Ditto: a global model by FedAvg, and a personal one pulled towards it.

T. Li, S. Hu, A. Beirami, V. Smith. "Ditto: Fair and Robust Federated Learning Through Personalization." ICML
2021. arXiv:2012.04221

    (global)    w_i <- SGD(F_i, w^t);   w^{t+1} = sum_{i in S} p_i w_i
    (personal)  v_i <- v_i - eta (grad F_i(v_i) + lam (v_i - w^t))        v_i never leaves the client

Differs from the paper: weights by samples (the authors' code averages uniformly: `--agg-weights uniform`).
The anchor is the received w^t, constant in the round. Both models see the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.hyper import hyper
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import common_rows
from fltk.protocol.map import Map, pull_strength, pulled_map
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class Ditto(Method):
    """FedAvg, plus one personal model per client."""

    title: ClassVar[str] = "FedAvg, plus a personal model pulled towards it"
    printed: ClassVar[str] = "personal"
    map_kind: ClassVar[str] = "pull"

    lam: float = hyper(1.0, "strength of the pull of the personal model towards the global one", low=0)
    personal_epochs: float | None = hyper(None, "epochs of the personal model (default: as the global one)", low=0)

    def init(self, task: Task) -> State:
        state = super().init(task)
        strength = torch.zeros(task.n_clients, dtype=torch.float64)
        return replace(state, client={"v": task.w0.repeat(task.n_clients, 1), "pulled": strength})

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        own = self._personal(down.own["v"], down.w, client, trainer)
        return Upload(trainer.sgd(down.w, client.train), own=own)

    def _personal(self, v: Tensor, w: Tensor, client: ClientData, trainer: Trainer) -> dict[str, Tensor]:
        """What a client keeps after the personal part: v_i, drawn to the received w, and how strongly."""
        return {
            "v": trainer.sgd(v, client.train, epochs=self.personal_epochs, pull=(w, self.lam)),
            "pulled": pull_strength(trainer, len(client.train), self.lam, self.personal_epochs),
        }

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        return [state.client["v"][i] for i in ids]

    def mixing(self, state: State, task: Task) -> Map | None:
        if "p" not in state.server:
            return None
        target = common_rows(state.server["p"])
        return self.layered(pulled_map(state.client["pulled"], target), task)

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer runs the personal part from v = w, the global model."""
        joined = super().join(state, client, trainer, task)
        own = self._personal(joined.arrival, joined.arrival, client, trainer)
        return replace(joined, model=own["v"], own=own)
