"""Gaussian noise, added to an update or in its place.

A common baseline; no paper of its own.

    g <- eps         (mode=replace)          eps ~ N(m, sigma^2 I)
    g <- g_k + eps   (mode=add)
    sigma = rel |g_k| / sqrt(d)              with `rel`: noise `rel` times as long as the honest update, about
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, Sent, hyper, sent_update


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Normal numbers, independent for every attacker and round."""

    title: ClassVar[str] = "uploads normal noise, alone or on top of its update"
    on_upload: ClassVar[bool] = True

    mode: str = hyper("replace", "noise in place of the update, or added to it", choices=("replace", "add"))
    mean: float = hyper(0.0, "mean of the noise")
    sigma: float = hyper(0.1, "standard deviation of the noise", low=0)
    rel: float | None = hyper(None, "length of the noise in lengths of the own honest update, in place of sigma", low=0)

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        honest = group.updates([own])[0].double()  # (P,)

        sigma = self.sigma
        if self.rel is not None:  # |noise| is about sigma sqrt(P), so that it is as long as `rel` honest updates
            sigma = self.rel * float(honest.norm()) / math.sqrt(max(1, len(honest)))

        generator = scene.of(own.client)
        noise = self.mean + sigma * torch.randn(len(honest), generator=generator, dtype=torch.float64)
        if self.mode == "add":
            noise = honest + noise
        return sent_update(own, noise)
