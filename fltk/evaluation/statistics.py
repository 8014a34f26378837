"""Statistics for comparing methods on few seeds and many clients: intervals, paired tests, ranks.

scipy.stats has most of them, but takes longer to import than a comparison of ten thousand runs takes to compute; the
tests hold these functions against it. scipy.special is imported where it is needed, since many commands need it not.
What scipy lacks: the exact signed-rank test under ties, which accuracies on small test sets have in plenty, and
Nemenyi's critical difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

LEVEL = 0.95
ALPHA = 0.05
RESAMPLES = 9_999
EXACT_PAIRS = 50  # above, the normal approximation of the signed-rank test is as good
_DRAWS = 4_000_000  # resampled values held in memory at once
_TAIL = 1.25  # standard deviations; one value in ten is further from the mean on its side


# Spread and intervals


def sample_std(values: npt.ArrayLike) -> float:
    """Standard deviation with n - 1 in the denominator; NaN for fewer than two values."""
    data = np.asarray(values, np.float64)
    return float(data.std(ddof=1)) if data.size > 1 else math.nan


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends NaN where there are too few values for one."""

    low: float
    high: float


def bootstrap_interval(values: Array, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """BCa bootstrap interval of the mean: bias-corrected and accelerated (Efron, JASA 82, 1987).

    values (n,). Equal input and seed give equal intervals.
    """
    from scipy.special import ndtr, ndtri

    data = np.asarray(values, np.float64)
    if data.size < 2:
        return Interval(math.nan, math.nan)
    mean = float(data.mean())
    offsets = data - mean
    squares = float(offsets @ offsets)
    if squares <= (1e-12 * max(1.0, abs(mean))) ** 2 * data.size:
        return Interval(mean, mean)
    found = _resampled_means(data, resamples, seed)
    slack = 1e-12 * float(np.abs(data).max())  # sums in another order must count as equal to the mean
    below, upto = np.count_nonzero(found < mean - slack), np.count_nonzero(found <= mean + slack)
    bias = float(ndtri((below / found.size + upto / found.size) / 2))
    acceleration = float((offsets**3).sum()) / (6 * squares**1.5)
    half = float(ndtri((1 + level) / 2))
    shares = [ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-half, half)]
    reach = _TAIL * math.sqrt(squares) / data.size  # the second factor is the standard deviation of `found`
    low, high = (_quantile(found, share, mean - reach, mean + reach) for share in shares)
    return Interval(low, high)


def _quantile(values: Floats, share: float, low: float, high: float) -> float:
    """The number of `np.quantile`: linear between the two order statistics around a share.

    They are looked for below `low` and above `high` first, because selecting among all values takes longest here.
    """
    place, part = divmod(float((values.size - 1) * share), 1)
    first, second = int(place), min(int(place) + 1, values.size - 1)
    tail = np.compress(values < low if share < 0.5 else values > high, values)
    smaller = 0 if share < 0.5 else values.size - tail.size
    if first < smaller or second >= smaller + tail.size:
        tail, smaller = values, 0
    ordered = np.partition(tail, (first - smaller, second - smaller))
    a, b = float(ordered[first - smaller]), float(ordered[second - smaller])
    # From the nearer end, so that the result never lies beyond it.
    return a + (b - a) * part if part < 0.5 else b - (b - a) * (1 - part)


def _resampled_means(data: Floats, resamples: int, seed: int) -> Floats:
    """Means of `resamples` samples drawn from data with replacement."""
    if data.size * resamples <= _DRAWS:
        result: Floats = _weights(data.size, resamples, seed) @ data
        return result
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWS // data.size)
    steps = (min(rows, resamples - start) for start in range(0, resamples, rows))
    return np.concatenate([data[generator.integers(0, data.size, (step, data.size))].mean(axis=1) for step in steps])


@lru_cache(maxsize=2)
def _weights(n: int, resamples: int, seed: int) -> Floats:
    """Share of each of n values in each resample, (resamples, n). Kept: a comparison has many samples of one size."""
    chosen = np.random.default_rng(seed).integers(0, n, (resamples, n))
    chosen += n * np.arange(resamples)[:, None]
    counts = np.bincount(chosen.ravel(), minlength=resamples * n).reshape(resamples, n)
    weights: Floats = counts / n
    weights.setflags(write=False)
    return weights


# Paired tests


def tied_ranks(values: Array, slack: float = 0.0) -> Floats:
    """Ranks from 1; values that differ by at most `slack` share their mean rank. (n,) -> (n,)."""
    data = np.asarray(values, np.float64)
    order = np.argsort(data, kind="stable")
    group = np.zeros(data.size, np.int64)
    group[order] = np.concatenate([[0], np.cumsum(np.diff(data[order]) > slack)])[: data.size]
    sizes = np.bincount(group)
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2
    result: Floats = mean_rank[group]
    return result


