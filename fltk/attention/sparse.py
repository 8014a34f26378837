"""Who may attend to whom when there are many clients.

N. Kitaev, L. Kaiser, A. Levskaya. "Reformer: The Efficient Transformer." ICLR 2020. arXiv:2001.04451, section 2:
locality-sensitive hashing by random rotations, here over clients instead of words. One hash round draws a random
R (d, b/2) and puts token z into bucket

    h(z) = argmax [zR; -zR]

and two clients may attend to each other when some round puts them into one bucket. This is a set union: unlike in
the paper, a pair that meets twice counts once. The price is recall: the best peer that a client has *met* stands
for its noise ceiling, so a client that met none of its own kind attends to strangers or is lone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DENSE_BELOW = 64  # clients; a full map costs next to nothing below
LARGEST = 64  # clients in a bucket, before it is split


def buckets_for(k: int, size: int) -> int:
    """Number of buckets, an even number, for about `size` clients in each: 2 max(1, ceil(K / (2 size)))."""
    return 2 * max(1, math.ceil(k / (2 * size)))


def pieces(z: Tensor, hashes: int = 4, size: int = 16, seed: int = 0, buckets: int | None = None) -> list[list[Tensor]]:
    """Clients that meet: for every hash round the members (m,) int64 of each bucket; tokens (K, d), unit rows.

    buckets: an even number, or 1 for everybody in one (default: about `size` clients in each).  Each round draws its
    rotation from the stream of `seed`. A bucket of more than 64 clients is cut, in the order of the hash margin (best
    coordinate against the second best), into equal parts.
    """
    b = buckets_for(len(z), size) if buckets is None else buckets
    generator = torch.Generator().manual_seed(seed)
    return [_round(z, b, generator) for _ in range(hashes)]


def _round(z: Tensor, b: int, generator: torch.Generator) -> list[Tensor]:
    turned = z @ torch.randn(z.shape[1], max(1, b // 2), generator=generator, dtype=z.dtype)
    best = torch.cat([turned, -turned], 1).topk(2, dim=1)
    margin = best.values[:, 0] - best.values[:, 1]
    bucket = best.indices[:, 0] if b > 1 else torch.zeros(len(z), dtype=torch.int64)
    by_margin = margin.argsort(descending=True, stable=True)
    order = by_margin[bucket[by_margin].argsort(stable=True)]
    members = torch.split(order, bucket.bincount(minlength=b).tolist())
    return [part for m in members if len(m) for part in m.tensor_split(math.ceil(len(m) / LARGEST))]


def lsh(z: Tensor, hashes: int = 4, size: int = 16, seed: int = 0, buckets: int | None = None) -> Tensor:
    """M (K, K) bool, symmetric with a true diagonal: pairs that share a bucket in some round. Tokens (K, d)."""
    mask = torch.eye(len(z), dtype=torch.bool)
    for members in pieces(z, hashes, size, seed, buckets):
        for m in members:
            mask[m[:, None], m] = True
    return mask


def topk(s: Tensor, count: int, peer: Tensor | None = None) -> Tensor:
    """M (K, K) bool, true on the diagonal and for the `count` most similar clients of every row.

    peer: (K, K) bool, who may be chosen (default: all others). Equals of the last one are chosen as well. Not
    symmetric: a popular client is chosen by many.
    """
    k = len(s)
    own = torch.eye(k, dtype=torch.bool)
    allowed = ~own if peer is None else peer & ~own
    last = s.masked_fill(~allowed, -torch.inf).topk(min(count, k), dim=1).values[:, -1:]
    return own | (allowed & (s >= last))


def pairs(rounds: list[list[Tensor]], k: int) -> Tensor:
    """The same pairs as `lsh` without a table: i K + j for everybody who met in `pieces`, ascending, (Z,) int64."""
    met = [(m[:, None] * k + m).flatten() for members in rounds for m in members]
    found: Tensor = torch.unique(torch.cat(met))
    return found
