"""Krum: the one upload that is nearest to its n - f - 2 nearest others; Multi-Krum: the mean of the m best such.

P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer. "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent." NeurIPS 2017. arXiv:1703.02757

    s_i = sum_{j in N_i} |g_i - g_j|^2         N_i: the n - f - 2 updates nearest to i, i itself left out
    out = w_argmin s                           Krum
    t_i = 1 for the m lowest s_i, else 0       Multi-Krum: one ranking, m = n - f

Needs n >= 2f + 3. Malicious updates at distance D or more of all benign ones, which are within d of each other, are
never chosen if (n - 2f - 1) D^2 > (n - f - 2) d^2. One client's model for everybody is poor when clients differ, and no
personal model: Krum is refused in methods with one mixed model per client. Multi-Krum judges uploads, so that it
serves every method: whoever is not chosen is left out of all means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Combined, Defence, Facts, Screened, hyper
from fltk.defences.space import nearest_sums, ranked, squared_distances
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class Krum(Defence):
    """The upload that has the nearest neighbours."""

    title: ClassVar[str] = "the one upload with the nearest neighbours"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS), frozenset({"combine"}))
    refusals: ClassVar[Mapping[str, str]] = {MIXED: "one upload would be everybody's model; take multi-krum"}
    condition: ClassVar[str] = "n >= 2f + 3"

    def most(self, n: int) -> int:
        return max(-1, (n - 3) // 2)

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        chosen = int(ranked(krum_scores(squared_distances(facts.gram.products), facts.f))[0])
        used = torch.zeros(len(rows), dtype=torch.float64)
        used[chosen] = 1
        return Combined(rows[chosen], used, state)


@dataclass(frozen=True)
class MultiKrum(Defence):
    """The uploads that have the nearest neighbours."""

    title: ClassVar[str] = "the mean of the uploads with the nearest neighbours"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"screen"}))
    condition: ClassVar[str] = "n >= 2f + 3"

    keep: int | None = hyper(None, "number of uploads that are kept, m (default: n - f)", low=1)

    def most(self, n: int) -> int:
        return max(-1, (n - 3) // 2)

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        n = len(updates)
        m = n - facts.f if self.keep is None else min(self.keep, n)
        trust = torch.zeros(n, dtype=torch.float64)
        trust[ranked(krum_scores(squared_distances(facts.gram.products), facts.f))[:m]] = 1
        return Screened(trust, state=state)


def krum_scores(d2: Tensor, f: int) -> Tensor:
    """s_i from squared distances (K, K): (K,); K >= 2f + 3."""
    k = len(d2)
    if k < 2 * f + 3:
        raise ValueError(f"Krum with f = {f} needs {2 * f + 3} updates, not {k}")
    return nearest_sums(d2, k - f - 2)
