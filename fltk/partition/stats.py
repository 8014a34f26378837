"""How skewed a partition is: distances between label distributions, and sizes.

Distances take distributions p and q over classes on the last axis, (..., C), and broadcast. A client
without samples has no distribution: its distances are NaN and it has no weight in means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from fltk.data.dataset import Ints
from fltk.partition.record import Partition

Values = npt.NDArray[np.float64]


def label_counts(parts: Sequence[Ints], labels: Ints, n_classes: int) -> Ints:
    """(N, C): how many samples of each class each client holds."""
    return np.stack([np.bincount(labels[part], minlength=n_classes) for part in parts]).astype(np.int64)


def held(p: Partition, labels: Ints, n_classes: int) -> Ints:
    """(N, C) label counts of train, validation and test together, as stored (before a label permutation).

    A test set that all share is left out: it says nothing about a client.
    """
    shared = len(p.test) > 1 and all(part is p.test[0] for part in p.test)
    splits = (p.train, p.val) if shared else (p.train, p.val, p.test)
    counts = np.stack([label_counts(parts, labels, n_classes) for parts in splits])
    return np.asarray(counts.sum(0), np.int64)


def distributions(counts: Ints) -> Values:
    """Rows that add up to 1; NaN for an empty row."""
    total = counts.sum(-1, keepdims=True).astype(np.float64)
    shares: Values = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return shares


def label_emd(p: Values, q: Values) -> Values:
    """Sum of absolute differences, 0..2 (Zhao et al., arXiv:1806.00582; no factor 1/2)."""
    distance: Values = np.abs(p - q).sum(-1)
    return distance


def tv(p: Values, q: Values) -> Values:
    """Total variation, 0..1."""
    return label_emd(p, q) / 2


def js(p: Values, q: Values) -> Values:
    """Jensen-Shannon divergence in bits, 0..1; not its square root."""
    mean = (p + q) / 2
    return (_kl(p, mean) + _kl(q, mean)) / 2


def hellinger(p: Values, q: Values) -> Values:
    """Hellinger distance, 0..1."""
    distance: Values = np.sqrt(np.square(np.sqrt(p) - np.sqrt(q)).sum(-1) / 2)
    return distance


def effective_classes(p: Values) -> Values:
    """exp(entropy): the number of equally frequent classes that is as mixed, 1..C."""
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    number: Values = np.exp(-(p * logs).sum(-1))
    return number


def size_cv(counts: Ints) -> float:
    """Standard deviation of the client sizes over their mean, 0..sqrt(N - 1)."""
    sizes = counts.sum(1)
    return float(sizes.std() / sizes.mean())


DISTANCES: dict[str, Callable[[Values, Values], Values]] = {
    "label-emd": label_emd,
    "tv": tv,
    "js": js,
    "hellinger": hellinger,
}


def per_client(counts: Ints) -> dict[str, Values]:
    """Each measure for each client (N,): distances to the pooled distribution, numbers of classes, size."""
    p = distributions(counts)
    pooled = distributions(counts.sum(0))
    values = {name: distance(p, pooled) for name, distance in DISTANCES.items()}
    values["classes"] = (counts > 0).sum(1).astype(np.float64)
    values["effective-classes"] = effective_classes(p)
    values["size"] = counts.sum(1).astype(np.float64)
    return values


def weighted_mean(values: Values, weights: Ints) -> float:
    """Mean with weights (N,); entries without weight do not count, NaN among them included."""
    use = weights > 0
    return float(np.average(values[use], weights=weights[use]))


def summary(counts: Ints) -> dict[str, float]:
    """Means over clients weighted by size, means over pairs of clients (`-pairs`), spread of sizes."""
    sizes = counts.sum(1)
    values = per_client(counts)
    names = (*DISTANCES, "classes", "effective-classes")
    out = {name: weighted_mean(values[name], sizes) for name in names}
    p = distributions(counts[sizes > 0])
    for name, distance in DISTANCES.items():
        rows = [distance(p[i + 1 :], p[i]) for i in range(len(p) - 1)]
        out[f"{name}-pairs"] = float(np.concatenate(rows).mean()) if rows else 0.0
    return out | {"size-cv": size_cv(counts), "size-min": float(sizes.min()), "size-max": float(sizes.max())}


def _kl(p: Values, q: Values) -> Values:
    p, q = np.broadcast_arrays(p, q)
    ratio = np.divide(p, q, out=np.ones(p.shape), where=p > 0)
    divergence: Values = (p * np.log2(ratio)).sum(-1)
    return divergence
