"""Numbers that describe the accuracies of clients: their mean, its fairness, the selected round. numpy alone.

Accuracies are fractions in [0, 1], one per client; a client without test samples is NaN and left out. NaN is the
answer where a measure is undefined ("null"): nothing to average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fltk.metrics.arrays import Array, Floats, known, mean, same_shape, vector

HARM_MARGIN = 0.005  # half a point of accuracy: less is noise of small test sets
_SLACK = 1e-6  # accuracies are stored as float32; a difference of exactly the margin must not count


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


def acc_worst10(acc: Array) -> float:
    """Mean of the lowest ceil(N / 10) accuracies."""
    return mean(np.sort(known(acc))[: _tenth(acc)])


def acc_best10(acc: Array) -> float:
    """Mean of the highest ceil(N / 10) accuracies."""
    return mean(np.sort(known(acc))[::-1][: _tenth(acc)])


def acc_min(acc: Array) -> float:
    """Accuracy of the worst client."""
    values = known(acc)
    return float(values.min()) if values.size else math.nan


def jain(acc: Array) -> float:
    """Jain's index (sum a)^2 / (N sum a^2), in [1/N, 1]; 1 iff all are equal, and 1 when all are 0."""
    values = known(acc)
    if not values.size:
        return math.nan
    squares = float(np.sum(values**2))
    return min(1.0, float(np.sum(values)) ** 2 / (values.size * squares)) if squares > 0 else 1.0


def gain_vs_local(acc: Array, local: Array) -> float:
    """Mean of a_i - a_i^local over the clients that have both. acc (N,), local (N,)."""
    return mean(_difference(acc, local))


def harmed(acc: Array, local: Array) -> float:
    """Share of clients that lose more than half a point against training alone. acc (N,), local (N,)."""
    return mean((_difference(acc, local) < -(HARM_MARGIN + _SLACK)).astype(np.float64))


def summary(acc: Array, counts: Array | None = None, local: Array | None = None) -> dict[str, float]:
    """All scalars of per-client accuracies by column name.

    acc (N,); counts (N,) test samples, which drop clients without any and add `acc_weighted`; local (N,)
    accuracies of local training, which add `gain_vs_local` and `harmed`. `acc_clients` is the number of
    clients that count.
    """
    values = vector(acc)
    result = {}
    if counts is not None:
        result["acc_weighted"] = acc_weighted(values, counts)
        values = np.where(vector(counts) > 0, values, np.nan)
    for measure in (acc_mean, acc_std, acc_worst10, acc_best10, acc_min, jain):
        result[measure.__name__] = measure(values)
    result["acc_clients"] = float(known(values).size)
    if local is not None:
        result["gain_vs_local"] = gain_vs_local(values, local)
        result["harmed"] = harmed(values, local)
    return result


def selected_round(rounds: Array, validation: Array) -> int | None:
    """The round with the best validation value, the earliest on ties; None where nothing was validated.

    rounds (R,) and validation (R,). Test accuracy is read at this round: it takes no part in the choice.
    """
    numbers, values = np.asarray(rounds), vector(validation)
    same_shape(numbers, values, "rounds", "validation")
    keep = np.isfinite(values)
    if not keep.any():
        return None
    best = values[keep].max()
    return int(numbers[keep & (values == best)].min())


def _tenth(acc: Array) -> int:
    return math.ceil(known(acc).size / 10)


def _difference(acc: Array, local: Array) -> Floats:
    left, right = vector(acc), vector(local)
    same_shape(left, right, "acc", "local")
    return known(left - right)
