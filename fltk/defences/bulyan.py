"""Bulyan: Krum chooses n - 2f uploads one after another; each coordinate averages those nearest to their median.

E. M. El Mhamdi, R. Guerraoui, S. Rouault. "The Hidden Vulnerability of Distributed Learning in Byzantium." ICML 2018.
arXiv:1802.07927

    S     = theta = n - 2f uploads, each the Krum winner of those that are left, over max(1, n' - f - 2) neighbours
    out_c = mean of the beta = theta - 2f values w_kc, k in S, nearest to their median; ties go to the first client

Needs n >= 4f + 3. The output lies in the range of the chosen, not always of the benign. In methods with one mixed
model per client only the choice is used: the others are left out of all means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Combined, Defence, Facts, Screened
from fltk.defences.space import Rows, block, blocks, nearest_sums, ordered, ranked, squared_distances
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class Bulyan(Defence):
    """Krum, repeated, and a trimmed mean of what it chose."""

    title: ClassVar[str] = "repeated Krum, then per coordinate the values nearest to the median"
    forms: ClassVar[Mapping[str, frozenset[str]]] = {
        ONE: frozenset({"combine"}),
        CLUSTERS: frozenset({"combine"}),
        MIXED: frozenset({"screen"}),
    }
    condition: ClassVar[str] = "n >= 4f + 3"

    def most(self, n: int) -> int:
        return max(-1, (n - 3) // 4)

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        trust = torch.zeros(len(updates), dtype=torch.float64)
        trust[chosen(squared_distances(facts.gram.products), facts.f)] = 1
        return Screened(trust, state=state)

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        ids = chosen(squared_distances(facts.gram.products), facts.f)
        row, used = nearest_mean([rows[k] for k in ids], len(ids) - 2 * facts.f)
        return Combined(row, torch.zeros(len(rows), dtype=torch.float64).index_copy(0, torch.tensor(ids), used), state)


def chosen(d2: Tensor, f: int) -> list[int]:
    """The n - 2f winners of repeated Krum, ascending, from squared distances (n, n); n >= 4f + 3."""
    n = len(d2)
    if n < 4 * f + 3:
        raise ValueError(f"Bulyan with f = {f} needs {4 * f + 3} updates, not {n}")
    left = list(range(n))
    winners = []
    for _ in range(n - 2 * f):
        neighbours = min(len(left) - 1, max(1, len(left) - f - 2))
        scores = nearest_sums(d2[left][:, left], neighbours)
        winners.append(left.pop(int(ranked(scores)[0])))
    return sorted(winners)


def nearest_mean(rows: Rows, beta: int) -> tuple[Tensor, Tensor]:
    """Per coordinate the mean of the beta values nearest to the median, K rows (P,) -> (P,), and mean weights (K,)."""
    k = len(rows)
    out, used = torch.empty_like(rows[0]), torch.zeros(k, dtype=torch.float64)
    for a, b in blocks(len(out)):
        middle = ordered(rows, a, b)[0][:, [(k - 1) // 2, k // 2]].double().mean(1)
        x = block(rows, a, b).double()
        away = (x - middle).abs()  # (k, c)
        limit = away.t().clone(memory_format=torch.contiguous_format)
        # lengths order like their bits, and integers sort several times faster
        limit.view(torch.int64).numpy().sort(axis=1)
        edge = limit[:, beta - 1]
        inside = away < edge
        tied = away == edge
        kept = inside | (tied & (tied.cumsum(0) <= beta - inside.sum(0)))
        out[a:b] = (x * kept).sum(0) / beta
        used += kept.sum(1) / beta
    return out, used / len(out)
