"""Clusters of clients: coordinates from their updates, k-means and Gaussian mixtures, agreement with known groups.

Usable on any matrix of flat models (K, P), without the rest of fltk:

    from fltk.clustering import kmeans, principal
    z = principal(updates, 8).scores                    # (K, 8)
    labels = kmeans(z, clusters=4, seed=0).labels       # (K,)
"""

from fltk.clustering.agreement import ari, nmi
from fltk.clustering.fit import Clusters, gmm, kmeans
from fltk.clustering.space import Basis, principal

__all__ = ["Basis", "Clusters", "ari", "gmm", "kmeans", "nmi", "principal"]
