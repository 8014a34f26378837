"""FedAvg on the columns that travel, for methods whose clients keep the others to themselves.

    (w_i, v_i) <- SGD(F_i, (w, v_i))        w travels, v_i is private; both are trained together
    w          <- sum_{i in S} p_i w_i      v_i stays

What a method adds is which columns these are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fltk.partition.federation import ClientData
from fltk.protocol.messages import Joined
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer

JOIN_EPOCHS = 10.0  # of a newcomer's private columns, as many as FedAvg with fine-tuning takes


@dataclass(frozen=True)
class SplitMethod(Method):
    """FedAvg with private columns."""

    printed: ClassVar[str] = "personal"

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """The newcomer takes the columns that travel, and trains its private ones, which begin at theta^0."""
        joined = super().join(state, client, trainer, task)
        trained = trainer.sgd(joined.arrival, client.train, epochs=JOIN_EPOCHS, only=self.columns.private)
        return replace(joined, model=trained)
