"""Every client trains alone: the lower bound that a personalised method must beat for every client.

No paper; the baseline of all of them.

    w_i <- SGD(F_i, w_i)

Differs from common practice: nothing. With partial participation a client trains only in the rounds in which
it is sampled, so that all methods make the same number of local steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fltk.models.parts import ALL, NONE, Columns
from fltk.partition.federation import ClientData
from fltk.protocol.messages import Joined
from fltk.protocol.method import Method
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class Local(Method):
    """Nothing is shared; the whole model is private."""

    title: ClassVar[str] = "local training, nothing shared"
    printed: ClassVar[str] = "personal"
    cannot: ClassVar[Mapping[str, str]] = {"defence": "nothing is sent, so there is nothing to defend"}

    @property
    def columns(self) -> Columns:
        return Columns(travels=NONE, private=ALL)

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer trains alone from theta^0, in as many rounds as the others on average, spread over the run's."""
        w, rounds = task.w0, int(state.last.max()) + 1
        count = min(rounds, max(1, round(trainer.config.participation * rounds)))
        for t in (k * rounds // count for k in range(count)):
            w = trainer.at(t, client.id).sgd(w, client.train)
        return Joined(task.w0, w)
