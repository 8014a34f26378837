"""What robust rules share: blocks of columns, distances, ranks, and columns in order.

K rows (P,) stand in a tensor or in a list, and are never copied whole: whatever needs float64 takes them block by
block. All distances of a round come from one Gram matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

Rows = Sequence[Tensor] | Tensor  # K rows (P,), in a list or as a matrix (K, P)

SAME = 1e-12  # share of the lengths; less distance than this is the rounding of an inner product
DIGITS = 2.0**33  # of a score: what differs behind them is a tie
SLACK = 1e-9  # of cumulated weights; a sum of weights is no exact number


def block(rows: Rows, a: int, b: int) -> Tensor:
    """Columns a to b of K rows: (K, b - a)."""
    return rows[:, a:b] if isinstance(rows, Tensor) else torch.stack([row[a:b] for row in rows])


def blocks(width: int, size: int = 1 << 13) -> Iterator[tuple[int, int]]:
    """Ends [a, b) of runs of columns that cover `width` of them."""
    return ((a, min(a + size, width)) for a in range(0, width, size))


def row_dots(x: Tensor, y: Tensor) -> Tensor:
    """<x_k, y_k>: (K, d) and (K, d) or (d,) -> (K,) float64."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for a, b in blocks(x.shape[1]):
        total += (x[:, a:b].double() * y[..., a:b]).sum(1)
    return total


def squared_distances(products: Tensor) -> Tensor:
    """|g_i - g_j|^2 from the Gram matrix: (K, K) -> (K, K); exactly 0 between equal updates."""
    length = products.diagonal()
    both = length[:, None] + length
    d2 = (both - products - products.t()).clamp_min(0)
    return d2.masked_fill_(d2 <= SAME * both, 0).fill_diagonal_(0)


def distances_to(products: Tensor, c: Tensor) -> Tensor:
    """|v - g_k| for the point v = sum_j c_j g_j: inner products (K, K), (K,) -> (K,)."""
    with_v = products @ c
    return (products.diagonal() - 2 * with_v + c @ with_v).clamp_min(0).sqrt()


def nearest_sums(d2: Tensor, m: int) -> Tensor:
    """Sums of each one's squared distances to its m nearest others: (K, K) -> (K,)."""
    others = d2.clone().fill_diagonal_(torch.inf)
    return others.topk(m, dim=1, largest=False).values.sum(1)


def ranked(scores: Tensor) -> Tensor:
    """Positions from the lowest score to the highest, (K,); ties go to the first, and rounding makes no order."""
    mantissa, exponent = torch.frexp(scores)
    short = torch.ldexp((mantissa * DIGITS).round() / DIGITS, exponent)
    return torch.argsort(torch.where(torch.isfinite(scores), short, scores), stable=True)


def ordered(rows: Rows, a: int, b: int) -> tuple[Tensor, Tensor]:
    """Columns a to b, each sorted over the clients: values (b - a, K) float32 and whose they are, (b - a, K) int64.

    Equal values stand in client order. A float32 and its client's number make one int64 key, because the bits of
    numbers order like the numbers once those of negative ones are flipped; one sort of integers is many times faster
    than a stable argsort of floats.
    """
    x = (block(rows, a, b).float() + 0.0).t().contiguous()  # + 0.0: a negative zero is a zero
    keys = (_flipped(x.view(torch.int32)).long() << 32) | torch.arange(x.shape[1])
    keys.numpy().sort(axis=1)
    return _flipped((keys >> 32).int()).view(torch.float32), keys & 0xFFFFFFFF


def _flipped(bits: Tensor) -> Tensor:
    """Bits of float32 numbers <-> integers of the same order; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def cumulated(weights: Tensor, whose: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (K,) laid end to end in each column's order `whose` (c, K): (each, their ends), (c, K) float64 each.

    (1, K) where all weights are equal: then every column looks the same.
    """
    each = weights[None] if bool((weights == weights[0]).all()) else weights[whose]
    return each, each.cumsum(1)


def tally(whose: Tensor, used: Tensor, k: int) -> Tensor:
    """Sums of `used` by client number `whose`, both of any one shape -> (k,) float64."""
    flat = np.bincount(whose.reshape(-1).numpy(), weights=used.reshape(-1).numpy(), minlength=k)
    return torch.from_numpy(flat)