def wilcoxon(differences: Array, slack: float = 0.0) -> float:
    """Two-sided p-value of the signed-rank test that paired differences (n,) are symmetric about 0.

    Differences within `slack` of 0 are dropped (Wilcoxon's own rule), magnitudes within `slack` of each other are
    tied. Exact, also under ties, up to 50 pairs; normal approximation with tie correction above. 1 without a pair.
    """
    data = np.asarray(differences, np.float64)
    data = data[np.abs(data) > slack]
    if not data.size:
        return 1.0
    ranks = tied_ranks(np.abs(data), slack)
    positive = float(ranks[data > 0].sum())
    return _exact(ranks, positive) if data.size <= EXACT_PAIRS else _normal(ranks, positive)


def _exact(ranks: Floats, positive: float) -> float:
    """Both tails of the rank sum when every sign is + or - with equal chance. Mean ranks are halves, hence doubled."""
    doubled = np.rint(2 * ranks).astype(np.int64)
    chance = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(chance)
        moved[rank:] = chance[: chance.size - rank]
        chance = (chance + moved) / 2
    at = round(2 * positive)
    tail = min(float(chance[: at + 1].sum()), float(chance[at:].sum()))
    return min(1.0, 2 * tail)


def _normal(ranks: Floats, positive: float) -> float:
    from scipy.special import ndtr

    n = ranks.size
    ties = np.unique(ranks, return_counts=True)[1]
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((ties**3 - ties).sum()) / 48
    z = (positive - n * (n + 1) / 4) / math.sqrt(variance)
    return min(1.0, 2 * float(ndtr(-abs(z))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values (Scandinavian Journal of Statistics 6, 1979), in the given order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def least_p(pairs: int) -> float:
    """The smallest two-sided p-value that so many pairs can give."""
    return min(1.0, 2.0 ** (1 - pairs))


# Ranks over several settings


@dataclass(frozen=True)
class Ranks:
    """Average ranks of k methods over N settings, 1 the best.

    friedman_p: that all methods are alike.  critical_difference: average ranks this far apart differ (Nemenyi).
    """

    methods: tuple[str, ...]
    average: tuple[float, ...]
    settings: int
    friedman_p: float
    critical_difference: float
    alpha: float


def rank_methods(methods: Sequence[str], scores: Array, *, higher: bool = True, alpha: float = ALPHA) -> Ranks:
    """Rank k methods on N settings by scores (N, k), without missing values; at least two of each.

    J. Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006.
    """
    table = np.asarray(scores, np.float64)
    slack = 1e-9 * float(np.abs(table).max(initial=0.0))
    ranks = np.stack([tied_ranks(-row if higher else row, slack) for row in table])  # (N, k)
    n, k = ranks.shape
    distance = nemenyi(k, n, alpha)
    return Ranks(tuple(methods), tuple(ranks.mean(axis=0).tolist()), n, friedman(ranks), distance, alpha)


def friedman(ranks: Array) -> float:
    """p-value of Friedman's test with tie correction. ranks (N, k), each row the ranks 1..k or their means."""
    from scipy.special import chdtrc

    n, k = ranks.shape
    sums = ranks.sum(axis=0)
    ties = sum(float((c**3 - c).sum()) for c in (np.unique(row, return_counts=True)[1] for row in ranks))
    correction = 1 - ties / (n * (k**3 - k))
    if correction <= 0:
        return 1.0  # every method has the same rank everywhere
    statistic = (12 / (n * k * (k + 1)) * float(sums @ sums) - 3 * n * (k + 1)) / correction
    return float(chdtrc(k - 1, max(0.0, statistic)))


@lru_cache(maxsize=64)
def nemenyi(k: int, n: int, alpha: float = ALPHA) -> float:
    """Nemenyi's critical difference of average ranks of k methods over n settings: q sqrt(k (k + 1) / (6 n))."""
    return studentized_range(k, alpha) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


def studentized_range(k: int, alpha: float) -> float:
    """Upper quantile of the range of k standard normal values (infinitely many degrees of freedom).

    P(range <= q) = k integral phi(z) (Phi(z) - Phi(z - q))^(k - 1) dz, solved for q by bisection.
    """
    from scipy.special import ndtr

    z = np.linspace(-9.0, 9.0, 2001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 20.0
    for _ in range(50):
        q = (low + high) / 2
        inside = k * float((density * (ndtr(z) - ndtr(z - q)) ** (k - 1)).sum()) * float(z[1] - z[0])
        low, high = (q, high) if inside < 1 - alpha else (low, q)
    return (low + high) / 2


def cliques(average: Sequence[float], distance: float) -> list[list[int]]:
    """The largest groups of methods whose average ranks lie less than `distance` apart, best first, as indices."""
    order = sorted(range(len(average)), key=lambda i: average[i])
    found: list[list[int]] = []
    reached = 0
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and average[order[end + 1]] - average[order[start]] < distance:
            end += 1
        if end > start and end > reached:
            found.append(order[start : end + 1])
        reached = max(reached, end)
    return found
