"""A second line against malicious clients: trust from the updates of a round, and clipping.

Trust asks whether a client has company and moves as far as the others do. With the K updates D_j of a round:

    a_j   = mean of the max(1, ceil(0.2 K)) largest cos(D_j, D_i), i != j     nearest peers only, so that an honest
    t_j   = (a_j - median a) / (1.4826 MAD a + eps)                           minority group is not punished
    v_j   = the same for log |D_j|
    log rho_j = -max(0, -t_j - 2) - max(0, |v_j| - 3), at least -20

Random, shuffled or scaled models lose nearly all weight. Colluders are each other's nearest peers: not caught.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fltk.attention.tokens import TINY, cosines

FEWEST = 4  # updates; the median of fewer says nothing about any of them
NEAREST = 0.2  # share of the clients whose company counts
EPS = 0.01  # a hundredth of a cosine, or one percent of a norm, is no evidence whatever the spread
FLOOR = -20.0


def log_trust(products: Tensor) -> Tensor:
    """log rho_j <= 0 from the Gram matrix of updates: (K, K) -> (K,) float64; 0 for fewer than four clients."""
    k = len(products)
    if k < FEWEST:
        return torch.zeros(k, dtype=torch.float64)
    others = cosines(products).fill_diagonal_(-torch.inf)
    company = others.topk(max(1, math.ceil(NEAREST * k)), dim=1).values.mean(1)
    length = products.diagonal().clamp_min(TINY).log() / 2
    return (-_beyond(-robust_z(company), 2) - _beyond(robust_z(length).abs(), 3)).clamp_min(FLOOR)


def gate(weights: Tensor, displacements: Tensor) -> Tensor:
    """log of the trust (K,) in clients by whether they move as their peers in the map (K, K) do.

    displacements: (K, P), x = theta - theta^0. A map of class tables does not see the uploaded models; this does:

        h_j = cos(x_j, sum_{k != j} A_jk x_k),   log rho_j = -max(0, -z(h_j) - 2), at least -20; z by median and MAD
    """
    trust = torch.zeros(len(weights), dtype=torch.float64)
    peers = weights.clone().fill_diagonal_(0)
    judged = peers.sum(1) > 1e-6
    if int(judged.sum()) < FEWEST:
        return trust

    company = torch.nn.functional.cosine_similarity(displacements, peers @ displacements, dim=1)
    trust[judged] = -_beyond(-robust_z(company[judged]), 2)
    return trust.clamp_min(FLOOR)


def robust_z(x: Tensor) -> Tensor:
    """Distance from the median in robust standard deviations: (K,) -> (K,)."""
    away = x - x.quantile(0.5)
    return away / (1.4826 * away.abs().quantile(0.5) + EPS)


def _beyond(x: Tensor, limit: float) -> Tensor:
    return (x - limit).clamp_min(0)


def clip_factors(norms: Tensor, limit: float, everybody: Tensor | None = None) -> Tensor:
    """min(1, limit median / |D_j|): norms of updates (K,) -> (K,). The median is that of `everybody`."""
    median = (norms if everybody is None else everybody).quantile(0.5)
    return (limit * median / norms.clamp_min(TINY)).clamp_max(1)
