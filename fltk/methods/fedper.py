"""FedPer: a shared base, and the last layers private to each client.

M. G. Arivazhagan, V. Aggarwal, A. K. Singh, S. Choudhary. "Federated Learning with Personalization Layers."
2019. arXiv:1912.00818

    (b_i, h_i) <- SGD(F_i, (b, h_i))        base and head together, from the shared base and the own head
    b          <- sum_{i in S} p_i b_i      h_i stays

Differs from the paper: nothing; one personal layer by default. The head of an absent client is left alone,
and normalisation statistics of the base are shared like its weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fltk.hyper import hyper
from fltk.partition.federation import ClientData
from fltk.protocol.messages import Joined
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer

JOIN_EPOCHS = 10.0  # of a newcomer's head, as many as FedAvg with fine-tuning takes


@dataclass(frozen=True)
class FedPer(Method):
    """FedAvg on the layers below the head."""

    title: ClassVar[str] = "shared base, private head"
    printed: ClassVar[str] = "personal"

    head_layers: int = hyper(1, "number of last layers that stay private", low=0)

    @property
    def shared(self) -> str:
        return f"below:{self.head_layers}" if self.head_layers else "all"

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """The base of the others with the head of theta^0, then the head alone is trained."""
        joined = super().join(state, client, trainer, task)
        head = "head" if self.head_layers == 1 else task.layout.rest(self.shared)  # by this name it has a fast path
        return replace(joined, model=trainer.sgd(joined.arrival, client.train, epochs=JOIN_EPOCHS, only=head))
