"""RFA: the geometric median, the point with the least weighted sum of distances to the uploads.

K. Pillutla, S. M. Kakade, Z. Harchaoui. "Robust Aggregation for Federated Learning." IEEE Transactions on Signal
Processing 70, 2022. arXiv:1912.13445

    v    = argmin_v sum_k p_k |v - w_k|
    v   <- sum_k b_k w_k / sum_k b_k,   b_k = p_k / max(nu, |v - w_k|)        smoothed Weiszfeld, from the weighted mean

v is always a mean sum_k c_k w_k of the uploads, so that the iteration needs their inner products only. Holds while the
malicious clients have less than half of the weight; a few iterations come only near the geometric median, and an
upload of any size keeps a share of it. Every iteration would cost a round trip with secure aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Combined, Defence, Facts, hyper
from fltk.defences.space import distances_to
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE, weighted_sum


@dataclass(frozen=True)
class RFA(Defence):
    """The geometric median by smoothed Weiszfeld iterations."""

    title: ClassVar[str] = "geometric median (smoothed Weiszfeld)"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"combine"}))
    weighted: ClassVar[bool] = True
    rejects: ClassVar[bool] = False

    iterations: int = hyper(4, "Weiszfeld iterations", low=1)
    nu: float = hyper(1e-5, "distances below this count as this", low=1e-12)
    stop: float = hyper(1e-6, "relative change of the objective at which to stop", low=0)

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        c = weiszfeld(facts.gram.products, weights, self.iterations, self.nu, self.stop)[0]
        return Combined(weighted_sum(rows, c), c, state)


def weiszfeld(products: Tensor, p: Tensor, iterations: int, nu: float, stop: float = 0.0) -> tuple[Tensor, list[float]]:
    """c of the point sum_k c_k g_k from inner products (K, K) and weights (K,); and the objective at every point.

    The objective is the smoothed one, sum_k p_k h(|v - g_k|) with h(x) = x from nu on and x^2/(2 nu) + nu/2 below.
    """
    c, told = p, list[float]()
    for _ in range(iterations + 1):
        away = distances_to(products, c)
        smooth = torch.where(away >= nu, away, away.square() / (2 * nu) + nu / 2)
        told.append(float(p @ smooth))
        if len(told) > iterations or (len(told) > 1 and told[-2] - told[-1] <= stop * told[-1]):
            break
        b = p / away.clamp_min(nu)
        c = b / b.sum()
    return c, told
