"""What goes down to a client and what comes up, and what a newcomer gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from fltk.models.layout import Layout
    from fltk.models.parts import Columns
    from fltk.protocol.task import Task


@dataclass(frozen=True)
class Down:
    """What one client trains from: `w` (P,), further tensors from the server, and what the client kept.

    Where clients keep columns of the model to themselves (`own["private"]`), or some are frozen, `w` may come without
    them; when `local_update` is called they are in it.
    """

    w: Tensor
    server: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    first: bool = False  # this client has never taken part before

    def whole(self, task: Task, columns: Columns) -> Down:
        """The same with all columns of the model in `w`, of which only those that travel may have come, or no model."""
        nothing_sent = not len(self.w) and task.layout.width(columns.travels) > 0
        if len(self.w) == task.layout.size or nothing_sent:
            return self
        private = self.own.get("private", self.w[:0])
        return replace(self, w=task.whole(columns, self.w, private))

    def sent(self, layout: Layout, columns: Columns) -> Tensor:
        """The columns that travel."""
        return layout.take(self.w, columns.travels) if self.w.shape[0] == layout.size else self.w

    def nbytes(self, layout: Layout, columns: Columns) -> int:
        """Bytes on the wire: the columns that travel, and the server's further tensors."""
        model = 4 * min(len(self.w), layout.width(columns.travels))
        return model + bytes_of(self.server)


@dataclass(frozen=True)
class Upload:
    """What one client's round produced: the trained row, tensors for the server, and what the client keeps.

    `local_update` returns the whole row (P,); the engine cuts it, so that `aggregate` sees the shared columns
    only and the private ones travel no further than `own`. A client that sends no model in a step of the round returns
    an empty row (0,).
    """

    w: Tensor
    sent: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    client: int = -1
    ballot: Tensor | None = None  # (2, 8) the client's vote on the own step, where the round asked for one
    model: bool = True  # whether a model is sent in this step of the round
    nbytes: int = 0  # on the wire, measured where the client sends: the columns that travel, and what is `sent`


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of named tensors on the wire."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@dataclass(frozen=True)
class Joined:
    """How a client that has never taken part comes to its first model.

    arrival: (P,) what it downloads before it has used any of its own data.  model: (P,) after the method's own
    joining step, the arrival model where a method has none.  own: what the client would keep, as in `Upload`.
    row: (N,) float64, weights of the trained clients' last models in the mix that `model` is, holds or was trained
    from; they sum to 1 but where a defence clips, see `Map`. None where there is no such mix.  self_weight: weight of
    the newcomer's own trained model beside it, u = self_weight w_* + (1 - self_weight) sum_j row_j w_j.  down, up:
    bytes on the wire.  note: one line where the rule had to fall back.
    """

    arrival: Tensor
    model: Tensor
    own: Mapping[str, Tensor] = field(default_factory=dict)
    row: Tensor | None = None
    self_weight: float = 0.0
    down: int = 0
    up: int = 0
    note: str = ""
