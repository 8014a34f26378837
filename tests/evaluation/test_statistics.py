"""Intervals, tests and ranks against scipy, published tables, and enumeration by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from fltk.evaluation.statistics import (
    _quantile,
    bootstrap_interval,
    cliques,
    friedman,
    holm,
    least_p,
    nemenyi,
    rank_methods,
    sample_std,
    studentized_range,
    tied_ranks,
    wilcoxon,
)


def values(n: int, seed: int = 0, shift: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n) + shift


def test_sample_standard_deviation() -> None:
    assert sample_std([1.0, 2.0, 4.0]) == pytest.approx(math.sqrt(7 / 3))
    assert math.isnan(sample_std([1.0])) and math.isnan(sample_std([]))


# Bootstrap


@pytest.mark.parametrize("n", [8, 30, 300, 1000])
def test_the_interval_is_scipys_bca(n: int) -> None:
    """Both draw resamples by `integers(0, n, (resamples, n))`, so that they agree to rounding, not only on average."""
    data = np.exp(values(n))  # skewed, so that acceleration and bias matter
    found = bootstrap_interval(data, resamples=2000, seed=3)
    theirs = scipy_stats.bootstrap(
        (data,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(3), vectorized=True
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.02 * width)


@pytest.mark.parametrize("n", [2, 3, 50, 999])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.024, 0.3, 0.5, 0.8, 0.97, 1.0])
def test_a_quantile_is_numpys_to_the_last_bit_whatever_tails_it_is_sought_in(n: int, share: float) -> None:
    for data in (values(n), values(n).round(1)):
        for low, high in ((-1.25, 1.25), (-9.0, 9.0), (0.0, 0.0)):
            assert _quantile(data, share, low, high) == np.quantile(data, share)


def test_the_interval_in_parts_covers_like_the_interval_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = values(50)
    whole = bootstrap_interval(data)
    monkeypatch.setattr("fltk.evaluation.statistics._DRAWS", 1000)
    parts = bootstrap_interval(data)
    assert parts.low == pytest.approx(whole.low) and parts.high == pytest.approx(whole.high)


def test_the_interval_moves_and_scales_with_its_values_and_depends_on_the_seed() -> None:
    data = values(20)
    one = bootstrap_interval(data)
    assert one == bootstrap_interval(data) != bootstrap_interval(data, seed=1)
    other = bootstrap_interval(3 * data + 1)
    assert other.low == pytest.approx(3 * one.low + 1) and other.high == pytest.approx(3 * one.high + 1)
    assert one.low < data.mean() < one.high


def test_intervals_without_spread_or_values() -> None:
    assert bootstrap_interval([0.25, 0.25, 0.25]).low == bootstrap_interval([0.25, 0.25, 0.25]).high == 0.25
    assert all(math.isnan(end) for data in ([], [0.5]) for end in vars(bootstrap_interval(data)).values())


# Wilcoxon


@pytest.mark.parametrize("n", [1, 2, 5, 6, 12, 25, 50])
def test_the_signed_rank_test_is_scipys_exact_one(n: int) -> None:
    data = values(n, seed=n)
    assert wilcoxon(data) == pytest.approx(scipy_stats.wilcoxon(data, method="exact").pvalue)


@pytest.mark.parametrize("n", [80, 200])
def test_many_pairs_take_scipys_approximation_also_under_ties(n: int) -> None:
    for data in (values(n), np.random.default_rng(n).integers(-3, 5, n).astype(float)):
        assert wilcoxon(data) == pytest.approx(scipy_stats.wilcoxon(data, method="asymptotic").pvalue)


@pytest.mark.parametrize("seed", range(5))
def test_under_ties_the_p_value_is_that_of_all_sign_patterns(seed: int) -> None:
    """The definition: among all 2^n equally likely signs, twice the share of rank sums as far out as this one."""
    data = np.random.default_rng(seed).integers(-3, 5, 10).astype(float)
    kept = data[data != 0]
    ranks = scipy_stats.rankdata(np.abs(kept))
    sums = np.array([ranks[np.array(signs)].sum() for signs in itertools.product((False, True), repeat=len(kept))])
    observed = ranks[kept > 0].sum()
    tail = min((sums <= observed + 1e-9).mean(), (sums >= observed - 1e-9).mean())
    assert wilcoxon(data) == pytest.approx(min(1.0, 2 * tail))


def test_differences_that_are_rounding_count_as_none_and_as_ties() -> None:
    exact = np.array([0.2, -0.2, 0.1, 0.0, 0.4])
    stored = exact + np.array([1e-8, -2e-8, 1e-8, 3e-8, 0.0])
    assert wilcoxon(stored, slack=1e-6) == wilcoxon(exact) != wilcoxon(stored)


def test_the_test_has_two_sides_and_its_limits() -> None:
    data = values(9)
    assert wilcoxon(data) == wilcoxon(-data) == wilcoxon(7 * data)
    assert wilcoxon(np.zeros(5)) == wilcoxon(np.array([])) == 1.0
    for n in range(1, 9):
        assert wilcoxon(np.arange(1.0, n + 1)) == least_p(n), "all of one sign is the smallest p-value there is"


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.04 become 3 * 0.01, 2 * 0.02, 1 * 0.04, and never fall."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.01]) == pytest.approx([0.5, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


# Ranks


def test_tied_ranks_are_scipys_and_forgive_rounding() -> None:
    data = np.array([0.3, 0.1, 0.3, 0.2, 0.1, 0.1])
    assert tied_ranks(data).tolist() == scipy_stats.rankdata(data).tolist()
    noise = data + np.array([0, 1e-12, 2e-12, 0, -1e-12, 0])
    assert tied_ranks(noise, 1e-9).tolist() == tied_ranks(data).tolist()
    assert tied_ranks(np.array([])).tolist() == []


@pytest.mark.parametrize(("settings", "methods"), [(4, 3), (10, 5), (30, 8)])
def test_friedman_is_scipys_also_under_ties(settings: int, methods: int) -> None:
    table = np.random.default_rng(settings).integers(0, 6, (settings, methods)).astype(float)
    ranks = np.stack([scipy_stats.rankdata(row) for row in table])
    assert friedman(ranks) == pytest.approx(scipy_stats.friedmanchisquare(*table.T).pvalue)
    assert friedman(np.full((settings, methods), (methods + 1) / 2)) == 1.0


def test_the_studentized_range_is_scipys_and_demsars_table() -> None:
    """J. Demšar, JMLR 7, 2006, table 5a: critical values of Nemenyi's test, the quantile over the root of 2."""
    table = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    for k, critical in table.items():
        assert studentized_range(k, 0.05) / math.sqrt(2) == pytest.approx(critical, abs=2e-3)
    for k, alpha in ((3, 0.1), (12, 0.01), (30, 0.05)):
        theirs = scipy_stats.studentized_range.ppf(1 - alpha, k, np.inf)
        assert studentized_range(k, alpha) == pytest.approx(theirs, rel=1e-5)


