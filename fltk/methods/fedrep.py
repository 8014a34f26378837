"""FedRep: a shared representation and a private head, trained in turn.

L. Collins, H. Hassani, A. Mokhtari, S. Shakkottai. "Exploiting Shared Representations for Personalized Federated
Learning." ICML 2021. arXiv:2102.07078

    h_i <- SGD(F_i, h_i; b)           the head alone, over the received base
    b_i <- SGD(F_i, b; h_i)           then the base alone, under that head
    b   <- sum_{i in S} p_i b_i       h_i stays

Differs from the paper: clients weigh by samples. Each phase is an SGD of its own, without the momentum of the one
before, and a frozen part keeps its running statistics, too. The authors' last round, of heads alone, is
`finalise_heads`; it is off, because no other method here gets one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from fltk.hyper import hyper
from fltk.models.parts import ALL, Columns, Part
from fltk.partition.federation import ClientData
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class FedRep(Method):
    """FedAvg on the layers below the head, which is trained first."""

    title: ClassVar[str] = "shared base, private head, trained in turn"
    printed: ClassVar[str] = "tuned"

    head_layers: int = hyper(1, "number of last layers that stay private", low=0)
    head_epochs: float = hyper(10.0, "epochs of the head alone", low=0)
    base_epochs: float | None = hyper(None, "epochs of the base alone (default: the run's local work)", low=0)
    finalise_heads: float = hyper(0.0, "further epochs of the head before a client uses its model", low=0)

    @property
    def columns(self) -> Columns:
        base = Part(f"below:{self.head_layers}") if self.head_layers else ALL
        return Columns(travels=base, private=~base)

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        w = self._head(down.w, self.head_epochs, client, trainer)
        return Upload(trainer.sgd(w, client.train, epochs=self.base_epochs, only=self.columns.travels))

    def personalise(self, w: Tensor, client: ClientData, trainer: Trainer) -> Tensor:
        return self._head(w, self.finalise_heads, client, trainer)

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """The base of the others with the head of theta^0, then the head alone is trained."""
        joined = super().join(state, client, trainer, task)
        return replace(joined, model=self._head(joined.arrival, self.head_epochs, client, trainer))

    def _head(self, w: Tensor, epochs: float, client: ClientData, trainer: Trainer) -> Tensor:
        """`w` with its private layers trained."""
        return trainer.sgd(w, client.train, epochs=epochs, only=self.columns.private)
