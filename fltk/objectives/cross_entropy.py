"""Classification: one class per sample, cross-entropy, and the share of right answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fltk.objectives.measures import ACCURACY, Measure

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy:
    """One of C classes per sample: outputs (n, C) are logits, targets (n,) int64."""

    name: str = "classification"
    softmax: bool = True
    tokens: bool = False

    @property
    def measures(self) -> Mapping[str, Measure]:
        return {ACCURACY.key: ACCURACY}

    def width(self, classes: int) -> int:
        return classes

    def loss(self, out: Tensor, y: Tensor, reduction: str = "none") -> Tensor:
        from torch.nn import functional  # here, since the package must not import torch

        return functional.cross_entropy(out, y, reduction=reduction)

    def score(self, out: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        return {ACCURACY.key: out.argmax(1) == y}


CLASSIFICATION = CrossEntropy()
