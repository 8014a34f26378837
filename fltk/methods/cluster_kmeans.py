"""cluster-kmeans: k-means on what the clients' updates look like, then FedAvg inside each cluster.

fltk's own combination; cf. one-shot clustering of client models or updates. No paper prescribes these steps.

    rounds 1..T_w   FedAvg; token x_i = sum_t Delta_i^t / |Delta_i^t|, Delta_i^t = w_i^t - w^t
    round T_w       z_i = first 8 principal components of x_i / |x_i|;  k-means on z
    then            theta_k <- sum_{i in S, k(i) = k} p_i w_i          p renormalised inside the cluster
    newcomer        one round of local work from the model of round T_w, nearest centre

K is given (`k`), or chosen by the silhouette among 2..min(8, N/2); where the best one is below `unclear`, all clients
form one cluster and the method is FedAvg. Clients that were away during the whole warm-up are placed when they
first appear. With `recluster`, clients also train the mean of the cluster models every so many rounds, to keep
updates comparable; these updates join the token, and clusters keep their number by the largest overlap.
The bytes of these further models are not in `bytes_up` and `bytes_down`.

What the defaults rest on (mlp, 20 clients or as told, 3 seeds, agreement ARI with the known groups):
- one round is enough for mnist (4000 samples, 120 a client, rotated or permuted labels): 1.00 for the displacement of
  the first round as for the updates or the positions of the fifth;
- it is not where data are few: digits, 50 clients of 27 samples, K known: first round .86 rotated and 1.00 permuted;
  updates of round five alone .64 and 1.00; their sum over five rounds 1.00 and 1.00. Hence the sum, and T_w = 5;
- 8 components: k-means does not mind 16, a mixture chosen by BIC does (see cluster-gmm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.clustering.fit import UNCLEAR, Clusters, kmeans
from fltk.hyper import hyper
from fltk.methods.warm_clusters import WarmClusters


@dataclass(frozen=True)
class ClusterKMeans(WarmClusters):
    """Hard clusters by k-means."""

    title: ClassVar[str] = "FedAvg inside clusters of similar updates (k-means)"

    unclear: float = hyper(UNCLEAR, "a silhouette below this is no structure: one cluster (k = 0)", low=-1, high=1)

    def fit(self, z: Tensor, seed: int) -> Clusters:
        return kmeans(z, self.k, seed, self.unclear)
