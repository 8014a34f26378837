"""Two levels: within clusters over clients, across over cluster models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import random

from fltk.attention import Options, attend, weigh
from fltk.attention.hierarchy import across, clusters, coordinates
from fltk.attention.tokens import similarity

D = 60


def groups(sizes: tuple[int, ...] = (5, 4, 6), noise: float = 0.5, seed: int = 0) -> Tensor:
    centres = torch.cat([random(1, D, seed=seed + 10 * k).expand(size, -1) for k, size in enumerate(sizes)])
    return centres + noise * random(sum(sizes), D, seed=seed + 1)


LABELS = torch.tensor([0] * 5 + [1] * 4 + [2] * 6)


@pytest.mark.parametrize("kind", ["kmeans", "gmm"])
def test_groups_are_found_in_any_order(kind: str) -> None:
    s, p = similarity(groups(), torch.zeros(D)), torch.randperm(15, generator=torch.Generator().manual_seed(2))
    assert torch.equal(clusters(s, kind), LABELS)
    same = clusters(s[p][:, p], kind)
    assert torch.equal(same[:, None] == same, (LABELS[:, None] == LABELS)[p][:, p])


@pytest.mark.parametrize("kind", ["kmeans", "gmm"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_few_clients_are_one_cluster(kind: str, k: int) -> None:
    assert not clusters(similarity(random(k, D), torch.zeros(D)), kind).any()


def test_clients_of_one_kind_are_one_cluster() -> None:
    assert not clusters(similarity(groups((15,), noise=1.0), torch.zeros(D)), "kmeans").any()


def test_coordinates_have_the_distances_of_the_tokens() -> None:
    w = groups()
    s = similarity(w, torch.zeros(D))
    z = torch.nn.functional.normalize(w.double(), dim=1)
    torch.testing.assert_close(torch.cdist(coordinates(s), coordinates(s)), torch.cdist(z, z), rtol=0, atol=1e-6)
    torch.testing.assert_close(coordinates(s).mean(0), torch.zeros(15, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_two_levels_as_loops() -> None:
    """A_ij = (1 - l) A^in_ij + l B_{i,c(j)} pi_j, with untrusted and stale clients."""
    w, n, share, tau = groups(), torch.arange(1.0, 16), 0.3, 0.2
    trust = -torch.arange(15.0).double() / 10
    keys = torch.ones(15, dtype=torch.bool)
    keys[7] = False
    s = similarity(w, torch.zeros(D))
    options = Options(hier="kmeans", hier_share=share, tau=tau, lone=0)
    got = weigh(s, options, samples=n, keys=keys, trust=trust)
    assert got.clusters is not None
    assert torch.equal(got.clusters, LABELS)
    mask = LABELS[:, None] == LABELS
    inside = weigh(s, Options(tau=tau, lone=0), samples=n, keys=keys, trust=trust, mask=mask).map
    mass = [float(n[j]) * math.exp(float(trust[j])) * bool(keys[j]) for j in range(15)]
    for i in range(15):
        key = [sum(float(s[i, j]) for j in range(15) if LABELS[j] == c) / int((c == LABELS).sum()) for c in range(3)]
        top = [math.exp(x / (2 * tau)) for x in key]
        for j in range(15):
            c = int(LABELS[j])
            pi = mass[j] / sum(mass[k] for k in range(15) if LABELS[k] == c)
            expected = (1 - share) * float(inside[i, j]) + share * top[c] / sum(top) * pi
            assert float(got.map[i, j]) == pytest.approx(expected, abs=1e-9)


def test_one_cluster_without_upper_level_is_the_flat_map() -> None:
    w = groups((12,), noise=1.0)
    flat = attend(w, Options(sparse="none"), center="none")
    two = attend(w, Options(hier="kmeans", hier_share=0), center="none")
    assert torch.equal(two.map, flat.map)


def test_no_upper_level_keeps_clusters_apart() -> None:
    got = attend(groups(), Options(hier="kmeans", hier_share=0), center="none").map
    assert not got[LABELS[:, None] != LABELS].any()


def test_rows_lie_on_the_simplex_even_where_nobody_may_be_attended_to() -> None:
    s, ones = similarity(groups(), torch.zeros(D)), torch.ones(15, dtype=torch.float64)
    for keys in (torch.zeros(15, dtype=torch.bool), LABELS != 1):
        for lone in (0.0, 0.4):
            a = weigh(s, Options(hier="kmeans", lone=lone), keys=keys).map
            assert (a >= 0).all()
            torch.testing.assert_close(a.sum(1), ones)
    b = across(s, LABELS, (LABELS != 1).double(), 0.3)
    assert not b[:, LABELS == 1].any()
    torch.testing.assert_close(b.sum(1), ones)


def test_a_lone_client_stays_alone() -> None:
    w = torch.cat([groups((6, 6)), 3 * random(1, D, seed=99)])
    got = attend(w, Options(hier="kmeans"), center="none")
    assert got.lone.tolist() == [False] * 12 + [True]
    assert torch.equal(got.map[12], torch.eye(13, dtype=torch.float64)[12])
