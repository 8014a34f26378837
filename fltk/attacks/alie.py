"""ALIE, "a little is enough": a shift of so few standard deviations that honest clients lie farther out.

M. Baruch, G. Baruch, Y. Goldberg. "A Little Is Enough: Circumventing Defenses For Distributed Learning." NeurIPS 2019.
arXiv:1902.06156

    h = floor(n/2 + 1) - f                     supporters that are needed for a majority
    z = Phi^-1((n - f - h) / (n - f))          at least 0
    g <- mu - z s                              mu, s: mean and standard deviation of each coordinate

By default mu and s are those of the benign updates of the group, with the sample deviation, and so stronger than the
paper's attackers, who know their own honest updates only (stats=own, the population deviation as in the authors' code).
z is 0 for f <= 2 (n even) or f <= 1 (n odd): what is sent then is the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, deviation_of, hyper, mean_of
from fltk.errors import UsageError


@dataclass(frozen=True)
class ALIE(Attack):
    """The benign mean, moved by z standard deviations in every coordinate."""

    title: ClassVar[str] = "a little is enough: the benign mean moved by few standard deviations"
    knows: ClassVar[frozenset[str]] = frozenset({"benign"})
    colludes: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    z: float | None = hyper(None, "standard deviations (default: the most that a majority of honest clients covers)")
    stats: str = hyper(
        "benign", "whose mean and deviation: benign clients' or the own ones'", choices=("benign", "own")
    )

    def check(self, shape: tuple[int, ...], n_classes: int, participants: int, malicious: int) -> tuple[str, ...]:
        if self.z is not None or not malicious:
            return ()
        if supporters(participants, malicious) <= 0:
            raise UsageError(
                f"--malicious: with {malicious} of {participants} clients alie needs no supporters and its z is "
                "infinite; take fewer, or --set-attack z=1.5"
            )
        if z_max(participants, malicious) > 0:
            return ()
        return (f"alie: z is 0 for {malicious} of {participants} clients, so that they send the mean; see z",)

    @property
    def sees(self) -> frozenset[str]:
        return self.knows if self.stats == "benign" else frozenset()

    def forge(self, group: Group, scene: Scene, memory: Memory) -> Tensor:
        seen = group.seen(self.stats)
        mu = mean_of(seen)
        z = z_max(group.n, group.f) if self.z is None else self.z
        return mu - z * deviation_of(seen, mu, sample=self.stats == "benign")


def supporters(n: int, f: int) -> int:
    """h: honest clients whom the attackers need to hold the majority."""
    return math.floor(n / 2 + 1) - f


def z_max(n: int, f: int) -> float:
    """z of n clients with f attackers, at least 0; where they are a majority by themselves, as if they needed one."""
    share = (n - f - max(1, supporters(n, f))) / max(1, n - f)
    return max(0.0, NormalDist().inv_cdf(share)) if share > 0 else 0.0
