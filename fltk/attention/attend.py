"""The free attention aggregator: models in, map out. Nothing is learned or indexed by client id."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fltk.attention.scores import WIDTHS, ceiling, energies, fix_self_weight, lone, off_diagonal, softmax_rows
from fltk.attention.tokens import center_of, similarity


@dataclass(frozen=True)
class Attention:
    """A map and what it rests on."""

    map: Tensor  # (K, K) float64, rows on the simplex
    similarity: Tensor  # (K, K) float64
    ceiling: Tensor  # (K,) the best peer's similarity
    lone: Tensor  # (K,) bool, rows that fell back on the own model


def attend(
    models: Tensor,
    *,
    center: Tensor | str = "mean",
    samples: Tensor | None = None,
    updates: Tensor | None = None,
    omega: float = 0.0,
    score: str = "gap",
    tau: float | None = None,
    rank: int = 1,
    lone_share: float = 0.4,
    gamma: float = 1.0,
    bias: float = 0.0,
    self_weight: float | None = None,
    keys: Tensor | None = None,
    projection: str = "none",
    r: int = 1024,
    seed: int = 0,
) -> Attention:
    """Attention of K clients over K clients.

    models: (K, P) flat models.  center: (P,) the common start from which displacements are measured, or mean,
    median or none.  samples: (K,) data-size prior n_j^gamma.  updates: (K, P) last updates, weighted by omega
    against the displacement.  tau: width (default by score).  rank: the ceiling is the rank-th best peer.
    keys: (K,) bool, clients that may be attended to by others (default all).  projection, r, seed: compress
    tokens before the cosine.
    """
    k = len(models)
    origin = center if isinstance(center, Tensor) else center_of(models, center, None)
    s = similarity(models, origin, projection, r, seed)
    if omega > 0:
        if updates is None:
            raise ValueError("omega > 0 needs the clients' updates")
        s = (1 - omega) * s + omega * similarity(updates, torch.zeros_like(updates[0]), projection, r, seed + 1)
    fresh = torch.ones(k, dtype=torch.bool) if keys is None else keys
    peer = off_diagonal(k) & fresh
    m = ceiling(s, peer, rank)
    alone = lone(m, lone_share)
    n = torch.ones(k, dtype=torch.float64) if samples is None else samples.double()
    e = energies(s, m, score, WIDTHS[score] if tau is None else tau) + bias * torch.eye(k, dtype=s.dtype)
    a = softmax_rows(e, gamma * n.log(), peer | ~off_diagonal(k))
    if self_weight is not None:
        a = fix_self_weight(a, self_weight)
    a[alone] = torch.eye(k, dtype=a.dtype)[alone]
    return Attention(a, s, m, alone)
