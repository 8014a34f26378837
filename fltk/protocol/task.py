"""What a method knows of the federation before the first round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fltk.errors import UsageError

if TYPE_CHECKING:
    from fltk.models.layout import Layout
    from fltk.models.parts import Columns
    from fltk.protocol.class_head import ClassHead


@dataclass(frozen=True)
class Task:
    """What a method knows of the federation before the first round."""

    layout: Layout
    w0: Tensor  # (P,) the common initial model
    n: Tensor  # (N,) int64, training samples
    n_val: Tensor  # (N,) int64, validation samples
    label_counts: Tensor  # (N, C) int64, training samples per class
    groups: Tensor | None  # (N,) int64, the true groups where the partition has them
    uniform: bool  # clients weigh equally instead of by samples
    fresh: Callable[[str, int], Tensor]  # (purpose, index) -> another independent initial model (P,)
    seed: Callable[[str], int]  # (purpose) -> seed of a stream that is no client's
    plain_sgd: bool = True  # local SGD has neither momentum nor weight decay
    labels: bool = True  # what is learned is one class per sample
    class_head: ClassHead | None = None  # averages of the shared output layer have weights per class
    public: int = 0  # samples that the server has in public (`--public`)
    starts: tuple[Tensor, ...] = ()  # where networks differ: (P_i,) the initial model of every client and newcomer

    @property
    def n_clients(self) -> int:
        return len(self.n)

    def need_labels(self, method: str) -> None:
        """UsageError for a method that can only learn classes, where the data have none."""
        if not self.labels:
            raise UsageError(f"--method {method} learns one class per sample, and these data have none; choose another")

    def initial(self, client: int) -> Tensor:
        """The common initial model of a client's network, (P_i,): theta^0 itself where all have one network."""
        return self.starts[client] if self.starts else self.w0

    def weights(self, ids: Sequence[int]) -> Tensor:
        """FedAvg's weights p of the clients `ids`, (K,) float64, summing to 1."""
        n = torch.ones(len(ids), dtype=torch.float64) if self.uniform else self.n[list(ids)].double()
        return n / n.sum()

    def whole(self, columns: Columns, sent: Tensor, private: Tensor) -> Tensor:
        """A whole model (P,) from the columns that travel, private ones of a client, and the frozen ones of theta^0.

        Where every column travels, it is `sent` itself.
        """
        if len(sent) == self.layout.size:
            return sent
        frozen = self.layout.take(self.w0, columns.frozen)
        return self.layout.join({columns.travels: sent, columns.private: private, columns.frozen: frozen})
