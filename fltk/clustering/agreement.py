"""How two partitions of the same clients agree, and which cluster of one is which of the other. numpy alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def contingency(a: Array, b: Array) -> npt.NDArray[np.int64]:
    """Clients per pair of clusters: (K,), (K,) -> (A, B), clusters in ascending order of their labels."""
    (_, left), (_, right) = np.unique(a, return_inverse=True), np.unique(b, return_inverse=True)
    table = np.zeros((left.max(initial=-1) + 1, right.max(initial=-1) + 1), np.int64)
    np.add.at(table, (left, right), 1)
    return table


def ari(a: Array, b: Array) -> float:
    """Adjusted Rand index (Hubert and Arabie, 1985): 1 for equal partitions, about 0 for unrelated ones.

    NaN without clients; 1 where both are one cluster, or both all singletons.
    """
    table = contingency(a, b)
    if not table.size:
        return math.nan
    pairs = _pairs(table).sum()
    left, right = _pairs(table.sum(1)).sum(), _pairs(table.sum(0)).sum()
    expected = left * right / _pairs(table.sum()) if table.sum() > 1 else 0.0
    best = (left + right) / 2
    return float((pairs - expected) / (best - expected)) if best != expected else 1.0


def nmi(a: Array, b: Array) -> float:
    """Mutual information over the mean of the two entropies, in [0, 1]; 1 where both are one cluster. NaN if empty."""
    table = contingency(a, b)
    if not table.size:
        return math.nan
    joint = table / table.sum()
    left, right = _entropy(joint.sum(1)), _entropy(joint.sum(0))
    if left + right == 0:
        return 1.0
    return float(np.clip(2 * (left + right - _entropy(joint.ravel())) / (left + right), 0.0, 1.0))


def matched(new: Array, old: Array) -> dict[int, int]:
    """new label -> the old label it shares most clients with, one to one and best in total (Hungarian method).

    (K,), (K,) int; a new cluster without a common client, or left over, is missing.
    """
    from scipy.optimize import linear_sum_assignment

    table = contingency(new, old)
    rows, columns = linear_sum_assignment(-table)
    names = np.unique(new), np.unique(old)
    return {int(names[0][r]): int(names[1][c]) for r, c in zip(rows, columns, strict=True) if table[r, c]}


def membership(now: Array, before: Array, groups: Array | None) -> dict[str, float]:
    """What is told of a round's clusters: their number, who moved, and the agreement with known groups.

    now, before: (N,) labels, NaN for a client without one.  groups: (N,) or None. Clients without a label are left
    out; without any nothing is told.
    """
    known = np.isfinite(now)
    if not known.any():
        return {}
    both = known & np.isfinite(before)
    told = {"clusters": float(len(np.unique(now[known]))), "changed": float((now[both] != before[both]).sum())}
    if groups is not None:
        told |= {"cluster_ari": ari(now[known], groups[known]), "cluster_nmi": nmi(now[known], groups[known])}
    return told


def _pairs(count: Any) -> Any:
    """Pairs that can be drawn from `count` clients."""
    return count * (count - 1) / 2


def _entropy(shares: Array) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())
