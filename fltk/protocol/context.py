"""The round as the server sees it: who weighs how much, and how models are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fltk.protocol.averaging import average, equal_weights, weighted_sum

if TYPE_CHECKING:
    from fltk.memory.undo import Undo
    from fltk.protocol.messages import Upload
    from fltk.protocol.task import Task
    from fltk.protocol.verdict import Verdict


@dataclass(frozen=True)
class Sums:
    """What has become of uploads that were added up as they came, for a method that wants no more of them."""

    totals: Mapping[str, Tensor]  # weighted sums of the models (`w`) and of what else was sent, by name
    kept: Mapping[str, Tensor]  # what clients keep, of all of them, with this round's rows in it


@dataclass(frozen=True)
class Context:
    """The round as the server sees it. Methods average models through it, never on their own.

    watch: the defence of this round, which judged the uploads before the method saw them; None without one.
    sums: of a round in which uploads were added up as they came, what is left of them.
    undo: what `Method.prepared` was given.
    """

    round: int
    task: Task
    watch: Verdict | None = None
    sums: Sums | None = None
    undo: Undo | None = None

    def weights(self, ids: Sequence[int]) -> Tensor:
        """Weights p of the clients `ids` in one average, (K,) float64: FedAvg's, or equal ones for a rule of such."""
        if self.watch is not None and self.watch.guard.equal:
            return equal_weights(len(ids))
        return self.task.weights(ids)

    def trust(self, ids: Sequence[int]) -> Tensor:
        """How far the clients `ids` are trusted, (K,) float64 in [0, 1]."""
        return torch.ones(len(ids), dtype=torch.float64) if self.watch is None else self.watch.trust[list(ids)]

    def combine(
        self, rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int], origin: Tensor, target: str = "w"
    ) -> tuple[Tensor, Tensor]:
        """One target's model, and the weights (K,) with which clients really entered it.

        The shared columns `rows` (K, P) of the clients `ids`, weighted by `weights` (K,); `origin` (P,) is the model
        that the target has now, which stays where nobody is trusted (weights 0). `target` is a lasting name of the
        model. For models only, once per distinct target; what else clients send is summed by `weighted_sum`.
        """
        if self.sums is not None:
            return self.sums.totals["w"], weights
        if self.watch is None:
            return average(rows, weights, ids, self.task.class_head), weights
        return self.watch.combine(rows, weights, ids, origin, target, self._mean)

    def total(self, name: str, uploads: Sequence[Upload], weights: Tensor) -> Tensor:
        """The weighted sum of what all uploads have sent beside their models under a name."""
        return weighted_sum([u.sent[name] for u in uploads], weights) if self.sums is None else self.sums.totals[name]

    def _mean(self, rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int]) -> Tensor:
        return average(rows, weights, ids, self.task.class_head)
