"""Norm clipping: no update is longer than M.

Z. Sun, P. Kairouz, A. T. Suresh, H. B. McMahan. "Can You Really Backdoor Federated Learning?" arXiv:1911.07963, 2019

    g_k <- g_k min(1, M / |g_k|)              M: given, or the median of the round's norms (attackers' included)
    out  = mean of the clipped rows + N(0, sigma^2)      sigma = 0: no noise; added once, to the mean

Bounds what a client can do to p_k M; nobody is left out, and there is no breakdown point. Float buffers are not
clipped. Noise is refused in methods with one mixed model per client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Combined, Defence, Facts, Screened, clipped, hyper
from fltk.errors import UsageError
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class NormClip(Defence):
    """Updates shortened to a common length."""

    title: ClassVar[str] = "shorten updates to the median norm"
    forms: ClassVar[Mapping[str, frozenset[str]]] = {
        ONE: frozenset({"screen", "combine"}),
        CLUSTERS: frozenset({"screen", "combine"}),
        MIXED: frozenset({"screen"}),
    }
    weighted: ClassVar[bool] = True
    rejects: ClassVar[bool] = False

    limit: float | None = hyper(None, "largest norm M (default: the median norm of the round)", low=0, infinite=True)
    noise: float = hyper(0.0, "standard deviation of the noise on the mean", low=0)

    def check(self, kind: str, participation: float, clients: int) -> None:
        if kind == MIXED and self.noise:
            raise UsageError(f"--set-defence noise={self.noise:g}: norm-clip adds noise to one model, not to every mix")

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        assert facts.rows is not None and facts.references is not None
        norms = facts.gram.norms
        limit = float(norms.quantile(0.5)) if self.limit is None else self.limit
        factors = clip_factors(norms, limit)
        rows = [
            clipped(row, start, factor, facts.parameters)
            for row, start, factor in zip(facts.rows, facts.references, factors.tolist(), strict=True)
        ]
        numbers = {"clip_norm": limit, "clipped": float((factors < 1).sum())}
        return Screened(torch.ones_like(norms), rows, state, numbers=numbers)

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        found = super().combine(rows, weights, facts, state)
        if not self.noise:
            return found
        row = found.row.clone()
        row[: facts.parameters] += self.noise * torch.randn(facts.parameters, generator=facts.generator)
        return Combined(row, found.used, state)


def clip_factors(norms: Tensor, limit: float) -> Tensor:
    """min(1, M / |g_k|): (K,) -> (K,); 1 for an update of no length."""
    return torch.where(norms > limit, limit / norms.clamp_min(1e-300), torch.ones_like(norms))
