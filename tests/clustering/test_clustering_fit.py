"""k-means and mixtures: recovery of clear clusters, choice of their number, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from toys import random

from fltk.clustering.agreement import ari
from fltk.clustering.fit import FLOOR, Clusters, gmm, hard, kmeans, most, numbered, respond
from fltk.clustering.space import principal


def blobs(sizes: tuple[int, ...] = (6, 6, 6), spread: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (K, 4) float64 around centres at distance 2, and where they belong."""
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return 2**0.5 * torch.eye(4)[label].double() + spread * random(len(label), 4, seed=seed).double(), label


@pytest.mark.parametrize("fit", [kmeans, gmm])
@pytest.mark.parametrize("clusters", [0, 3])
@pytest.mark.parametrize("sizes", [(6, 6, 6), (10, 5, 3)])
def test_clear_clusters_are_found(fit: type, clusters: int, sizes: tuple[int, ...]) -> None:
    z, label = blobs(sizes)
    found = fit(z, clusters, seed=1)
    assert found.labels.tolist() == label.tolist()
    assert found.silhouette > 0.8
    for k in range(3):
        torch.testing.assert_close(found.centres[k], z[label == k].mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fit", [kmeans, gmm])
def test_clients_that_share_nothing_are_one_cluster(fit: type) -> None:
    for seed in range(3):
        found = fit(principal(random(24, 2000, seed=seed)).scores, 0, seed=1)
        assert found.labels.tolist() == [0] * 24
        assert math.isnan(found.silhouette)


@pytest.mark.parametrize("fit", [kmeans, gmm])
def test_responsibilities_are_on_the_simplex(fit: type) -> None:
    z = random(20, 3, seed=2).double()
    for clusters in (1, 2, 5, 20, 50):
        r = fit(z, clusters, seed=0).responsibilities
        assert (r >= 0).all() and r.shape[1] <= min(clusters, 20)
        torch.testing.assert_close(r.sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)
        assert set(r.argmax(1).tolist()) == set(range(r.shape[1]))  # no cluster without a client


@pytest.mark.parametrize("fit", [kmeans, gmm])
def test_the_same_seed_gives_the_same_clusters_and_the_order_of_clients_does_not_matter(fit: type) -> None:
    z, order = random(15, 3, seed=3).double(), torch.randperm(15, generator=torch.Generator().manual_seed(1))
    once, again, moved = fit(z, 4, seed=5), fit(z, 4, seed=5), fit(z[order], 4, seed=5)
    assert torch.equal(once.responsibilities, again.responsibilities)
    assert ari(moved.labels.numpy(), once.labels[order].numpy()) == 1.0


@pytest.mark.parametrize("fit", [kmeans, gmm])
def test_as_many_clusters_as_points(fit: type) -> None:
    z, _ = blobs((1, 1, 1, 1))
    assert fit(z, 4, seed=0).labels.tolist() == [0, 1, 2, 3]
    assert fit(z, 9, seed=0).labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("fit", [kmeans, gmm])
@pytest.mark.parametrize("clients", [1, 2, 3])
def test_few_or_equal_points_are_one_cluster_unless_more_are_asked_for(fit: type, clients: int) -> None:
    assert fit(random(clients, 2, seed=1).double(), 0, seed=0).labels.tolist() == [0] * clients
    same = torch.ones(6, 2, dtype=torch.float64)
    assert fit(same, 0, seed=0).labels.tolist() == [0] * 6
    assert fit(same, 3, seed=0).labels.tolist() == [0] * 6


def test_a_mixture_with_tied_tiny_covariances_is_kmeans_on_separate_data() -> None:
    z, _ = blobs(spread=1e-4)
    mixture = gmm(z, 3, seed=0)
    assert (mixture.variances < 2 * FLOOR).all()
    assert torch.equal(mixture.labels, kmeans(z, 3, seed=0).labels)
    torch.testing.assert_close(mixture.responsibilities, kmeans(z, 3).responsibilities, rtol=0, atol=1e-9)


def test_posteriors_are_those_of_the_mixture() -> None:
    z, others = random(30, 3, seed=4).double(), random(7, 3, seed=5).double()
    theirs = GaussianMixture(2, covariance_type="diag", reg_covar=FLOOR, random_state=0).fit(z.numpy())
    parts = [torch.as_tensor(p) for p in (theirs.means_, theirs.covariances_, theirs.weights_)]
    torch.testing.assert_close(respond(others, *parts), torch.as_tensor(theirs.predict_proba(others.numpy())))


def test_a_point_goes_to_the_nearest_centre() -> None:
    z, label = blobs()
    found = kmeans(z, 3)
    near = z + 0.05
    r = respond(near, found.centres, found.variances, found.shares)
    assert r.argmax(1).tolist() == label.tolist()
    assert set(r.flatten().tolist()) == {0.0, 1.0}


def test_an_unclear_structure_is_admitted_when_it_is_asked_for() -> None:
    z = random(24, 8, seed=0).double()
    assert len(kmeans(z, 0, unclear=-1.0).centres) > 1
    assert len(kmeans(z, 0, unclear=1.0).centres) == 1


def test_numbers_follow_first_members() -> None:
    assert numbered(torch.tensor([7, 2, 7, 0, 2])).tolist() == [0, 1, 0, 2, 1]
    found: Clusters = hard(random(4, 2).double(), torch.tensor([3, 3, 1, 1]))
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert [most(n) for n in (1, 3, 4, 9, 40)] == [0, 1, 2, 4, 8]
