"""Invariants of the evaluation vocabulary; every formula once more as plain loops."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from fltk import metrics

Array = npt.NDArray[Any]

accuracies = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30).map(np.array)


def rows_to_one(table: Array) -> Array:
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def random_counts(n: int = 8, classes: int = 5, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 20, (n, classes))


def block_map(groups: Array, inside: float, outside: float) -> Array:
    same = groups[:, None] == groups[None, :]
    return rows_to_one(np.where(same, inside, outside))


@given(accuracies)
def test_jain_lies_between_one_over_n_and_one(acc: Array) -> None:
    assert 1 / len(acc) - 1e-9 <= metrics.jain(acc) <= 1.0


def test_jain_is_one_iff_all_are_equal() -> None:
    assert metrics.jain(np.full(7, 0.3)) == pytest.approx(1.0, abs=1e-15)
    assert metrics.jain(np.zeros(4)) == 1.0
    assert metrics.jain(np.array([0.3, 0.3, 0.4])) < 1.0


def test_jain_of_one_nonzero_client_is_one_over_n() -> None:
    assert metrics.jain(np.array([0.0, 0.9, 0.0, 0.0, 0.0])) == pytest.approx(1 / 5)


@given(accuracies)
def test_summary_equals_loops(acc: Array) -> None:
    n, tenth = len(acc), math.ceil(len(acc) / 10)
    ordered = sorted(float(a) for a in acc)
    mean = sum(ordered) / n
    squares = sum(a * a for a in ordered)
    expected = {
        "acc_mean": mean,
        "acc_std": math.sqrt(sum((a - mean) ** 2 for a in ordered) / n),
        "acc_worst10": sum(ordered[:tenth]) / tenth,
        "acc_best10": sum(ordered[-tenth:]) / tenth,
        "acc_min": ordered[0],
        "jain": sum(ordered) ** 2 / (n * squares) if squares else 1.0,
        "acc_clients": float(n),
    }
    assert metrics.summary(acc) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_worst_tenth_is_rounded_up() -> None:
    acc = np.arange(11) / 10
    assert metrics.acc_worst10(acc) == pytest.approx(0.05)
    assert metrics.acc_best10(acc) == pytest.approx(0.95)


def test_weighted_mean_is_the_accuracy_of_the_pooled_test_samples() -> None:
    correct, counts = np.array([3, 10, 0, 7]), np.array([5, 10, 0, 20])
    acc = np.array([0.6, 1.0, np.nan, 0.35])
    assert metrics.acc_weighted(acc, counts) == pytest.approx(correct.sum() / counts.sum())


def test_clients_without_test_samples_take_no_part() -> None:
    acc, counts = np.array([0.5, np.nan, 0.7, 0.0]), np.array([10, 0, 30, 0])
    clean = metrics.summary(np.array([0.5, 0.7]), np.array([10, 30]), np.array([0.6, 0.6]))
    assert metrics.summary(acc, counts, np.array([0.6, 0.1, 0.6, 0.6])) == pytest.approx(clean)
    assert clean["acc_clients"] == 2.0


def test_nobody_to_average_is_null() -> None:
    empty = np.full(3, np.nan)
    values = metrics.summary(empty, np.zeros(3), empty)
    assert values.pop("acc_clients") == 0.0
    assert all(math.isnan(value) for value in values.values())


def test_harm_starts_beyond_half_a_point_even_in_float32() -> None:
    local = np.full(4, 0.8, dtype=np.float32)
    acc = np.array([0.795, 0.794, 0.7, 0.9], dtype=np.float32)
    assert metrics.harmed(acc, local) == 0.5
    assert metrics.gain_vs_local(acc, local) == pytest.approx((-0.005 - 0.006 - 0.1 + 0.1) / 4, abs=1e-7)


def test_gain_counts_clients_known_on_both_sides() -> None:
    assert metrics.gain_vs_local(np.array([0.9, np.nan, 0.5]), np.array([0.8, 0.8, np.nan])) == pytest.approx(0.1)


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"acc.*local"):
        metrics.harmed(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="one value per client"):
        metrics.acc_mean(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"\(N, N\)"):
        metrics.map_entropy(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="prior"):
        metrics.group_auc(np.eye(3), np.zeros(3), prior=np.ones(2))


def test_selected_round_is_the_earliest_best_validation() -> None:
    rounds = np.array([5, 1, 3, 7, 9])
    assert metrics.selected_round(rounds, np.array([0.8, 0.2, 0.8, np.nan, 0.1])) == 3
    assert metrics.selected_round(rounds, np.full(5, np.nan)) is None
    assert metrics.selected_round(np.array([]), np.array([])) is None


def test_label_similarity_equals_loops() -> None:
    counts = random_counts()
    result = metrics.label_similarity(counts)
    for i, left in enumerate(counts / counts.sum(axis=1, keepdims=True)):
        for j, right in enumerate(counts / counts.sum(axis=1, keepdims=True)):
            middle = (left + right) / 2
            kl = [sum(a * math.log2(a / m) for a, m in zip(p, middle, strict=True) if a) for p in (left, right)]
            assert result[i, j] == pytest.approx(1 - sum(kl) / 2)
    assert np.array_equal(result, result.T)


def test_label_similarity_of_equal_disjoint_and_empty_clients() -> None:
    result = metrics.label_similarity(np.array([[2, 2, 0], [1, 1, 0], [0, 0, 9], [0, 0, 0]]))
    assert result[0, 1] == result[0, 0] == 1.0
    assert result[0, 2] == pytest.approx(0.0)
    assert np.isnan(result[3]).all() and np.isnan(result[:, 3]).all()


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_weights_in_proportion_to_size_have_no_alignment(kind: type[np.floating[Any]]) -> None:
    counts = random_counts()
    sizes = counts.sum(axis=1)
    weights = np.tile(sizes / sizes.sum(), (len(sizes), 1)).astype(kind)
    result = metrics.attention_alignment(weights, metrics.label_similarity(counts), prior=sizes)
    assert result.rows == 0
    assert math.isnan(result.spearman) and math.isnan(result.pearson) and math.isnan(result.p_value)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_weights_in_proportion_to_similarity_align_fully(gamma: float, kind: type[np.floating[Any]]) -> None:
    counts = random_counts()
    counts[3] = 2 * counts[5]  # equal label distributions: a tie that rounding must not break
    prior = counts.sum(axis=1) ** gamma
    similarity = metrics.label_similarity(counts)
    weights = rows_to_one(prior[None, :] * similarity).astype(kind)
    result = metrics.attention_alignment(weights, similarity, prior=prior)
    assert result.rows == len(counts)
    assert result.pearson == pytest.approx(1.0, abs=1e-5)
    assert result.spearman == pytest.approx(1.0)
    assert result.p_value == pytest.approx(0.001)


def test_alignment_is_the_mean_of_row_correlations() -> None:
    generator = np.random.default_rng(3)
    similarity = metrics.label_similarity(random_counts())
    weights = rows_to_one(np.round(generator.random((8, 8)), 1) + 0.1)
    weights[2] = 1 / 8  # constant: skipped
    weights[6] = np.nan  # unknown: skipped
    rank, linear = [], []
    for i in (0, 1, 3, 4, 5, 7):
        others = [j for j in range(8) if j != i]
        rank.append(float(spearmanr(weights[i, others], similarity[i, others]).statistic))
        linear.append(float(pearsonr(weights[i, others], similarity[i, others]).statistic))
    result = metrics.attention_alignment(weights, similarity)
    assert result.rows == 6
    assert result.spearman == pytest.approx(np.mean(rank))
    assert result.pearson == pytest.approx(np.mean(linear))


def test_alignment_ignores_the_diagonal_and_clients_without_labels() -> None:
    counts = random_counts(9)
    weights = np.random.default_rng(1).random((9, 9))
    smaller = metrics.attention_alignment(weights[:8, :8], metrics.label_similarity(counts[:8]))
    counts[8] = 0
    heavy = weights + 5 * np.eye(9)
    assert metrics.attention_alignment(heavy, metrics.label_similarity(counts)) == smaller


def test_permutation_test_is_seeded_and_knows_chance() -> None:
    similarity = metrics.label_similarity(random_counts(12, seed=5))
    weights = np.random.default_rng(6).random((12, 12))
    first = metrics.attention_alignment(weights, similarity, seed=1)
    assert first == metrics.attention_alignment(weights, similarity, seed=1)
    assert first.p_value > 0.02
    same = metrics.attention_alignment(weights, np.ones((12, 12)))
    assert same.rows == 0


def test_permutation_p_value_equals_a_loop_over_all_orders() -> None:
    """For 5 clients the random test must come close to the exact one over all 120 orders."""
    similarity = metrics.label_similarity(random_counts(5, seed=2))
    weights = np.random.default_rng(4).random((5, 5)) + similarity
    result = metrics.attention_alignment(weights, similarity, permutations=4999)
    orders = [np.array(order) for order in permutations(range(5))]
    values = [
        metrics.attention_alignment(weights, similarity[np.ix_(order, order)], permutations=0).spearman
        for order in orders
    ]
    exact = np.mean([value >= result.spearman - 1e-12 for value in values])
    assert result.p_value == pytest.approx(float(exact), abs=0.03)


def test_group_share_and_auc_of_separated_groups() -> None:
    groups = np.arange(12) % 3
    separated = block_map(groups, 1.0, 0.0)
    assert metrics.group_share(separated, groups) == 1.0
    assert metrics.group_auc(separated, groups) == 1.0
    uniform = np.full((12, 12), 1 / 12)
    assert metrics.group_share(uniform, groups) == pytest.approx(3 / 11)
    assert metrics.group_auc(uniform, groups) == 0.5
    assert metrics.group_auc(block_map(groups, 0.0, 1.0), groups) == 0.0


def test_group_auc_equals_loops() -> None:
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    weights = np.round(np.random.default_rng(2).random((8, 8)), 1)
    rows = []
    for i in range(8):
        wins = [
            (weights[i, j] > weights[i, k]) + 0.5 * (weights[i, j] == weights[i, k])
            for j in range(8)
            for k in range(8)
            if j != i and k != i and groups[j] == groups[i] and groups[k] != groups[i]
        ]
        rows.append(np.mean(wins))
    assert metrics.group_auc(weights, groups) == pytest.approx(float(np.mean(rows)))


def test_group_measures_without_a_comparison_are_null() -> None:
    assert math.isnan(metrics.group_share(np.eye(4), np.array([0, 0, 1, 1])))
    assert math.isnan(metrics.group_auc(np.full((4, 4), 0.25), np.zeros(4)))


def test_group_auc_divides_the_prior_out() -> None:
    groups, sizes = np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 50.0, 50.0])
    weights = rows_to_one(block_map(groups, 0.7, 0.3) * sizes)
    assert metrics.group_auc(weights, groups) == 0.5  # the larger group wins everywhere
    assert metrics.group_auc(weights, groups, prior=sizes) == 1.0


def test_entropy_and_self_weight_at_the_ends() -> None:
    assert metrics.map_entropy(np.eye(6)) == 0.0
    assert metrics.map_entropy(np.full((6, 6), 1 / 6)) == pytest.approx(1.0)
    assert metrics.self_weight(np.eye(6)) == 1.0
    assert metrics.self_weight(np.full((6, 6), 1 / 6)) == pytest.approx(1 / 6)


def test_entropy_equals_loops_and_skips_rows_without_one() -> None:
    weights = rows_to_one(np.random.default_rng(0).random((5, 5)))
    rows = [-sum(w * math.log(w) for w in weights[i]) / math.log(5) for i in range(2)]
    weights[2], weights[3], weights[4] = np.nan, 0.0, [1.2, -0.2, 0.0, 0.0, 0.0]
    assert metrics.map_entropy(weights) == pytest.approx(sum(rows) / 2)
    assert math.isnan(metrics.map_entropy(np.full((3, 3), np.nan)))
    assert math.isnan(metrics.map_entropy(np.ones((1, 1))))


def test_collapse_is_told_in_words() -> None:
    assert "local training" in str(metrics.collapse(np.eye(5)))
    assert "FedAvg" in str(metrics.collapse(np.full((5, 5), 0.2)))
    assert metrics.collapse(block_map(np.arange(8) % 2, 0.9, 0.1)) is None
    assert metrics.collapse(np.ones((1, 1))) is None
    assert metrics.collapse(np.full((3, 3), np.nan)) is None


def test_collapse_thresholds() -> None:
    n = 10
    just = np.full((n, n), 0.05 / (n - 1))
    np.fill_diagonal(just, 0.95)
    assert metrics.collapse(just) is None
    just = np.full((n, n), 0.04 / (n - 1))
    np.fill_diagonal(just, 0.96)
    assert metrics.collapse(just) is not None