def test_the_critical_difference_of_demsars_example() -> None:
    """Section 3.2.2 of his paper: 4 classifiers on 14 data sets, 1.25 at 0.05 and 1.12 at 0.1."""
    assert nemenyi(4, 14, 0.05) == pytest.approx(1.25, abs=0.005)
    assert nemenyi(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)


def test_average_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6]])
    ranks = rank_methods(["a", "b", "c"], scores)
    assert ranks.average == (2.0, 1.75, 2.25) and ranks.settings == 2
    losses = rank_methods(["a", "b", "c"], scores, higher=False)
    assert losses.average == (2.0, 2.25, 1.75)
    assert ranks.critical_difference == nemenyi(3, 2) and ranks.friedman_p == friedman(
        np.array([[1, 2.5, 2.5], [3, 1, 2]])
    )


def test_cliques_are_the_largest_groups_closer_than_the_distance() -> None:
    assert cliques([1.0, 1.5, 2.2, 3.0, 4.5], 1.0) == [[0, 1], [1, 2], [2, 3]]
    assert cliques([3.0, 1.0, 2.0], 5.0) == [[1, 2, 0]]
    assert cliques([1.0, 2.0, 3.0], 1.0) == [], "exactly the critical difference is one"
    assert cliques([1.5, 1.5, 3.0], 0.1) == [[0, 1]]


@pytest.mark.parametrize("seed", range(4))
def test_cliques_hold_exactly_the_close_pairs(seed: int) -> None:
    average = np.random.default_rng(seed).uniform(1, 8, 8).tolist()
    groups = cliques(average, 1.3)
    joined = {frozenset(pair) for group in groups for pair in itertools.combinations(group, 2)}
    close = {frozenset(p) for p in itertools.combinations(range(8), 2) if abs(average[p[0]] - average[p[1]]) < 1.3}
    assert joined == close
    assert not any(set(one) < set(other) for one in groups for other in groups)
