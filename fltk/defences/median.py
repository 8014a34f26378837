"""Coordinate median: every coordinate is the median of the clients' values.

D. Yin, Y. Chen, K. Ramchandran, P. Bartlett. "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates." ICML 2018. arXiv:1803.01498

    out_c = median_k w_kc                      the mean of the two middle values for an even number

With weights a_k that are not equal: the mean of the lower and the upper weighted median, the smallest values at which
the cumulated weight reaches 1/2, and passes it.

Holds while the malicious clients have less than half of the weight (n >= 2f + 1). Under label skew it is biased
without any attack. A row of which one client holds more than half is that client's row.
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
class Median(Defence):
    """The coordinate-wise median."""

    title: ClassVar[str] = "coordinate-wise median"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"combine"}))
    rejects: ClassVar[bool] = False

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        row, used = median(rows, weights)
        alone = len(rows) > 1 and float(weights.max()) > 0.5
        note = "median: one client has more than half of a target's weight, and so the median is that client's row"
        return Combined(row, used, state, (note,) if alone else ())


def median(rows: Rows, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted median of K rows (P,): (P,), and the mean share (K,) that clients have in its coordinates.

    weights: (K,) float64, positive, sum 1.
    """
    out, used = torch.empty_like(rows[0]), torch.zeros(len(rows), dtype=torch.float64)
    for a, b in blocks(len(out)):
        values, whose = ordered(rows, a, b)
        ends = cumulated(weights, whose)[1]
        middle = torch.stack([(ends >= 0.5 - SLACK).int().argmax(1), (ends > 0.5 + SLACK).int().argmax(1)], 1)
        middle = middle.expand(len(values), -1)  # (c, 2)
        out[a:b] = values.gather(1, middle).double().mean(1)
        used += tally(whose.gather(1, middle), torch.full(middle.shape, 0.5), len(used))
    return out, used / len(out)
