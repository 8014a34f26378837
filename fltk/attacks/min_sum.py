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

from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, hyper
from fltk.attacks.perturb import DIRECTIONS, SEARCHES, WITHIN, Line, notebook_search


@dataclass(frozen=True)
class MinSum(Attack):
    """The longest step that no sum of distances gives away."""

    title: ClassVar[str] = "as far from the benign mean as the largest sum of benign distances hides"
    knows: ClassVar[frozenset[str]] = frozenset({"benign"})
    colludes: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    direction: str = hyper("std", "direction of the step: deviation, unit mean or its sign", choices=DIRECTIONS)
    stats: str = hyper("benign", "whose updates are known: benign clients' or the own ones", choices=("benign", "own"))
    search: str = hyper("exact", "gamma in closed form, or as the released notebooks search it", choices=SEARCHES)
    bound: str = hyper(
        "max", "the sum that must not be passed: the paper's or the released code's", choices=("max", "min")
    )

    @property
    def sees(self) -> frozenset[str]:
        return self.knows if self.stats == "benign" else frozenset()

    def forge(self, group: Group, scene: Scene, memory: Memory) -> Tensor:
        line = Line.of(group.seen(self.stats), self.direction)
        if self.search == "notebook":
            sums = line.d2.sum(1)
            limit = sums.max() if self.bound == "max" else sums.min()
            return line.at(notebook_search(lambda gamma: bool(line.distances(gamma).sum() <= limit)))
        return line.at(WITHIN * gamma_min_sum(line, self.bound))


def gamma_min_sum(line: Line, bound: str) -> float:
    """The largest gamma that keeps the sum within the largest (or smallest) one of a known update."""
    if line.p2 <= 0:
        return 0.0
    c = line.c.max() if bound == "max" else line.c.min()
    return float((c / line.p2).sqrt())
