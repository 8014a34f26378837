"""IPM, inner product manipulation: updates against the benign mean, long or short.

C. Xie, O. Koyejo, I. Gupta. "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation." UAI 2019.
arXiv:1903.03936

    g <- -eps mu              mu: plain mean of the benign updates of the group

A small eps stays inside the cloud and turns median and Krum; a large one (100) breaks averages: the plain mean of all
is (n - f - eps f) / n mu, which points backwards for eps > (n - f) / f.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, hyper, mean_of


@dataclass(frozen=True)
class IPM(Attack):
    """Minus eps times the benign mean."""

    title: ClassVar[str] = "inner product manipulation: minus a multiple of the benign mean"
    knows: ClassVar[frozenset[str]] = frozenset({"benign"})
    colludes: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    eps: float = hyper(0.1, "length of the forged update in lengths of the benign mean", low=0)

    def forge(self, group: Group, scene: Scene, memory: Memory) -> Tensor:
        return -self.eps * mean_of(group.benign)
