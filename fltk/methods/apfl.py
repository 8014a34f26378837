"""APFL: personal models are mixtures of a local and the global one.

Y. Deng, M. M. Kamani, M. Mahdavi. "Adaptive Personalized Federated Learning." 2020. arXiv:2003.13461

    v-_i = alpha_i v_i + (1 - alpha_i) w_i
    (for every batch, right-hand sides from before it)
        w_i     <- w_i - eta grad F_i(w_i)
        v_i     <- v_i - eta alpha_i grad F_i(v-_i)
        alpha_i <- clip(alpha_i - eta (<v_i - w_i, grad F_i(v-_i)> + kappa alpha_i), 0, 1)     `adaptive`, first batch
    (server)  w <- sum_{i in S} p_i w_i          v_i and alpha_i stay

A client uses v-_i with the global model in the place of w_i, which it is when a round begins. The mixture is one of
weights; public implementations that mix outputs, or train v_i on a loss of its own, are other methods.

Differs from the paper: clients weigh by samples; alpha is fixed unless `adaptive`, which like the authors' library
takes one step a round, with its decay kappa. w_i is trained twice, once as in FedAvg, whose bits it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.errors import UsageError
from fltk.hyper import hyper
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import common_rows
from fltk.protocol.map import Map, pulled_map
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class APFL(Method):
    """FedAvg, plus a local model that is trained for its mixture with the global one."""

    title: ClassVar[str] = "FedAvg, mixed with a local model"
    cannot: ClassVar[Mapping[str, str]] = {"augment": "its rule goes from batch to batch, as they are"}
    printed: ClassVar[str] = "personal"
    map_kind: ClassVar[str] = "pull"

    alpha: float = hyper(0.5, "weight of the local model", low=0, high=1)
    adaptive: str = hyper("off", "whether alpha is learned", choices=("off", "on"))
    alpha_decay: float = hyper(0.0, "decay kappa of a learned alpha", low=0)

    def check(self, task: Task) -> None:
        if not task.plain_sgd:
            raise UsageError(
                "--method apfl assumes plain SGD: leave out --momentum, --weight-decay, --clip-grad, --client-opt"
            )

    def init(self, task: Task) -> State:
        alpha = torch.full((task.n_clients,), self.alpha, dtype=torch.float64)
        return replace(super().init(task), client={"v": task.w0.repeat(task.n_clients, 1), "alpha": alpha})

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        v, alpha = self._personal(down.own["v"], float(down.own["alpha"]), down.w, client, trainer)
        own = {"v": v, "alpha": torch.tensor(alpha, dtype=torch.float64)}
        return Upload(trainer.sgd(down.w, client.train), own=own)

    def _personal(
        self, v: Tensor, alpha: float, w: Tensor, client: ClientData, trainer: Trainer, moves: bool = True
    ) -> tuple[Tensor, float]:
        """v_i and alpha_i behind a round that begins with w.  moves: whether w is trained meanwhile."""
        if self.adaptive == "off" and alpha in (0.0, 1.0):
            return (trainer.sgd(v, client.train) if alpha else v), alpha
        for k, batch in enumerate(trainer.batches(client.train)):
            mixed, used = torch.lerp(w, v, alpha), alpha
            step = trainer.sgd(mixed, batch, epochs=1) - mixed  # - eta grad F_i(v-_i)
            if k == 0 and self.adaptive == "on":
                slope = -float((v - w).double() @ step.double()) + trainer.lr * self.alpha_decay * alpha
                alpha = min(1.0, max(0.0, alpha - slope))
            v = v + used * step
            w = trainer.sgd(w, batch, epochs=1) if moves else w
        return v, alpha

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        w, v, alpha = state.server["w"], state.client["v"], state.client["alpha"]
        return [torch.lerp(w, v[i], float(alpha[i])) for i in ids]

    def mixing(self, state: State, task: Task) -> Map | None:
        if "p" not in state.server:
            return None
        return self.layered(pulled_map(1 - state.client["alpha"], common_rows(state.server["p"])), task)

    def client_diagnostics(self, state: State, task: Task) -> dict[str, Tensor]:
        return {"alpha": state.client["alpha"]}

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer trains v from w, with the global model held where it is."""
        joined = super().join(state, client, trainer, task)
        w = joined.arrival
        v, alpha = self._personal(w, self.alpha, w, client, trainer, moves=False)
        own = {"v": v, "alpha": torch.tensor(alpha, dtype=torch.float64)}
        return replace(joined, model=torch.lerp(w, v, alpha), own=own)
