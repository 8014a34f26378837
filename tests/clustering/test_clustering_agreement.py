"""Agreement of partitions: scikit-learn's numbers, limits, and the matching of clusters."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from fltk.clustering.agreement import ari, contingency, matched, membership, nmi

NAN = math.nan


@pytest.mark.parametrize("seed", range(8))
def test_the_indices_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 4, 25), generator.integers(0, 3, 25)
    b[:10] = a[:10]
    assert ari(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)
    assert nmi(a, b) == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)


def test_equal_partitions_agree_whatever_their_names() -> None:
    a = np.array([0, 0, 1, 2, 2])
    for b in (a, a + 7, np.array([5, 5, 0, 1, 1])):
        assert ari(a, b) == nmi(a, b) == 1.0


def test_degenerate_partitions() -> None:
    one, all_ = np.zeros(5, int), np.arange(5)
    assert ari(one, one) == nmi(one, one) == ari(all_, all_) == nmi(all_, all_) == 1.0
    assert ari(one, all_) == 0.0 and nmi(one, all_) == 0.0
    assert ari(one[:1], one[:1]) == nmi(one[:1], one[:1]) == 1.0
    assert math.isnan(ari(one[:0], one[:0])) and math.isnan(nmi(one[:0], one[:0]))


def test_the_table_counts_clients() -> None:
    assert contingency(np.array([2, 2, 0, 0]), np.array([1, 3, 3, 3])).tolist() == [[0, 2], [1, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_matched_by_the_largest_total_overlap(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 4, 30), generator.integers(0, 4, 30)
    table = contingency(a, b)
    best = max(sum(table[i, p[i]] for i in range(4)) for p in permutations(range(4)))
    found = matched(a, b)
    assert sum(table[i, j] for i, j in found.items()) == best
    assert len(set(found.values())) == len(found)


def test_clusters_without_a_common_client_have_no_match() -> None:
    assert matched(np.array([0, 0, 1]), np.array([5, 5, 5])) == {0: 5}
    assert matched(np.zeros(0, int), np.zeros(0, int)) == {}


def test_what_is_told_of_a_round() -> None:
    now, before = np.array([0.0, 0.0, 1.0, NAN]), np.array([0.0, 1.0, NAN, NAN])
    assert membership(now, before, None) == {"clusters": 2.0, "changed": 1.0}
    told = membership(now, before, np.array([4, 4, 2, 2]))
    assert told == {"clusters": 2.0, "changed": 1.0, "cluster_ari": 1.0, "cluster_nmi": 1.0}
    assert membership(np.full(3, NAN), np.full(3, NAN), np.zeros(3)) == {}
