"""The round as the server sees it: who weighs how much, how models are averaged, and what else the server can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from fltk.protocol.averaging import average, equal_weights, weighted_sum

if TYPE_CHECKING:
    from fltk.memory.undo import Undo
    from fltk.partition.federation import ClientData, Split
    from fltk.protocol.map_control import MapControl
    from fltk.protocol.messages import Down, Upload
    from fltk.protocol.server_optimiser import OptimiserRound
    from fltk.protocol.task import Task
    from fltk.protocol.verdict import Verdict
    from fltk.train.trainer import Trainer

ClientWork = Callable[["Down", "ClientData", "Trainer"], "Upload"]
ServerWork = Callable[["Trainer", Any], Any]


@dataclass(frozen=True)
class Sums:
    """What has become of uploads that were added up as they came, for a method that wants no more of them."""

    totals: Mapping[str, Tensor]  # weighted sums of the models (`w`) and of what else was sent, by name
    kept: Mapping[str, Tensor]  # what clients keep, of all of them, with this round's rows in it


class Desk(Protocol):
    """What the server computes with, besides averages."""

    @property
    def trainer(self) -> Trainer:
        """A trainer of the server's own; its random streams are those of this round and of no client."""

    @property
    def public(self) -> Split:
        """The public samples of the partition (`--public`), without any where it has none."""

    def map(self, work: ServerWork, items: Sequence[Any]) -> list[Any]:
        """`work(trainer, item)` for every item, on all workers; `work` is a module-level function."""

    def ask(self, work: ClientWork, ids: Sequence[int], downs: Sequence[Down]) -> list[Upload]:
        """One more exchange: `work(down, client, trainer)` at the clients `ids`. Its bytes are counted."""


@dataclass(frozen=True)
class Server:
    """One round, or one step of it, at the server. Methods average models through it, never on their own.

    watch: the defence of this round, which judged the uploads before the method saw them; None without one.
    optimiser: the server optimiser (`--server-opt`); None without one.  desk: see `trainer`, `public`, `map`, `ask`.
    sums: of a round in which uploads were added up as they came, what is left of them.
    undo: what `Method.prepared` was given.  step: number of the exchange within the round, from 0.
    control: what takes the place of the method's map (`--map-control`); None for the map itself.
    """

    round: int
    task: Task
    watch: Verdict | None = None
    optimiser: OptimiserRound | None = None
    desk: Desk | None = None
    sums: Sums | None = None
    undo: Undo | None = None
    step: int = 0
    control: MapControl | None = None

    def weights(self, ids: Sequence[int]) -> Tensor:
        """Weights p of the clients `ids` in one average, (K,) float64: FedAvg's, or equal ones for a rule of such."""
        if self.watch is not None and self.watch.guard.equal:
            return equal_weights(len(ids))
        return self.task.weights(ids)

    def trust(self, ids: Sequence[int]) -> Tensor:
        """How far the clients `ids` are trusted, (K,) float64 in [0, 1]."""
        return torch.ones(len(ids), dtype=torch.float64) if self.watch is None else self.watch.trust[list(ids)]

    def average(
        self, rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int], origin: Tensor, target: str = "w"
    ) -> tuple[Tensor, Tensor]:
        """One target's next model, and the weights (K,) with which clients really entered it.

        The shared columns `rows` (K, P) of the clients `ids`, weighted by `weights` (K,); `origin` (P,) is the model
        that the target has now, which stays where no client is trusted (weights 0). `target` is a lasting name of the
        model. A defence's rule takes the place of the mean; a server optimiser goes from `origin` by what it gives.
        For models only, once per distinct target; what else clients send is summed by `total`.
        """
        if self.sums is not None:
            mean, used = self.sums.totals["w"], weights
        elif self.watch is None:
            mean, used = self._mean(rows, weights, ids), weights
        else:
            mean, used = self.watch.average(rows, weights, ids, origin, target, self._mean)

        if self.optimiser is None or not bool(used.any()):
            return mean, used
        return self.optimiser.moved(origin, mean, target), used

    def map_to_apply(self, a: Tensor, known: Tensor) -> Tensor:
        """The map (N, N) that is applied where a method has found `a` over the clients `known` (K,)."""
        if self.control is None:
            return a
        samples = torch.ones_like(self.task.n) if self.task.uniform else self.task.n
        return self.control.controlled(a, known, samples)

    def total(self, name: str, uploads: Sequence[Upload], weights: Tensor) -> Tensor:
        """The weighted sum of what all uploads have sent beside their models under a name."""
        return weighted_sum([u.sent[name] for u in uploads], weights) if self.sums is None else self.sums.totals[name]

    @property
    def trainer(self) -> Trainer:
        """A trainer of the server's own, for distillation, generators and heads."""
        return self._desk.trainer

    @property
    def public(self) -> Split:
        """The public samples of the partition, which a method that needs some asks for in `check`."""
        return self._desk.public

    def map(self, work: ServerWork, items: Sequence[Any]) -> list[Any]:
        """`work(trainer, item)` for every item, in their order, on all workers of the engine."""
        return self._desk.map(work, items)

    def ask(self, work: ClientWork, ids: Sequence[int], downs: Sequence[Down]) -> list[Upload]:
        """One more exchange with the clients `ids`: what `work` makes of what is sent down, in their order."""
        return self._desk.ask(work, ids, downs)

    @property
    def _desk(self) -> Desk:
        if self.desk is None:
            raise RuntimeError("this server was made without a desk, so that it can only average")
        return self.desk

    def _mean(self, rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int]) -> Tensor:
        return average(rows, weights, ids, self.task.class_head)
