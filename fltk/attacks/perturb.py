"""What Min-Max and Min-Sum share: a direction, and the longest step along it that a condition allows.

V. Shejwalkar, A. Houmansadr. "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning." NDSS 2021.

    g = mu + gamma p,   p = -mu / |mu| (unit), -sign(mu) (sign) or -s (std)

With c_i = |mu - g_i|^2 and b_i = <mu - g_i, p>:   |g - g_i|^2 = c_i + 2 gamma b_i + gamma^2 |p|^2.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, deviation_of, hyper, mean_of
from fltk.memory.products import Gram

DIRECTIONS = ("std", "unit", "sign")
SEARCHES = ("exact", "notebook")
WITHIN = 1 - 1e-9  # so that the condition holds after rounding


@dataclass(frozen=True)
class Line:
    """The line mu + gamma p through the updates that are known (m, d), in numbers."""

    mu: Tensor  # (d,) float64
    p: Tensor  # (d,) float64
    c: Tensor  # (m,) |mu - g_i|^2
    b: Tensor  # (m,) <mu - g_i, p>
    p2: float  # |p|^2
    d2: Tensor  # (m, m) |g_i - g_j|^2

    @staticmethod
    def of(seen: Tensor, direction: str) -> Line:
        """Through the mean of updates (m, d), along one of `DIRECTIONS`."""
        mu = mean_of(seen)
        if direction == "std":
            p = -deviation_of(seen, mu)
        else:
            p = -mu.sign() if direction == "sign" else -mu / mu.norm().clamp_min(1e-300)
        c, b = torch.zeros(len(seen), dtype=torch.float64), torch.zeros(len(seen), dtype=torch.float64)
        for i, g in enumerate(seen):  # one at a time: a copy of all in float64 would be as large as the cohort
            away = mu - g
            c[i], b[i] = away.square().sum(), away @ p
        return Line(mu, p, c, b, float(p @ p), Gram(seen).squared)

    def distances(self, gamma: float) -> Tensor:
        """|g - g_i|^2 at gamma, (m,)."""
        return self.c + 2 * gamma * self.b + gamma * gamma * self.p2

    def at(self, gamma: float) -> Tensor:
        """mu + gamma p; mu where there is no direction."""
        return self.mu + gamma * self.p if self.p2 > 0 else self.mu


def notebook_search(holds: Callable[[float], bool], start: float = 10.0, until: float = 1e-5) -> float:
    """The search of the released notebooks: steps that halve from 5, up where the condition holds, else down."""
    gamma, step, best = start, start / 2, 0.0
    while step > until:
        if holds(gamma):
            best = gamma
            gamma += step
        else:
            gamma -= step
        step /= 2
    return best


@dataclass(frozen=True)
class Along(Attack):
    """An attack that goes from the mean of the known updates as far along a direction as a condition allows."""

    knows: ClassVar[frozenset[str]] = frozenset({"benign"})
    colludes: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    direction: str = hyper("std", "direction of the step: deviation, unit mean or its sign", choices=DIRECTIONS)
    stats: str = hyper("benign", "whose updates are known: benign clients' or the own ones", choices=("benign", "own"))
    search: str = hyper("exact", "gamma in closed form, or as the released notebooks search it", choices=SEARCHES)

    @property
    def sees(self) -> frozenset[str]:
        return self.knows if self.stats == "benign" else frozenset()

    def forge(self, group: Group, scene: Scene, memory: Memory) -> Tensor:
        line = Line.of(group.seen(self.stats), self.direction)
        if self.search == "notebook":
            return line.at(notebook_search(lambda gamma: self.hides(line, gamma)))
        return line.at(WITHIN * self.longest(line))

    @abstractmethod
    def hides(self, line: Line, gamma: float) -> bool:
        """Whether the condition holds at gamma."""

    @abstractmethod
    def longest(self, line: Line) -> float:
        """The largest gamma at which it holds."""
