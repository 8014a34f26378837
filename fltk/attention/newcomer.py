"""A client that nobody has seen: one row of attention over the others, without an entry of its own.

    A_* = softmax_j(e_*j + gamma log n_j + log rho_j),   u_* = sum_j A_*j u_j = sum_k (A_* A)_k theta_k

so that what it gets are weights over the models in the bank. A newcomer that is lone has no model to keep: it takes
the trust-weighted mean of the bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fltk.attention.attend import Options, prior
from fltk.attention.scores import ceiling, energies, lone, off_diagonal, softmax_rows


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
