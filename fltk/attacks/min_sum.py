"""Min-Sum: squared distances to all benign updates that add up to no more than those of a benign one.

V. Shejwalkar, A. Houmansadr. "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning." NDSS 2021. (No arXiv version; the equations are the paper's.)

    g <- mu + gamma p,  the largest gamma with  sum_i |g - g_i|^2 <= max_i sum_j |g_i - g_j|^2   i, j benign
    p as in Min-Max

Differs from the released code: gamma is computed, gamma = max_i sqrt(c_i) / |p| with c_i = |mu - g_i|^2, and the bound
is the paper's maximum (bound=min is that of the code, stricter).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fltk.attacks.base import hyper
from fltk.attacks.perturb import Along, Line


@dataclass(frozen=True)
class MinSum(Along):
    """The longest step that no sum of distances gives away."""

    title: ClassVar[str] = "as far from the benign mean as the largest sum of benign distances hides"

    bound: str = hyper(
        "max", "the sum that must not be passed: the paper's or the released code's", choices=("max", "min")
    )

    def hides(self, line: Line, gamma: float) -> bool:
        sums = line.d2.sum(1)
        return bool(line.distances(gamma).sum() <= (sums.max() if self.bound == "max" else sums.min()))

    def longest(self, line: Line) -> float:
        return gamma_min_sum(line, self.bound)


def gamma_min_sum(line: Line, bound: str) -> float:
    """The largest gamma that keeps the sum within the largest (or smallest) one of a known update."""
    if line.p2 <= 0:
        return 0.0
    c = line.c.max() if bound == "max" else line.c.min()
    return float((c / line.p2).sqrt())
