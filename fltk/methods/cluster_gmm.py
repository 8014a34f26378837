"""cluster-gmm: a mixture of Gaussians over what the clients' updates look like, then FedAvg inside each component.

fltk's own combination; as cluster-kmeans, of which it is the soft relative (equal spherical covariances going to 0
give k-means). No paper prescribes these steps.

    rounds 1..T_w   FedAvg; token x_i = sum_t Delta_i^t / |Delta_i^t|, Delta_i^t = w_i^t - w^t
    round T_w       z_i = first 8 principal components of x_i / |x_i|
                    r_ik = posterior of component k, diagonal covariances (+ 1e-3)
    hard            as cluster-kmeans with k(i) = argmax_k r_ik
    soft            theta_k <- sum_j r_jk p_j w_j / sum_j r_jk p_j;  client i starts from sum_k r_ik theta_k
    newcomer        one round of local work from the model of round T_w, posterior

K is given (`k`) or the one of 1..min(8, N/2) with the lowest BIC. See cluster-kmeans for re-clustering, late clients,
and what the embedding and T_w rest on.

Limits that were measured (ARI, 3 seeds; K by BIC): 1.00 on mnist in four groups with 12, 16, 20 and 50 clients and an
mlp. BIC counts 2 r K parameters against N points, and asks for too little structure with N/r below 2 or 3: with 16
instead of 8 components rotated digits of 20 clients fall from 1.00 to .53, and with lenet5, whose updates are more
alike, it finds one component in two of three runs where k-means finds the four groups in all. There, give `k`
(1.00). Posteriors of clear groups are 0 or 1, so that `soft` rarely differs from hard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.clustering.fit import Clusters, gmm
from fltk.hyper import hyper
from fltk.methods.warm_clusters import WarmClusters


@dataclass(frozen=True)
class ClusterGMM(WarmClusters):
    """Clusters by a mixture of Gaussians, hard or soft."""

    title: ClassVar[str] = "FedAvg inside clusters of similar updates (Gaussian mixture)"

    soft: str = hyper("no", "clients belong to clusters by their posterior", choices=("no", "yes"))

    def fit(self, z: Tensor, seed: int) -> Clusters:
        return gmm(z, self.k, seed)

    def responsibility(self, r: Tensor) -> Tensor:
        return r if self.soft == "yes" else super().responsibility(r)
