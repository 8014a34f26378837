"""Client tokens and their similarities.

A token is the direction in which a client's model has moved from a common start, perhaps beside other directions
(its last update, its curvature), each with a share of the whole:

    z_i = [sqrt(a_1) x_i1 / |x_i1|, sqrt(a_2) x_i2 / |x_i2|, ...],   <z_i, z_j> = sum_p a_p cos(x_ip, x_jp)

Similarities are computed in float64 by column chunks or from a linear sketch: a (K, P) matrix of models is never
copied whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fltk.memory.parallel import on_cores
from fltk.memory.products import gram

Center = Literal["init", "mean", "median", "none"]
Projection = Literal["countsketch", "gaussian"]
TINY = 1e-12
SOME = 8  # rows that a core has in work one after the other


def center_of(rows: Tensor, kind: str, start: Tensor | None) -> Tensor:
    """The origin of displacements, (P,): the common start, the rows' mean or median, or zero."""
    if kind == "init":
        if start is None:
            raise ValueError("center 'init' needs the common start model")
        return start
    if kind == "mean":
        return rows.mean(0)
    return rows.median(0).values if kind == "median" else torch.zeros_like(rows[0])


def cosines(products: Tensor) -> Tensor:
    """Gram matrix (K, K) -> cosine similarities (K, K), with unit diagonal."""
    norm = products.diagonal().clamp_min(0).sqrt().clamp_min(TINY)
    out = (products / norm[:, None] / norm).clamp(-1, 1)
    return out.fill_diagonal_(1.0)


def hashing(p: int, r: int, seed: int) -> tuple[Tensor, Tensor]:
    """CountSketch's two hash functions: the bucket h(q) in 0..r-1 and the sign s(q) of P coordinates, each (P,)."""
    generator = torch.Generator().manual_seed(seed)
    bucket = torch.randint(r, (p,), generator=generator)
    return bucket, torch.randint(2, (p,), generator=generator, dtype=torch.float64) * 2 - 1


def countsketch(rows: Tensor, origin: Tensor, r: int, seed: int) -> Tensor:
    """CountSketch of displacements: (K, P) -> (K, r) float64; linear, O(K P), keeps cosines to ~1/sqrt(r).

    M. Charikar, K. Chen, M. Farach-Colton, "Finding Frequent Items in Data Streams", 2002: z_b is the sum of
    s(q) x_q over the coordinates q with h(q) = b. A core has one row in work at a time, so `rows` may be a mapped file.
    """
    (bucket, sign), zero = hashing(rows.shape[1], r, seed), origin.double()

    def sketch(row: Tensor) -> Tensor:  # bincount adds several times faster than index_add_
        return torch.bincount(bucket, weights=(row - zero).mul_(sign), minlength=r)

    return torch.stack(list(on_cores(sketch, rows.unbind(), SOME)))


def gaussian(rows: Tensor, origin: Tensor, r: int, seed: int, chunk: int = 1 << 12) -> Tensor:
    """Dense Gaussian projection of displacements: (K, P) -> (K, r) float64; O(K P r), for comparison."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(len(rows), r, dtype=torch.float64)
    for a in range(0, rows.shape[1], chunk):
        d = rows[:, a : a + chunk].double() - origin[a : a + chunk].double()
        out.addmm_(d, torch.randn(d.shape[1], r, generator=generator, dtype=torch.float64))
    return out / math.sqrt(r)


def similarity(rows: Tensor, origin: Tensor) -> Tensor:
    """Cosines between displacements from `origin`: (K, P) -> (K, K) float64."""
    return cosines(gram(rows, origin))


@dataclass(frozen=True)
class Part:
    """One part of all clients' tokens: the directions of rows - origin, with a share of the whole."""

    rows: Tensor  # (K, P)
    origin: Tensor  # (P,)
    share: float = 1.0


def similarities(parts: Sequence[Part]) -> Tensor:
    """<z_i, z_j>: the parts' cosines, weighted by their shares, (K, K) float64. A part of share 0 costs nothing."""
    found = [p.share * similarity(p.rows, p.origin) for p in parts if p.share > 0]
    return torch.stack(found).sum(0) if len(found) > 1 else found[0]


def sketches(rows: Tensor, origin: Tensor, r: int, seed: int, projection: Projection = "countsketch") -> Tensor:
    """Displacements in at most r numbers: (K, P) -> (K, min(P, r)) float64, exact where P <= r."""
    if rows.shape[1] <= r:
        return rows.double() - origin.double()
    return (countsketch if projection == "countsketch" else gaussian)(rows, origin, r, seed)


def unit(rows: Tensor) -> Tensor:
    """Rows brought to length 1; a row of zeros stays: (K, d) -> (K, d)."""
    return torch.nn.functional.normalize(rows, dim=1, eps=TINY)


def tokens(parts: Sequence[Part], r: int = 1024, seed: int = 0, projection: Projection = "countsketch") -> Tensor:
    """z (K, d) float64, unit rows, from sketches of at most r numbers a part."""
    kept = [(n, p) for n, p in enumerate(parts) if p.share > 0]
    found = [math.sqrt(p.share) * unit(sketches(p.rows, p.origin, r, seed + n, projection)) for n, p in kept]
    return torch.cat(found, 1)


def secant(update: Tensor, before: Tensor, start: Tensor, start_before: Tensor) -> Tensor:
    """Diagonal secant estimate of curvature from two participations of each client, all (K, P) -> (K, P).

    With d = update - before and h = start - start_before, the change of the update per change of the model that it
    started from, -d / h, regularised so that columns that hardly moved count for little:  -d h / (h^2 + mean h^2).
    """
    d, h = update - before, start - start_before
    moved = h.square()
    return -d * h / (moved + moved.mean(1, keepdim=True)).clamp_min(TINY)
