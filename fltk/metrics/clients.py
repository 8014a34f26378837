"""Numbers that describe the scores of clients: their mean, its fairness, the selected round. numpy alone.

There is one value of a measure per client, such as accuracies in [0, 1]; a client without test samples is NaN and left
out. NaN is the answer where a number is undefined ("null"): nothing to average. The measure says which direction is
better; without one, values are accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fltk.metrics.arrays import Array, Floats, known, mean, same_shape, vector
from fltk.objectives.measures import ACCURACY, Measure

HARM_MARGIN = ACCURACY.margin  # half a point of accuracy: less is noise of small test sets
_SLACK = 1e-6  # values are stored as float32; a difference of exactly the margin must not count


def without(values: Array, malicious: Sequence[int]) -> Array:
    """Values (..., N) with NaN, which no measure counts, in the places of malicious clients."""
    if not malicious:
        return values
    out = values.astype(np.float64)
    out[..., list(malicious)] = math.nan
    return out


def acc_mean(acc: Array) -> float:
    """Mean over clients, each client counting once. acc (N,)."""
    return mean(known(acc))


def acc_weighted(acc: Array, counts: Array) -> float:
    """Mean over clients weighted by their test samples. acc (N,), counts (N,)."""
    values, weights = vector(acc), vector(counts)
    same_shape(values, weights, "acc", "counts")
    keep = ~np.isnan(values) & (weights > 0)
    return float(np.average(values[keep], weights=weights[keep])) if keep.any() else math.nan


def acc_std(acc: Array) -> float:
    """Population standard deviation over clients."""
    values = known(acc)
    return float(values.std()) if values.size else math.nan


def acc_worst10(acc: Array, measure: Measure = ACCURACY) -> float:
    """Mean of the worst ceil(N / 10) values: the lowest accuracies, the largest errors."""
    return mean(_from_worst(acc, measure)[: _tenth(acc)])


def acc_best10(acc: Array, measure: Measure = ACCURACY) -> float:
    """Mean of the best ceil(N / 10) values."""
    return mean(_from_worst(acc, measure)[::-1][: _tenth(acc)])


def acc_min(acc: Array, measure: Measure = ACCURACY) -> float:
    """Value of the worst client: the lowest accuracy, the largest error."""
    values = _from_worst(acc, measure)
    return float(values[0]) if values.size else math.nan


def jain(acc: Array) -> float:
    """Jain's index (sum a)^2 / (N sum a^2), in [1/N, 1]; 1 iff all are equal, and 1 when all are 0."""
    values = known(acc)
    if not values.size:
        return math.nan
    squares = float(np.sum(values**2))
    return min(1.0, float(np.sum(values)) ** 2 / (values.size * squares)) if squares > 0 else 1.0


def gain_vs_local(acc: Array, local: Array, measure: Measure = ACCURACY) -> float:
    """How much better clients are than alone, mean over those that have both values. acc (N,), local (N,)."""
    return mean(_gains(acc, local, measure))


def harmed(acc: Array, local: Array, measure: Measure = ACCURACY) -> float:
    """Share of clients that lose more than the measure's margin against training alone. acc (N,), local (N,).

    The margin is half a point of accuracy; of an error it is half a percent of the mean error of training alone.
    """
    lost = -_gains(acc, local, measure)
    margin = measure.noise(mean(known(local)))
    return mean((lost > margin + _SLACK).astype(np.float64))


def summary(
    acc: Array, counts: Array | None = None, local: Array | None = None, measure: Measure = ACCURACY
) -> dict[str, float]:
    """All scalars of per-client values of a measure by column name, such as `acc_mean` or `mae_worst10`.

    acc (N,); counts (N,) test samples, which drop clients without any and add `acc_weighted`; local (N,)
    values of local training, which add `gain_vs_local` and `harmed`. `acc_clients` is the number of
    clients that count, and `acc_min` the value of the worst client.
    """
    values, key = vector(acc), measure.key
    result = {}
    if counts is not None:
        result[f"{key}_weighted"] = acc_weighted(values, counts)
        values = np.where(vector(counts) > 0, values, np.nan)
    result[f"{key}_mean"] = acc_mean(values)
    result[f"{key}_std"] = acc_std(values)
    result[f"{key}_worst10"] = acc_worst10(values, measure)
    result[f"{key}_best10"] = acc_best10(values, measure)
    result[f"{key}_min"] = acc_min(values, measure)
    result["jain"] = jain(values)
    result[f"{key}_clients"] = float(known(values).size)
    if local is not None:
        result["gain_vs_local"] = gain_vs_local(values, local, measure)
        result["harmed"] = harmed(values, local, measure)
    return result


def selected_round(rounds: Array, validation: Array, measure: Measure = ACCURACY) -> int | None:
    """The round with the best validation value, the earliest on ties; None where nothing was validated.

    rounds (R,) and validation (R,). The test value is read at this round: it takes no part in the choice.
    """
    numbers, values = np.asarray(rounds), vector(validation)
    same_shape(numbers, values, "rounds", "validation")
    keep = np.isfinite(values)
    if not keep.any():
        return None
    best = values[keep].max() if measure.higher_is_better else values[keep].min()
    return int(numbers[keep & (values == best)].min())


def _tenth(acc: Array) -> int:
    return math.ceil(known(acc).size / 10)


def _from_worst(acc: Array, measure: Measure) -> Floats:
    """The known values, the worst first."""
    values = np.sort(known(acc))
    return values if measure.higher_is_better else values[::-1]


def _gains(acc: Array, local: Array, measure: Measure) -> Floats:
    left, right = vector(acc), vector(local)
    same_shape(left, right, "acc", "local")
    return known(left - right if measure.higher_is_better else right - left)
