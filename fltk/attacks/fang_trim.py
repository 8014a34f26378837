"""Fang's attack on median and trimmed mean: every coordinate just beyond the benign range.

M. Fang, X. Cao, J. Jia, N. Z. Gong. "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning." USENIX
Security 2020. arXiv:1911.11815

    dir = sign(mu)                           where the model would go without an attack
    dir = -1:  U[M, b M] if M > 0, else U[M, M / b]        M, m: largest and smallest benign value
    dir = +1:  U[m / b, m] if m > 0, else U[b m, m]
    dir =  0:  mu
    (knowledge=partial: U[mu + 3 s, mu + 4 s] or U[mu - 4 s, mu - 3 s], of the attackers' own honest updates)

Every attacker draws its own numbers, b = 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, Sent, deviation_of, hyper, mean_of, sent_update

B = 2.0


@dataclass(frozen=True)
class FangTrim(Attack):
    """Values on the far side of the benign range."""

    title: ClassVar[str] = "against median and trimmed mean: values just beyond the benign range"
    knows: ClassVar[frozenset[str]] = frozenset({"benign"})
    on_upload: ClassVar[bool] = True

    knowledge: str = hyper("full", "known are the benign updates, or only the own ones", choices=("full", "partial"))

    @property
    def sees(self) -> frozenset[str]:
        return self.knows if self.knowledge == "full" else frozenset()

    def forge(self, group: Group, scene: Scene, memory: Memory) -> Tensor:
        """(2, d): the ends between which every attacker draws its numbers."""
        seen = group.seen("benign" if self.knowledge == "full" else "own")
        mu = mean_of(seen)
        if self.knowledge == "full":
            low, high = full_range(mu, seen.amin(0).double(), seen.amax(0).double())
        else:
            s = deviation_of(seen, mu)
            low = torch.where(mu < 0, mu + 3 * s, mu - 4 * s)
            high = torch.where(mu < 0, mu + 4 * s, mu - 3 * s)
        return torch.where(mu == 0, mu, torch.stack([low, high]))

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        assert forged is not None
        u = torch.rand(forged.shape[1], generator=scene.of(own.client), dtype=torch.float64)
        return sent_update(own, forged[0] + u * (forged[1] - forged[0]))


def full_range(mu: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Ends (d,) of the draws, given the benign mean and range of each coordinate."""
    above = torch.where(most > 0, B * most, most / B)
    below = torch.where(least > 0, least / B, B * least)
    return torch.where(mu < 0, most, below), torch.where(mu < 0, above, least)
