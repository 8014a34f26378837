"""A client that nobody has seen: one row of attention over the others, without an entry of its own.

    A_* = softmax_j(e_*j + gamma log n_j + log rho_j),   u_* = sum_j A_*j u_j = sum_k (A_* A)_k theta_k

so that what it gets are weights over the models in the bank. A newcomer that is lone has no model to keep: it takes
the trust-weighted mean of the bank.

Geometry does not tell which of the others help. The newcomer's own loss L does, and u moves with the row in known
directions, so that the row itself (not u) can be fitted, by mirror descent on the simplex (the exponentiated
gradient of J. Kivinen and M. K. Warmuth, Information and Computation 132, 1997):

    A_*j <- softmax_j(log A_*j - beta d_j),   d_j = <grad L(u_*), theta_j>,   beta = 2 / (max_j d_j - min_j d_j)

The best and the worst of the others thus move apart by a factor of e^2 at most, whatever the scale of models and
losses. Where L would not fall the step is not taken, and no later one has more than half its beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fltk.attention.attend import Options, prior
from fltk.attention.scores import ceiling, energies, lone, off_diagonal, softmax_rows

STRIDE = 2.0  # how far apart a step moves the logits of the best and of the worst model


@dataclass(frozen=True)
class Others:
    """What is known of the K clients that a newcomer meets."""

    samples: Tensor  # (K,)
    keys: Tensor  # (K,) bool, who may be attended to
    trust: Tensor | None = None  # (K,) log rho_j

    def log_prior(self, gamma: float) -> Tensor:
        """gamma log n_j + log rho_j, -inf for those who may not be attended to: (K,) float64."""
        log_n = prior(len(self.samples), gamma, self.samples)
        return (log_n if self.trust is None else log_n + self.trust).masked_fill(~self.keys, -torch.inf)


@dataclass(frozen=True)
class Row:
    """What a newcomer takes from the others."""

    weights: Tensor  # (K,) float64 on the simplex; zero everywhere where nobody may be attended to
    ceiling: float  # its best peer's similarity
    lone: bool  # it resembles nobody, and the weights are those of the mean


def mean_row(others: Others, gamma: float = 1.0) -> Tensor:
    """The trust-weighted mean, (K,) float64; zero everywhere where nobody may be attended to."""
    return torch.softmax(others.log_prior(gamma), 0).nan_to_num(0.0)


def newcomer_row(s: Tensor, others: Others, options: Options) -> Row:
    """The newcomer's row A_*: similarities (K + 1, K + 1), the newcomer last.

    Score, ceiling, lone rule and data-size prior are those of the map; the ceilings that the lone rule compares with
    are the others' among themselves. The weights of a lone newcomer are those of the mean.
    """
    weights = mean_row(others, options.gamma)
    able = torch.nonzero(others.keys).flatten()
    k = len(able)
    if not k:
        return Row(weights, -torch.inf, True)
    kept = [*able.tolist(), len(weights)]
    s = s[kept][:, kept]
    peer = off_diagonal(k + 1)
    peer[:, k] = False
    m = ceiling(s, peer, options.ceiling)
    if bool(lone(m, options.lone)[k]):
        return Row(weights, float(m[k]), True)
    nobody = torch.zeros(1, k, dtype=torch.bool)
    e = energies(s[k:, :k], m[k:], options.score, options.width, nobody, ~nobody)
    weights = torch.zeros_like(weights)
    weights[able] = softmax_rows(e, others.log_prior(options.gamma)[able], ~nobody)[0]
    return Row(weights, float(m[k]), False)


def shares(
    tables: Sequence[Tensor], maps: Tensor, others: Others, options: Sequence[Options]
) -> tuple[Tensor, list[int]]:
    """Weights of the bank's models in what a newcomer gets, (G, K) float64, and the parts in which it is lone.

    tables: similarities of each of G parts, (K + 1, K + 1).  maps: (G, K, K) of the others.  options: of each part.
    """
    rows = [newcomer_row(s, others, o) for s, o in zip(tables, options, strict=True)]
    found = [row.weights if row.lone else row.weights @ a for row, a in zip(rows, maps, strict=True)]
    return torch.stack(found), [part for part, row in enumerate(rows) if row.lone]


@dataclass(frozen=True)
class Fit:
    """Rows fitted to a loss, and how often a slope was asked for (a loss: at every step)."""

    rows: Tensor  # (G, K) float64, each on the simplex
    slopes: int


def fitted(rows: Tensor, loss: Callable[[Tensor], float], slope: Callable[[Tensor], Tensor], steps: int) -> Fit:
    """Rows (G, K) after `steps` of mirror descent on the newcomer's loss; it never rises.

    loss: of the mixture by rows (G, K).  slope: its d, (G, K), up to a constant in each row.  Who has no weight gets
    none, so that those who may not be attended to stay out.
    """
    most, low, slopes = math.inf, loss(rows), 0
    d: Tensor | None = None
    for _ in range(steps):
        if d is None:
            d, slopes = slope(rows), slopes + 1
        beta = min(most, STRIDE / max(spread(d, rows > 0), 1e-300))
        tried = torch.softmax(rows.log() - beta * d, 1)
        now = loss(tried)
        if now < low:
            rows, low, d = tried, now, None
        else:
            most = beta / 2
    return Fit(rows, slopes)


def spread(d: Tensor, able: Tensor) -> float:
    """The largest max_j d_j - min_j d_j of any row, over those that are able: (G, K), (G, K) bool."""
    high, low = d.masked_fill(~able, -torch.inf).amax(1), d.masked_fill(~able, torch.inf).amin(1)
    return float((high - low).max())
