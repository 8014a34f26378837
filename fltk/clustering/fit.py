"""k-means and Gaussian mixtures on a few coordinates (scikit-learn), with the number of clusters given or chosen."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MOST = 8  # clusters that are tried
UNCLEAR = 0.25  # silhouette below which a partition is no structure: iid clients reach .20, groups .35 to .65
RESTARTS = 10  # of k-means, and half as many of a mixture
FLOOR = 1e-3  # added to a mixture's variances


@dataclass(frozen=True)
class Clusters:
    """M clusters of K points; labels count clusters by their first member.

    responsibilities: (K, M) float64, rows on the simplex, one-hot for k-means.  centres: (M, r) float64.
    variances: (M, r) and shares (M,) of a mixture; empty for k-means.  silhouette: of the labels, NaN for one cluster.
    """

    responsibilities: Tensor
    centres: Tensor
    variances: Tensor
    shares: Tensor
    silhouette: float

    @property
    def labels(self) -> Tensor:
        """(K,) int64, the most probable cluster of each point."""
        return self.responsibilities.argmax(1)


def kmeans(z: Tensor, clusters: int = 0, seed: int = 0, unclear: float = UNCLEAR) -> Clusters:
    """k-means of points z (K, r). clusters 0: the number of 2..min(8, K/2) with the best silhouette.

    One cluster where the best silhouette is below `unclear`. Deterministic in (z, seed), whatever the order of rows.
    """
    if clusters:
        return _kmeans(z, clusters, seed)
    tried = [_kmeans(z, m, seed) for m in range(2, most(len(z)) + 1)]
    best = max(tried, key=lambda found: _known(found.silhouette), default=None)
    return best if best is not None and _known(best.silhouette) >= unclear else _kmeans(z, 1, seed)


def gmm(z: Tensor, clusters: int = 0, seed: int = 0) -> Clusters:
    """A mixture of Gaussians with diagonal covariances on points z (K, r).

    clusters 0: the number of 1..min(8, K/2) with the lowest BIC. Components that are nobody's first choice are dropped.
    """
    if clusters:
        return _gmm(z, clusters, seed)[0]
    tried = [_gmm(z, m, seed) for m in range(1, max(1, most(len(z))) + 1)]
    return min(tried, key=lambda pair: pair[1])[0]


def most(n: int) -> int:
    """The largest number of clusters that is tried for n points."""
    return min(MOST, n // 2)


def respond(z: Tensor, centres: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
    """Responsibilities of further points z (K, r) for known clusters: (K, M) float64; one-hot without variances."""
    difference = (z[:, None] - centres).square()  # (K, M, r)
    if not variances.numel():
        nearest = difference.sum(2).argmin(1)
        return torch.nn.functional.one_hot(nearest, len(centres)).double()
    log_density = -0.5 * (difference / variances + variances.log() + math.log(2 * math.pi)).sum(2)
    return torch.softmax(log_density + shares.log(), dim=1)


def silhouette(z: Tensor, labels: Tensor) -> float:
    """Mean silhouette (Rousseeuw, 1987) of points (K, r); NaN unless there are 2..K - 1 clusters."""
    from sklearn.metrics import silhouette_score

    count = int((torch.bincount(labels) > 0).sum())
    return float(silhouette_score(z.numpy(), labels.numpy())) if 2 <= count < len(z) else math.nan


def _kmeans(z: Tensor, m: int, seed: int) -> Clusters:
    from sklearn.cluster import KMeans

    order = canonical(z)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters: empty ones are dropped below
        found = KMeans(min(m, len(z)), n_init=RESTARTS, random_state=seed % 2**32).fit_predict(z[order].numpy())
    labels = torch.empty(len(z), dtype=torch.int64)
    labels[order] = torch.as_tensor(found, dtype=torch.int64)
    return hard(z, labels)


def hard(z: Tensor, labels: Tensor) -> Clusters:
    """The clusters of given labels (K,), numbered anew by first members; centres are means."""
    labels = numbered(labels)
    r = torch.nn.functional.one_hot(labels).double()
    centres = (r / r.sum(0)).t() @ z
    return Clusters(r, centres, z.new_zeros(0), z.new_zeros(0), silhouette(z, labels))


def _gmm(z: Tensor, m: int, seed: int) -> tuple[Clusters, float]:
    """The mixture and its BIC."""
    from sklearn.mixture import GaussianMixture

    order = canonical(z)
    mixture = GaussianMixture(
        min(m, len(z)), covariance_type="diag", reg_covar=FLOOR, n_init=RESTARTS // 2, random_state=seed % 2**32
    )
    points = z[order].numpy() if len(z) > 1 else z.repeat(2, 1).numpy()  # a single point has no variance to fit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture.fit(points)
    parts = (mixture.means_, mixture.covariances_, mixture.weights_)
    centres, variances, shares = (torch.as_tensor(part, dtype=torch.float64) for part in parts)
    r = respond(z, centres, variances, shares)
    kept = torch.tensor(list(dict.fromkeys(r.argmax(1).tolist())))  # in the order of first members
    made = Clusters(r, centres[kept], variances[kept], shares[kept] / shares[kept].sum(), math.nan)
    made = replace(made, responsibilities=respond(z, made.centres, made.variances, made.shares))
    return replace(made, silhouette=silhouette(z, made.labels)), float(mixture.bic(points))


def canonical(z: Tensor) -> Tensor:
    """An order of points (K,) that depends on their values alone: k-means would start elsewhere in another order."""
    return torch.tensor(sorted(range(len(z)), key=lambda i: z[i].tolist()))


def numbered(labels: Tensor) -> Tensor:
    """The same partition (K,), its clusters numbered 0..M-1 in the order of their first members."""
    number = {label: n for n, label in enumerate(dict.fromkeys(labels.tolist()))}
    return torch.tensor([number[label] for label in labels.tolist()])


def _known(value: float) -> float:
    return -math.inf if math.isnan(value) else value
