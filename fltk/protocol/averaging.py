"""Averages of models, clients being rows: what a method averages, by which weights, and in which order of sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fltk.protocol.class_head import ClassHead

ONE, CLUSTERS, MIXED = "one", "clusters", "mixed"  # global model, models of clusters, one mixed row per client
KINDS = (ONE, CLUSTERS, MIXED)


def weighted_sum(rows: Iterable[Tensor], weights: Tensor) -> Tensor:
    """sum_k weights[k] rows[k]: K >= 1 rows (P,), (K,) -> (P,), in the given order (by client id), in float64.

    The float64 accumulator makes the mean of equal rows equal to the row, bit for bit, whatever the weights.
    """
    given = iter(rows)
    first = next(given)
    given = chain((first,), given)
    sums = (partial_sum(list(islice(given, part.stop - part.start)), weights[part]) for part in parts(len(weights)))
    return added(sums).to(first.dtype)


def parts(count: int) -> list[slice]:
    """The consecutive parts in which `count` rows are added up: each by itself and then their sums.

    Whoever adds models up, at once or in several processes, does it so and comes to the same bits: at least 16 parts,
    of 16 rows at most, but none of a single row.
    """
    number = max(1, min(count // 2, max(16, -(-count // 16))))
    cuts = [count * k // number for k in range(number + 1)]
    return [slice(a, b) for a, b in pairwise(cuts) if a < b]


def partial_sum(rows: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The sum of one part (P,), float64."""
    total = torch.zeros(rows[0].shape, dtype=torch.float64)
    for row, weight in zip(rows, weights.tolist(), strict=True):
        total.add_(row, alpha=weight)
    return total


def added(sums: Iterable[Tensor]) -> Tensor:
    """The whole sum (P,), float64, from those of its parts, in order."""
    given = iter(sums)
    total = next(given).clone()
    for part in given:
        total.add_(part)
    return total


def average(rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int], head: ClassHead | None) -> Tensor:
    """One model from the shared columns of the clients `ids`: K rows (P,), (K,) -> (P,)."""
    out = weighted_sum(rows, weights)
    return out if head is None else head.average(out, rows, weights, ids, weighted_sum)


def stepped(old: Tensor, new: Tensor, step: float, parameters: int) -> Tensor:
    """old + step (new - old) in the first columns, (P,); float buffers behind them are those of `new`.

    A longer step would throw a running variance below zero.
    """
    return new if step == 1 else torch.cat([torch.lerp(old, new, step)[:parameters], new[parameters:]])


def equal_weights(count: int) -> Tensor:
    """1 / K each, (K,) float64."""
    return torch.full((count,), 1 / count, dtype=torch.float64)


def by_trust(weights: Tensor, trust: Tensor) -> Tensor:
    """Weights (K,) times trust (K,), normalised: the weights themselves under full trust, zeros where none is left."""
    if bool((trust == 1).all()):
        return weights
    mass = weights * trust
    return mass / mass.sum().clamp_min(1e-300)


def common_rows(p: Tensor) -> Tensor:
    """The map (N, N) of clients that all start from the mean by weights p (N,); own models where nobody entered it."""
    n = len(p)
    return p.expand(n, -1) if bool(p.any()) else torch.eye(n, dtype=p.dtype)
