"""Attention in two levels: within a cluster over clients, across over cluster models.

    within   A_ij = the map restricted to i's own cluster
    cluster  C_k = sum_{j in k} pi_j theta_j,  pi_j ~ n_j rho_j;  its key is the mean token of its members
    across   B_ik = softmax_k(<z_i, key_k> / tau_c),  tau_c = 2 tau
    mix      u_i = (1 - l) sum_j A_ij theta_j + l sum_k B_ik C_k

which is one map over clients: (1 - l) A_ij + l B_{i,c(j)} pi_j. Clusters come from the similarities alone: the Gram
matrix of the tokens gives coordinates with the same distances, whatever the number of parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fltk.clustering.fit import gmm, kmeans

CLEAR = 0.1  # silhouette of whole tokens, below which a partition is no structure
DIMENSIONS = 8  # of the coordinates that a mixture of Gaussians sees; BIC cannot bear more
TINY = 1e-300


def coordinates(s: Tensor, dimensions: int | None = None) -> Tensor:
    """Centred points whose inner products are those of S: (K, K) -> (K, q) float64, by falling spread.

    Each axis points to where the farthest client lies, so that the order of clients does not turn the picture.
    """
    centred = s - s.mean(0) - s.mean(1, keepdim=True) + s.mean()
    values, vectors = torch.linalg.eigh((centred + centred.t()) / 2)
    points = (vectors * values.clamp_min(0).sqrt()).flip(1)
    turned: Tensor = points * torch.sign(points.gather(0, points.abs().argmax(0)[None]))
    return turned if dimensions is None else turned[:, :dimensions]


def clusters(s: Tensor, kind: str, seed: int = 0) -> Tensor:
    """Labels 0..M-1 (K,) int64 from similarities (K, K), counted by first members.

    kind: kmeans on whole tokens, M of 2..min(8, K/2) by silhouette, 1 where the best one is below 0.1; gmm on eight
    coordinates, M by BIC.
    """
    if len(s) < 4:  # no two clusters of two
        return torch.zeros(len(s), dtype=torch.int64)
    if kind == "kmeans":
        return kmeans(coordinates(s), seed=seed, unclear=CLEAR).labels
    return gmm(coordinates(s, DIMENSIONS), seed=seed).labels


def across(s: Tensor, labels: Tensor, mass: Tensor, tau: float) -> Tensor:
    """The weights B_{i,c(j)} pi_j of the upper level: (K, K), rows on the simplex.

    s: (K, K) similarities.  labels: (K,).  mass: (K,) n_j rho_j, 0 for a client that may not be attended to; a
    cluster without mass is left out, and where nobody has any the rows are zero.  tau: tau_c.
    """
    member = torch.nn.functional.one_hot(labels).to(s.dtype)  # (K, M)
    total = mass @ member
    key = s @ member / member.sum(0)
    b = torch.softmax((key / tau).masked_fill(total <= 0, -torch.inf), dim=1).nan_to_num(0.0)
    return b[:, labels] * (mass / total.clamp_min(TINY)[labels])
