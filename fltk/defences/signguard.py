"""SignGuard: keep updates of ordinary length whose shares of positive, zero and negative entries are the majority's.

J. Xu, S.-L. Huang, L. Song, T. Lan. "SignGuard: Byzantine-robust Federated Learning through Collaborative Malicious
Gradient Filtering." ICDCS 2022. arXiv:2109.05872

    (1)  0.1 < |g_k| / median |g| < 3
    (2)  shares of g_k > 0, = 0, < 0 in a random run of a tenth of the coordinates, each divided by its largest; the
         largest cluster that MeanShift finds (bandwidth at quantile 1/2; points of no cluster are left out)
    keep who passes both (only (1) if nobody does), shortened to the median norm of all

Needs n >= 3; no bound on f, but both filters follow the majority. Where all features coincide, or the bandwidth is 0,
(2) is skipped. Float buffers are not clipped. Not offered: the variants that add a similarity to the last aggregate.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fltk.defences.base import Defence, Facts, Screened, clipped, hyper
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class SignGuard(Defence):
    """A filter of lengths and a clustering of sign statistics."""

    title: ClassVar[str] = "keep updates of ordinary length and ordinary signs"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"screen"}))
    condition: ClassVar[str] = "n >= 3"

    shortest: float = hyper(0.1, "norms up to this many medians are left out", low=0, high=1)
    longest: float = hyper(3.0, "norms from this many medians on are left out", low=1, infinite=True)
    block: float = hyper(0.1, "share of the coordinates whose signs are counted", low=1e-9, high=1)

    def most(self, n: int) -> int:
        return (n - 1) // 2 if n >= 3 else -1

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        assert facts.rows is not None and facts.references is not None
        n, d = updates.shape
        lengths = facts.gram.norms
        median = lengths.quantile(0.5)
        ordinary = (lengths > self.shortest * median) & (lengths < self.longest * median)
        start = int(torch.rand((), generator=facts.generator, dtype=torch.float64) * (1 - self.block) * d)
        signs = sign_shares(updates[:, start : start + max(1, int(self.block * d))])
        kept = ordinary & largest_cluster(signs)
        notes: tuple[str, ...] = ()
        if not bool(kept.any()):
            kept = ordinary if bool(ordinary.any()) else torch.ones(n, dtype=torch.bool)
            notes = ("signguard: no client passed both filters; signs were not used",)
        factors = torch.where(lengths > median, median / lengths.clamp_min(1e-300), torch.ones_like(lengths))
        rows = [
            clipped(row, reference, factor, facts.parameters)
            for row, reference, factor in zip(facts.rows, facts.references, factors.tolist(), strict=True)
        ]
        return Screened(kept.double(), rows, state, notes)


def sign_shares(x: Tensor) -> Tensor:
    """Shares of positive, zero and negative entries, each divided by its largest: (K, b) -> (K, 3) float64."""
    counts = torch.stack([(x > 0).sum(1), (x == 0).sum(1), (x < 0).sum(1)], 1).double()
    return counts / counts.amax(0).clamp_min(1)


def largest_cluster(features: Tensor) -> Tensor:
    """(K,) bool: members of MeanShift's largest cluster of features (K, F); everybody where there is no width."""
    from sklearn.cluster import MeanShift, estimate_bandwidth

    x = features.numpy()
    width = float(estimate_bandwidth(x, quantile=0.5))
    if width <= 1e-12:
        return torch.ones(len(x), dtype=torch.bool)
    with warnings.catch_warnings():  # it says when every point is a seed, which is harmless
        warnings.simplefilter("ignore")
        labels = MeanShift(bandwidth=width, bin_seeding=True, cluster_all=False).fit(x).labels_
    sizes = np.bincount(labels[labels >= 0])
    return torch.from_numpy(labels == sizes.argmax())
