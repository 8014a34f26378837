"""From similarities to an attention map.

Two clients drawn from one distribution do not have cosine 1 but a noise ceiling that depends on data size and
rate, while every client has cosine 1 with itself. A softmax over raw cosines therefore collapses to local
training. The gap score estimates the ceiling by the best peer and gives self no more than that:

    m_i = max_{j != i} S_ij,   g_ij = max(0, m_i - S_ij),   g_ii = 0,   e_ij = -g_ij^2 / (2 tau^2)
    A_ij = softmax_j(e_ij + gamma log n_j + b 1[i = j] + 1[i != j] log rho_j)

Tables are (K, C): K rows that attend, C candidates. C = K with the own model on the diagonal is the usual case.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTHS = {"gap": 0.135, "relgap": 0.5, "raw": 0.1, "zscore": 0.5}


def off_diagonal(k: int) -> Tensor:
    """(k, k) bool, True where i != j."""
    return ~torch.eye(k, dtype=torch.bool)


def ceiling(s: Tensor, peer: Tensor, rank: int = 1) -> Tensor:
    """m_i, the similarity of the rank-th best peer: (K, C), (K, C) bool -> (K,).

    A row with fewer peers takes the last one that it has, a row without any -inf.
    """
    best = s.masked_fill(~peer, -torch.inf).topk(min(rank, s.shape[1]), dim=1).values
    count = torch.isfinite(best).sum(1, keepdim=True)
    return best.gather(1, (count - 1).clamp_min(0))[:, 0]


def gaps(s: Tensor, m: Tensor, own: Tensor | None = None) -> Tensor:
    """g_ij = max(0, m_i - S_ij), 0 for the own model: (K, C)."""
    own = ~off_diagonal(len(s)) if own is None else own
    return (m[:, None] - s).clamp_min(0).masked_fill(own, 0.0)


def lone(m: Tensor, share: float) -> Tensor:
    """(K,) bool: clients with a ceiling below `share` of the median one; among fewer than three nobody is."""
    if share <= 0 or len(m) < 3:
        return torch.zeros(len(m), dtype=torch.bool)
    finite = m[torch.isfinite(m)]
    return m < share * finite.quantile(0.5) if len(finite) else torch.zeros(len(m), dtype=torch.bool)


def energies(
    s: Tensor, m: Tensor, score: str, tau: float, own: Tensor | None = None, peer: Tensor | None = None
) -> Tensor:
    """e_ij of one of the free scores, (K, C). `gap` is the method; the others are for ablation.

    Columns need not be all clients: `own` (K, C) bool says which entries are the row's own model (default: the
    diagonal of a square table), `peer` which ones are other clients (default: the rest; only zscore asks).
    """
    if score == "raw":
        return s / tau
    if score == "zscore":
        others = s[off_diagonal(len(s)) if peer is None else peer]
        spread = others.std(correction=0).clamp_min(1e-12) if len(others) else torch.ones(())
        return (s - others.mean()) / spread / tau if len(others) else torch.zeros_like(s)
    g = gaps(s, torch.where(torch.isfinite(m), m, torch.zeros_like(m)), own)
    if score == "relgap":
        return -g / (1 - m).clamp_min(0.05).nan_to_num(1.0, posinf=1.0)[:, None] / tau
    return -g.square() / (2 * tau**2)


def softmax_rows(e: Tensor, log_prior: Tensor, allowed: Tensor) -> Tensor:
    """softmax_j(e_ij + log_prior_ij) over the allowed columns: (K, C), (C,) or (K, C), (K, C) bool -> (K, C)."""
    return torch.softmax((e + log_prior).masked_fill(~allowed, -torch.inf), dim=1)


def fix_self_weight(a: Tensor, xi: float, own: Tensor | None = None) -> Tensor:
    """Rows with A_ii = xi and the rest renormalised to 1 - xi; a row without peers keeps all its weight."""
    own = ~off_diagonal(len(a)) if own is None else own
    rest = a.masked_fill(own, 0.0)
    mass = rest.sum(1, keepdim=True)
    kept = torch.where(mass > 0, torch.full_like(mass, xi), torch.ones_like(mass))
    return rest / mass.clamp_min(1e-300) * (1 - xi) + own * kept


def limit(a: Tensor, cap: float, own: Tensor | None = None) -> Tensor:
    """Rows in which no other client weighs more than `cap`; the surplus goes to the own model: (K, C) -> (K, C)."""
    own = ~off_diagonal(len(a)) if own is None else own
    out = torch.where(own, a, a.clamp_max(cap))
    return out + own * (a - out).sum(1, keepdim=True)
