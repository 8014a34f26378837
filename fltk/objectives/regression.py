"""Regression: one number per sample, squared error, and errors in the unit of the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fltk.objectives.measures import MAE, RMSE, Measure

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regression:
    """One number per sample: targets (n,) float32 in their unit, outputs (n, 1) standardised.

        loss   (out - (y - centre) / scale)^2
        error  scale out + centre - y

    unit: of the target.  centre, scale: constants near mean and standard deviation of all targets, so that one learning
    rate serves targets of every size; no client's data enter them.
    """

    unit: str
    centre: float = 0.0
    scale: float = 1.0
    name: str = "regression"
    softmax: bool = False
    tokens: bool = False

    @property
    def measures(self) -> Mapping[str, Measure]:
        return {m.key: replace(m, unit=self.unit) for m in (MAE, RMSE)}

    def width(self, classes: int) -> int:
        return 1

    def loss(self, out: Tensor, y: Tensor, reduction: str = "none") -> Tensor:
        squares = (out[:, 0] - (y - self.centre) / self.scale).square()
        if reduction == "none":
            return squares
        return squares.mean() if reduction == "mean" else squares.sum()

    def score(self, out: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        error = out[:, 0].double() * self.scale + self.centre - y
        return {MAE.key: error.abs(), RMSE.key: error.square()}
