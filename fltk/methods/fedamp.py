"""FedAMP: every client is drawn to its own attention-weighted mixture of all models.

Y. Huang, L. Chu, Z. Zhou, L. Wang, J. Liu, J. Pei, Y. Zhang. "Personalized Cross-Silo Federated Learning on
Non-IID Data." AAAI 2021. arXiv:2007.03797

    (server)  u_i = sum_j xi_ij w_j,  xi_ij = alpha A'(||w_i - w_j||^2) for j != i,  xi_ii = 1 - sum of those
    (client)  w_i <- argmin_w F_i(w) + lam/(2 alpha) ||w - u_i||^2      from its own w_i
    (kernel)  A(x) = 1 - exp(-x / sigma),  so A'(x) = exp(-x / sigma) / sigma

Differs from the paper: the argmin is the run's local SGD, and the strength lam/alpha of the pull is one
parameter, `prox`. By default sigma is in units of the round's median squared distance and alpha/sigma is
share/(N-1), because a fixed sigma means something else for every network; `scale=none` gives the paper's
form. There is no pull in a client's first round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.hyper import hyper
from fltk.memory.products import gram
from fltk.methods.fedamp_family import FedAMPFamily
from fltk.protocol.task import Task


@dataclass(frozen=True)
class FedAMP(FedAMPFamily):
    """Attention by distance between models."""

    title: ClassVar[str] = "each client pulled to a mixture of models near its own"

    scale: str = hyper(
        "median", "unit of sigma: the round's median squared distance, or none", choices=("median", "none")
    )
    sigma: float = hyper(1.0, "width of the attention kernel", low=1e-12)
    share: float = hyper(0.9, "largest total weight on other clients (scale=median)", low=0, high=1)
    alpha: float = hyper(0.1, "step size of the server mixture (scale=none)", low=0)
    prox: float = hyper(1.0, "strength of the pull towards the mixture, lam/alpha in the paper", low=0)

    def attention(self, rows: Tensor, task: Task) -> Tensor:
        """xi of the clients that have a model, (K, P) -> (K, K)."""
        if len(rows) == 1:
            return torch.ones(1, 1, dtype=torch.float64)
        d2 = squared_distances(rows)
        others = ~torch.eye(len(rows), dtype=torch.bool)
        if self.scale == "median":
            unit = median(d2[others]) * self.sigma
            xi = torch.exp(-d2 / unit.clamp_min(1e-300)) * (self.share / (len(rows) - 1))
        else:
            xi = self.alpha / self.sigma * torch.exp(-d2 / self.sigma)
        return with_self_weight(xi)


def squared_distances(rows: Tensor) -> Tensor:
    """||w_i - w_j||^2 in float64: (K, P) -> (K, K). Measured from the first row, for precision."""
    g = gram(rows, rows[0])
    n = g.diagonal()
    return (n[:, None] + n - 2 * g).clamp_min(0).fill_diagonal_(0)


def median(values: Tensor) -> Tensor:
    """The median of (n,), between the two in the middle where there are two; torch's quantile takes 2^24 at most."""
    low, high = (values.kthvalue(k).values for k in ((len(values) + 1) // 2, len(values) // 2 + 1))
    return torch.lerp(low, high, 0.5)


def with_self_weight(xi: Tensor) -> Tensor:
    """xi_ii = 1 - sum_{j != i} xi_ij; a row with more than 1 on others is scaled down, so that xi_ii is 0."""
    xi = xi.clone().fill_diagonal_(0)
    xi = xi / xi.sum(1, keepdim=True).clamp_min(1)
    return xi + torch.diag((1 - xi.sum(1)).clamp_min(0))  # rounding must not make a weight negative
