"""Measures of skew against their definitions and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from fltk.config import PartitionConfig
from fltk.data import create
from fltk.partition import make, stats

COUNTS = st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4).filter(any), min_size=2, max_size=6)


def test_a_one_class_client_among_ten_balanced_classes() -> None:
    p = np.eye(10)[0]
    q = np.full(10, 0.1)
    assert stats.label_emd(p, q) == pytest.approx(1.8)
    assert stats.tv(p, q) == pytest.approx(0.9)
    assert stats.hellinger(p, q) == pytest.approx(math.sqrt(1 - math.sqrt(0.1)))
    assert stats.effective_classes(p) == pytest.approx(1) and stats.effective_classes(q) == pytest.approx(10)


@given(rows=COUNTS)
def test_distances_obey_their_definitions(rows: list[list[int]]) -> None:
    p = stats.distributions(np.array(rows))
    q = p[0]
    js, tv, hellinger = (stats.DISTANCES[name](p, q) for name in ("js", "tv", "hellinger"))
    np.testing.assert_allclose(js, [jensenshannon(row, q, base=2) ** 2 for row in p], atol=1e-9)
    np.testing.assert_allclose(stats.label_emd(p, q), [sum(abs(a - b) for a, b in zip(r, q, strict=True)) for r in p])
    assert (hellinger**2 <= tv + 1e-9).all() and (tv <= math.sqrt(2) * hellinger + 1e-9).all()
    for distance in stats.DISTANCES.values():
        assert distance(q, q) == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose(distance(p, q), distance(q, p), atol=1e-12)
    assert js.min() > -1e-12 and js.max() < 1 + 1e-9 and hellinger.max() < 1 + 1e-9


@given(rows=COUNTS)
def test_equal_clients_have_no_skew(rows: list[list[int]]) -> None:
    out = stats.summary(np.array([rows[0]] * 3))
    for name in stats.DISTANCES:
        assert out[name] == pytest.approx(0, abs=1e-7) and out[f"{name}-pairs"] == pytest.approx(0, abs=1e-7)
    assert out["size-cv"] == pytest.approx(0)


def test_means_are_weighted_by_size() -> None:
    counts = np.array([[30, 0], [0, 10]])
    out = stats.summary(counts)
    pooled = np.array([0.75, 0.25])
    emd = np.abs(np.eye(2) - pooled).sum(1)
    assert out["label-emd"] == pytest.approx((30 * emd[0] + 10 * emd[1]) / 40)
    assert out["label-emd-pairs"] == pytest.approx(2) and out["classes"] == 1
    assert out["size-cv"] == pytest.approx(0.5) and (out["size-min"], out["size-max"]) == (10, 30)


def test_a_client_without_samples_has_no_distance_and_no_weight() -> None:
    counts = np.array([[5, 5], [0, 0], [5, 5]])
    values = stats.per_client(counts)
    assert np.isnan(values["js"][1]) and values["classes"][1] == 0
    assert stats.summary(counts)["js"] == pytest.approx(0)


def test_the_spread_of_sizes_is_largest_when_one_client_has_all() -> None:
    assert stats.size_cv(np.array([[9], [0], [0], [0]])) == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("test_split", ["local", "global"])
def test_what_is_held_counts_every_sample_once(test_split: str) -> None:
    y = np.arange(200, dtype=np.int64) % 4
    data = create("toy", np.zeros((200, 1), np.float32), y, tuple("abcd"), is_test=np.arange(200) >= 160)
    p = make(data, PartitionConfig(clients=4, newcomers=1, alpha=1.0, min_size=2, test_split=test_split))
    total = stats.held(p, y, 4).sum(0)
    np.testing.assert_array_equal(total, np.bincount(y if test_split == "local" else y[:160]))
    train = stats.label_counts(p.train, y, 4)
    assert train.shape == (5, 4) and train.sum() == sum(len(part) for part in p.train)
