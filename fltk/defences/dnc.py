"""DnC (divide and conquer): leave out the updates that stand farthest along the direction of largest spread.

V. Shejwalkar, A. Houmansadr. "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for
Federated Learning." NDSS 2021

    repeat: sample b coordinates; mu the mean of the updates there, v the top right singular vector of (g_k - mu)_k
            s_k = <g_k - mu, v>^2;  keep the n - ceil(c f) lowest
    out   = mean of those kept every time, or of the last ones kept if there is nobody

Needs n > ceil(c f). Scores come from the (K, K) Gram matrix of the sampled columns, whose top eigenvector u gives
s_k = lambda u_k^2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Defence, Facts, Screened, hyper
from fltk.defences.space import ranked
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class DnC(Defence):
    """Spectral outliers on random coordinates."""

    title: ClassVar[str] = "leave out outliers along the direction of largest spread"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"screen"}))
    condition: ClassVar[str] = "n > c f"

    iterations: int = hyper(1, "samples of coordinates", low=1)
    c: float = hyper(1.0, "leave out c f clients a sample", low=0)
    coordinates: int = hyper(10_000, "coordinates in a sample, b", low=1)

    def most(self, n: int) -> int:
        return n if self.c == 0 else math.floor((n - 1) / self.c)

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        n, d = updates.shape
        keep = n - math.ceil(self.c * facts.f - 1e-9)
        agreed = torch.ones(n, dtype=torch.bool)
        notes: tuple[str, ...] = ()
        for _ in range(self.iterations):
            at = torch.randperm(d, generator=facts.generator)[: self.coordinates]
            kept = torch.zeros(n, dtype=torch.bool)
            kept[ranked(spectral_scores(updates[:, at]))[:keep]] = True
            agreed &= kept
        if not bool(agreed.any()):
            agreed, notes = kept, ("dnc: no client was kept in every sample; the last sample decides",)
        return Screened(agreed.double(), state=state, notes=notes)


def spectral_scores(x: Tensor) -> Tensor:
    """s_k: squared projections on the top right singular vector of the centred rows, (K, b) -> (K,) float64."""
    centred = x.double() - x.double().mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.t())
    scores: Tensor = values[-1].clamp_min(0) * vectors[:, -1].square()
    return scores
