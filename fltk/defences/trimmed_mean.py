"""Trimmed mean: every coordinate is the mean of the clients' values without the b largest and the b smallest.

D. Yin, Y. Chen, K. Ramchandran, P. Bartlett. "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates." ICML 2018. arXiv:1803.01498

    out_c = 1/(n - 2b) sum of w_(b+1)c .. w_(n-b)c             values in order, b = f

With weights a_k that are not equal: in each coordinate the weights are laid end to end on [0, 1] in the order of the
values, the part inside [b/n, 1 - b/n] is kept, and the values are averaged by what is kept of their weights.

Holds for n >= 2f + 1, against malicious clients with less than b/n of the weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Combined, Defence, Facts
from fltk.defences.space import SLACK, Rows, blocks, cumulated, ordered, tally
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class TrimmedMean(Defence):
    """The coordinate-wise mean without the f largest and the f smallest values."""

    title: ClassVar[str] = "coordinate-wise mean without the f largest and f smallest values"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"combine"}))
    condition: ClassVar[str] = "n >= 2f + 1"
    rejects: ClassVar[bool] = False

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        return Combined(*trimmed_mean(rows, weights, facts.f / len(rows)), state)


def trimmed_mean(rows: Rows, weights: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """K rows (P,) without `share` < 1/2 of the weight at either end: (P,), and the mean weight (K,) of each client.

    weights: (K,) float64, positive, sum 1.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"trimming {share} at both ends leaves nothing")
    out, used = torch.empty_like(rows[0]), torch.zeros(len(rows), dtype=torch.float64)
    for a, b in blocks(len(out)):
        values, whose = ordered(rows, a, b)
        each, ends = cumulated(weights, whose)
        kept = ends.clamp_max(1 - share) - (ends - each).clamp_min(share)
        # what rounding leaves of a trimmed weight must not meet a value of any size
        kept = kept.masked_fill(kept <= SLACK, 0)
        kept = kept / kept.sum(1, keepdim=True)
        out[a:b] = (values * kept).sum(1)
        used += tally(whose, kept.expand(len(values), -1), len(used))
    return out, used / len(out)
