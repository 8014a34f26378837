"""The interface of an objective: the loss that training lowers, and the measures by which models are scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from fltk.objectives.measures import Measure

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Protocol):
    """What is learned. Instances are immutable, comparable, and can be pickled."""

    @property
    def name(self) -> str:
        """As `fltk data` and errors call it."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """By key; the first one is the headline."""

    @property
    def softmax(self) -> bool:
        """Whether the loss is the cross-entropy of one class per sample, for which training has closed forms."""

    @property
    def tokens(self) -> bool:
        """Whether samples are sequences of token numbers."""

    def width(self, classes: int) -> int:
        """Outputs of the last layer, for data with so many classes."""

    def loss(self, out: Tensor, y: Tensor, reduction: str = "none") -> Tensor:
        """Loss of outputs (n, O) for targets (n,): (n,), or their `mean` or `sum`."""

    def score(self, out: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """By the key of every measure the numbers (n,) of the samples whose mean the measure takes."""


def headline_of(objective: Objective) -> Measure:
    """The first measure of an objective."""
    return next(iter(objective.measures.values()))
