"""The measures by which models are scored: what they are called, in which unit they are, and which direction is better.

The key of a measure is part of the name of every stored number: `personal_test_acc`, `deployed_val_mae`, `mae_mean`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One way to score a model on the samples of a client.

    key: in stored names.  title: in sentences, short: in column heads.  unit: what one of it is.  of_mean: the value of
    a client is the mean over its samples (mean), the root of that (sqrt) or its exponential (exp).  margin: a smaller
    difference between two mean values is noise, in the unit or, where `relative`, as a share of the value.
    """

    key: str
    title: str
    short: str
    unit: str
    higher_is_better: bool
    of_mean: str = "mean"
    margin: float = 0.005
    relative: bool = False

    @property
    def fraction(self) -> bool:
        """Whether values lie between 0 and 1 and may be written as percent."""
        return self.unit == "fraction"

    @property
    def best(self) -> str:
        """Which end of a column is marked: max or min."""
        return "max" if self.higher_is_better else "min"

    def of(self, mean: float) -> float:
        """A client's value from the mean over its samples."""
        if self.of_mean == "sqrt":
            return math.sqrt(mean)
        if self.of_mean == "exp":
            return math.exp(min(mean, 700.0))  # the largest exponent that a float holds
        return mean

    def gain(self, value: float, reference: float) -> float:
        """How much better a value is than another one; negative where it is worse."""
        return value - reference if self.higher_is_better else reference - value

    def noise(self, value: float) -> float:
        """The difference from `value` that is still noise."""
        return self.margin * abs(value) if self.relative else self.margin


ACCURACY = Measure("acc", "accuracy", "acc", "fraction", higher_is_better=True)
PERPLEXITY = Measure("ppl", "perplexity", "ppl", "tokens", False, of_mean="exp", relative=True)
MAE = Measure("mae", "mean absolute error", "MAE", "of the target", False, relative=True)
RMSE = Measure("rmse", "root mean squared error", "RMSE", "of the target", False, of_mean="sqrt", relative=True)

MEASURES: Mapping[str, Measure] = {m.key: m for m in (ACCURACY, PERPLEXITY, MAE, RMSE)}
HEADLINES = (ACCURACY, MAE)  # the first measures of all objectives


def headline(keys: Iterable[str]) -> Measure:
    """The first measure of the objective whose stored names are given; accuracy where no name says another one."""
    known = set(keys)
    for measure in HEADLINES:
        own = (
            f"personal_test_{measure.key}",
            f"personal_val_{measure.key}",
            f"{measure.key}_mean",
            measure.key,
            f"{measure.key}_new",
        )
        if not known.isdisjoint(own):
            return measure
    return ACCURACY


def measure_of(key: str) -> Measure | None:
    """The measure of a stored name such as `personal_test_mae`, `mae_worst10` or `mae_new`; None for other numbers."""
    first, last = key.partition("_")[0], key.rpartition("_")[2]
    return MEASURES.get(last) or MEASURES.get(first)
