"""Data sets whose target is a number."""

from __future__ import annotations

import numpy as np

from fltk.data.dataset import Floats, Ints
from fltk.data.loaders import Raw, Request
from fltk.objectives import Regression

RANGES = 10  # ranges of the target that count as its labels where clients are drawn: see `ranges`

# Near mean and standard deviation of the 442 targets; constants, so that a subset is learned in the same units.
DIABETES = Regression(unit="points", centre=152.0, scale=77.0)


def diabetes(request: Request) -> Raw:
    """Ten body measurements of 442 people, and how far their disease has gone a year later, in points.

    B. Efron, T. Hastie, I. Johnstone, R. Tibshirani. "Least Angle Regression." Annals of Statistics 32, 2004. The
    features have mean 0 and standard deviation 1. No natural clients and no official split.
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    features = np.asarray(bunch.data) * np.sqrt(len(bunch.data))  # scikit-learn's have a sum of squares of 1
    targets = np.asarray(bunch.target, np.float32)
    labels, names = ranges(targets, RANGES)

    def take(keep: Ints) -> Floats:
        samples: Floats = features[keep].astype(np.float32)
        return samples

    return Raw(labels, names, take, objective=DIABETES, targets=targets)


def ranges(targets: Floats, count: int) -> tuple[Ints, tuple[str, ...]]:
    """The range of every target (n,), of `count` that hold as many samples each, and their names.

    By them clients are drawn and samples stratified, as by classes: a skewed scheme gives clients different targets.
    """
    ordered = np.sort(targets)
    cuts = ordered[[len(ordered) * k // count for k in range(1, count)]]
    labels = np.searchsorted(cuts, targets, side="right").astype(np.int64)
    lows, highs = [ordered[0], *cuts], [*cuts, ordered[-1]]
    return labels, tuple(f"{low:g} to {high:g}" for low, high in zip(lows, highs, strict=True))
