"""Numbers that describe a collaboration map: whom it favours, and what it follows. numpy alone.

A map `A` is (N, N), row = receiving client, column = contributing client. NaN is the answer where a measure is
undefined ("null"): nothing to average, or a constant side of a correlation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fltk.metrics.arrays import Array, Floats, known, mean, same_shape, square, vector

_COLLAPSE_SELF = 0.95
_COLLAPSE_ENTROPY = 0.99


@dataclass(frozen=True)
class Alignment:
    """How well a map follows a similarity of clients; all NaN where no row could be compared."""

    spearman: float  # mean over rows
    pearson: float  # mean over rows
    p_value: float  # Mantel permutation test of `spearman`, one-sided (greater)
    rows: int  # rows that were compared


def label_similarity(counts: Array) -> Floats:
    """1 - Jensen-Shannon divergence (base 2) of label distributions. (N, C) counts -> (N, N) in [0, 1].

    Rows and columns of clients without samples are NaN.
    """
    table = np.asarray(counts, dtype=np.float64)
    totals = table.sum(axis=1)
    shares = table / np.where(totals > 0, totals, np.nan)[:, None]
    entropy = _entropy(shares)  # (N,)
    result = np.empty((len(table), len(table)))
    for i, row in enumerate(shares):  # one row at a time: (N, C) memory instead of (N, N, C)
        result[i] = 1.0 - (_entropy((shares + row) / 2) - (entropy + entropy[i]) / 2)
    return np.clip(result, 0.0, 1.0)


def attention_alignment(
    weights: Array,
    similarity: Array,
    *,
    prior: Array | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> Alignment:
    """Mean over rows of the correlation between a map and a similarity, off the diagonal.

    weights (N, N); similarity (N, N), as from `label_similarity`; prior (N,) is divided out of the columns
    (A_ij / n_j^gamma), because a size prior says nothing about attention. Rows in which either side is
    constant or unknown are skipped; clients without similarity or prior are dropped. Row-wise, because rows
    are normalised one by one. Client labels are permuted for the p-value, because pairs are not independent
    (N. Mantel, Cancer Research 27, 1967).
    """
    left, right = _aligned(weights, similarity, prior)
    ranked = _standardised(left, ranks=True), _standardised(right, ranks=True)
    spearman, rows = _row_correlation(*ranked)
    pearson, _ = _row_correlation(_standardised(left, ranks=False), _standardised(right, ranks=False))
    if not rows:
        return Alignment(math.nan, math.nan, math.nan, 0)
    p_value = _mantel(*ranked, observed=spearman, permutations=permutations, seed=seed)
    return Alignment(spearman, pearson, p_value, rows)


def group_share(weights: Array, groups: Array) -> float:
    """Share of the off-diagonal weight that stays inside the true groups. weights (N, N), groups (N,)."""
    table, ids = square(weights), np.asarray(groups)
    off = ~np.eye(len(table), dtype=bool) & np.isfinite(table)
    inside = off & (ids[:, None] == ids[None, :])
    total = float(table[off].sum())
    return float(table[inside].sum()) / total if total > 0 else math.nan


def group_auc(weights: Array, groups: Array, *, prior: Array | None = None) -> float:
    """Probability that a row gives a client of its own group more than one of another group; ties count half.

    Mean over rows, which are normalised one by one; the diagonal is left out, rows of one-client groups (or
    of the only group) are skipped. weights (N, N), groups (N,), prior (N,) as in `attention_alignment`.
    """
    ids = np.asarray(groups)
    table = _without_prior(square(weights), prior)
    areas = []
    for i, row in enumerate(table):
        others = np.flatnonzero((np.arange(len(row)) != i) & ~np.isnan(row))
        same = ids[others] == ids[i]
        positives, negatives = int(same.sum()), int((~same).sum())
        if positives and negatives:
            ranks = _ranks(row[others], _tolerance(weights))
            above = float(ranks[same].sum()) - positives * (positives + 1) / 2
            areas.append(above / (positives * negatives))
    return mean(np.array(areas))


def map_entropy(weights: Array) -> float:
    """Mean row entropy over log N: 0 = every row looks at one client, 1 = uniform. weights (N, N) >= 0.

    Rows that are unknown, empty or hold a negative weight have no entropy and are skipped.
    """
    table = square(weights)
    usable = np.isfinite(table).all(axis=1) & (table >= 0).all(axis=1) & (table.sum(axis=1) > 0)
    if len(table) < 2 or not usable.any():
        return math.nan
    rows = table[usable] / table[usable].sum(axis=1, keepdims=True)
    return float(_entropy(rows).mean()) / math.log2(len(table))


def self_weight(weights: Array) -> float:
    """Mean weight that clients give themselves. weights (N, N)."""
    return mean(known(np.diagonal(square(weights))))


def collapse(weights: Array) -> str | None:
    """A sentence when a map no longer personalises: all weight on itself, or the same weight on everybody."""
    if len(square(weights)) < 2:
        return None
    own = self_weight(weights)
    if own > _COLLAPSE_SELF:
        return f"The map has become local training: clients give themselves {own:.0%} of the weight."
    entropy = map_entropy(weights)
    if entropy >= _COLLAPSE_ENTROPY:
        return f"The map has become FedAvg: its mean row entropy is {entropy:.1%} of the maximum."
    return None


def _entropy(shares: Floats) -> Floats:
    """Entropy in bits along the last axis; 0 log 0 = 0, NaN stays."""
    logs = np.log2(np.where(shares == 0, 1.0, shares))
    result: Floats = -np.sum(shares * logs, axis=-1)
    return result


def _tolerance(values: Array) -> float:
    """Relative differences below this are rounding; stored maps are float32, too coarse for 1e-9."""
    kind = np.asarray(values).dtype
    return 1e-6 if kind in (np.dtype(np.float32), np.dtype(np.float16)) else 1e-9


def _without_prior(weights: Floats, prior: Array | None) -> Floats:
    if prior is None:
        return weights
    sizes = vector(prior)
    if len(sizes) != len(weights):
        raise ValueError(f"prior has {len(sizes)} clients, the map {len(weights)}")
    return weights / np.where(sizes > 0, sizes, np.nan)[None, :]


def _aligned(weights: Array, similarity: Array, prior: Array | None) -> tuple[Floats, Floats]:
    """Both sides over the clients that have a similarity and a prior, with rounding noise snapped to ties."""
    left, right = square(weights), square(similarity)
    same_shape(left, right, "map", "similarity")
    keep = np.isfinite(np.diagonal(right))
    if prior is not None:
        keep = keep & (vector(prior) > 0)
    left = _without_prior(left, prior)
    chosen = np.ix_(keep, keep)
    return _snapped(left[chosen], _tolerance(weights)), _snapped(right[chosen], _tolerance(similarity))


def _snapped(table: Floats, tolerance: float) -> Floats:
    """Each row with values that differ only by rounding made equal; the diagonal becomes NaN."""
    result = table.copy()
    np.fill_diagonal(result, np.nan)
    for row in result:
        known = np.flatnonzero(np.isfinite(row))
        labels = _tie_labels(row[known], tolerance)
        _, first = np.unique(labels, return_index=True)
        row[known] = row[known][first[labels]]
    return result


def _tie_labels(values: Floats, tolerance: float) -> npt.NDArray[np.int64]:
    """Number of the tie group of each value, counted from the smallest. (n,) -> (n,)."""
    labels = np.zeros(len(values), dtype=np.int64)
    if len(values):
        order = np.argsort(values, kind="stable")
        steps = np.diff(values[order]) > tolerance * np.abs(values).max()
        labels[order] = np.concatenate([[0], np.cumsum(steps)])
    return labels


def _ranks(values: Floats, tolerance: float) -> Floats:
    """Ranks from 1, tied values sharing their mean rank. (n,) -> (n,)."""
    labels = _tie_labels(values, tolerance)
    sizes = np.bincount(labels)
    mean_rank = np.cumsum(sizes) - (sizes - 1) / 2
    result: Floats = mean_rank[labels]
    return result


def _standardised(table: Floats, *, ranks: bool) -> Floats:
    """Rows with mean 0 and norm 1 off the diagonal; constant or unknown rows become all 0. (N, N)."""
    result = np.zeros_like(table)
    for i, row in enumerate(table):
        others = np.arange(len(row)) != i
        values = row[others]
        if not np.isfinite(values).all() or not np.ptp(values):
            continue
        values = _ranks(values, 0.0) if ranks else values
        centred = values - values.mean()
        result[i, others] = centred / np.linalg.norm(centred)
    return result


def _row_correlation(left: Floats, right: Floats) -> tuple[float, int]:
    """Mean over comparable rows of their correlation, and the number of such rows."""
    both = left.any(axis=1) & right.any(axis=1)
    rows = int(both.sum())
    return (float(np.sum(left * right)) / rows if rows else math.nan), rows


def _mantel(left: Floats, right: Floats, *, observed: float, permutations: int, seed: int) -> float:
    generator = np.random.default_rng(seed)
    reached = 0
    for _ in range(permutations):
        order = generator.permutation(len(right))
        value, _ = _row_correlation(left, right[np.ix_(order, order)])
        reached += bool(value >= observed - 1e-12)  # a permutation that changes nothing must count despite rounding
    return (1 + reached) / (1 + permutations)
