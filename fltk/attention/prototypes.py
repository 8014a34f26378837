"""Similarity of clients from class prototypes: features are compared within classes, so label proportions drop out.

With n_ic samples of class c at client i, P_ic the mean of their features under the common initial model, mu the mean
of all and p_ic = P_ic - mu:

    S_ij = sum_c W_ijc cos(p_ic, p_jc) / sum_c W_ijc,   W_ijc = sqrt(n_ic n_jc)     if they share 5 samples or more
         = -1                                                                       else
    S_ij <- max_k min(S_ik, S_kj)                                                   once, with S_ii = 1

Two clients without common classes are thus joined through a third. Prototypes tell the server class means and counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fltk.attention.tokens import unit

WIDTH = 0.1  # tau of the gap score for these similarities
SHARED = 5  # samples in common classes, below which two clients are not compared


def class_means(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """P_i: the mean feature of every class, zero for one without samples: (n, F), (n,) -> (C, F) float32."""
    total = torch.zeros(n_classes, features.shape[1], dtype=torch.float64).index_add_(0, labels, features.double())
    return (total / labels.bincount(minlength=n_classes).clamp_min(1)[:, None]).float()


def prototype_similarity(means: Tensor, counts: Tensor) -> Tensor:
    """S (K, K) float64 in [-1, 1], symmetric: class means (K, C, F), samples per class (K, C)."""
    n = counts.double()
    centre = torch.einsum("kc,kcf->f", n, means.double()) / n.sum().clamp_min(1)
    total = torch.zeros(len(n), len(n), dtype=torch.float64)
    weight, shared = torch.zeros_like(total), torch.zeros_like(total)
    for c in range(n.shape[1]):
        p = unit(means[:, c].double() - centre)
        w = n[:, c].sqrt()
        total += w[:, None] * w * (p @ p.t()).clamp(-1, 1)
        weight += w[:, None] * w
        shared += torch.minimum(n[:, None, c], n[None, :, c])
    s = torch.where(shared >= SHARED, total / weight.clamp_min(1e-12), -torch.ones_like(total))
    return through_a_third(s.clamp(-1, 1).fill_diagonal_(1.0))


def through_a_third(s: Tensor) -> Tensor:
    """max_k min(S_ik, S_kj): (K, K) with unit diagonal -> (K, K)."""
    out = s.clone()
    for k in range(len(s)):
        out = torch.maximum(out, torch.minimum(s[:, k, None], s[k]))
    return out
