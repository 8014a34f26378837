"""Client tokens and their similarities.

A token is the direction in which a client's model has moved from a common start. Similarities are cosines,
computed in float64 by column chunks: a (K, P) matrix of models is never copied whole.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Center = Literal["init", "mean", "median", "none"]
Projection = Literal["none", "countsketch", "gaussian"]
TINY = 1e-12


def center_of(rows: Tensor, kind: str, start: Tensor | None) -> Tensor:
    """The origin of displacements, (P,): the common start, the rows' mean or median, or zero."""
    if kind == "init":
        if start is None:
            raise ValueError("center 'init' needs the common start model")
        return start
    if kind == "mean":
        return rows.mean(0)
    return rows.median(0).values if kind == "median" else torch.zeros_like(rows[0])


def gram(rows: Tensor, origin: Tensor, chunk: int = 1 << 15) -> Tensor:
    """Inner products of displacements: (K, P), (P,) -> (K, K) float64."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for a in range(0, rows.shape[1], chunk):
        d = rows[:, a : a + chunk].double() - origin[a : a + chunk].double()
        total.addmm_(d, d.t())
    return total


def cosines(products: Tensor) -> Tensor:
    """Gram matrix (K, K) -> cosine similarities (K, K), with unit diagonal."""
    norm = products.diagonal().clamp_min(0).sqrt().clamp_min(TINY)
    out = (products / norm[:, None] / norm).clamp(-1, 1)
    return out.fill_diagonal_(1.0)


def countsketch(rows: Tensor, origin: Tensor, r: int, seed: int, chunk: int = 1 << 15) -> Tensor:
    """CountSketch of displacements: (K, P) -> (K, r) float64; linear, O(K P), keeps cosines to ~1/sqrt(r).

    Coordinate q goes to bucket h(q) with sign s(q), both drawn from `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(len(rows), r, dtype=torch.float64)
    for a in range(0, rows.shape[1], chunk):
        d = rows[:, a : a + chunk].double() - origin[a : a + chunk].double()
        bucket = torch.randint(r, (d.shape[1],), generator=generator)
        sign = torch.randint(2, (d.shape[1],), generator=generator, dtype=torch.float64) * 2 - 1
        out.index_add_(1, bucket, d * sign)
    return out


def gaussian(rows: Tensor, origin: Tensor, r: int, seed: int, chunk: int = 1 << 12) -> Tensor:
    """Dense Gaussian projection of displacements: (K, P) -> (K, r) float64; O(K P r), for comparison."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(len(rows), r, dtype=torch.float64)
    for a in range(0, rows.shape[1], chunk):
        d = rows[:, a : a + chunk].double() - origin[a : a + chunk].double()
        out.addmm_(d, torch.randn(d.shape[1], r, generator=generator, dtype=torch.float64))
    return out / math.sqrt(r)


def similarity(rows: Tensor, origin: Tensor, projection: str = "none", r: int = 1024, seed: int = 0) -> Tensor:
    """Cosines between displacements from `origin`: (K, P) -> (K, K) float64."""
    if projection == "none":
        return cosines(gram(rows, origin))
    z = (countsketch if projection == "countsketch" else gaussian)(rows, origin, r, seed)
    return cosines(z @ z.t())
