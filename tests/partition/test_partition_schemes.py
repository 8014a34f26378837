"""What each scheme promises, over random labels, sizes and seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fltk.data.dataset import stream
from fltk.errors import UsageError
from fltk.partition import schemes
from fltk.partition.draw import label_permutations
from fltk.partition.schemes import Deal

SEEDS = st.integers(0, 2**32)
COVERING: dict[str, Callable[..., Deal]] = {
    "iid": lambda y, n, rng: schemes.iid(y, n, rng),
    "dirichlet": lambda y, n, rng: schemes.dirichlet(y, n, rng, alpha=0.3, min_size=1),
    "dirichlet, no cap": lambda y, n, rng: schemes.dirichlet(y, n, rng, alpha=0.3, min_size=0, balance=False),
    "dirichlet-capped": lambda y, n, rng: schemes.dirichlet_capped(y, n, rng, alpha=1.0, min_size=1),
    "extended-dirichlet": lambda y, n, rng: schemes.extended_dirichlet(
        y, n, rng, classes_per_client=3, alpha=1.0, min_size=1
    ),
    "pathological": lambda y, n, rng: schemes.pathological(y, n, rng, classes_per_client=3),
    "shards": lambda y, n, rng: schemes.shards(y, n, rng, shards_per_client=2),
    "quantity": lambda y, n, rng: schemes.quantity(y, n, rng, alpha=1.0, min_size=1),
}


def labels_of(n_classes: int, n: int, seed: int) -> np.ndarray:
    """At least n / 2 C of every class, in random order."""
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(n) % n_classes][: n // 2]
    return rng.permutation(np.r_[y, rng.integers(0, n_classes, n - len(y))]).astype(np.int64)


@pytest.mark.parametrize("scheme", COVERING)
@given(seed=SEEDS, n_clients=st.integers(2, 12), n=st.integers(200, 400), n_classes=st.integers(3, 6))
def test_every_sample_goes_to_exactly_one_client(
    scheme: str, seed: int, n_clients: int, n: int, n_classes: int
) -> None:
    y = labels_of(n_classes, n, seed % 1000)
    parts, attempts = COVERING[scheme](y, n_clients, stream(seed, "test"))
    assert len(parts) == n_clients and attempts >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    for part in parts:
        assert part.dtype == np.int64 and (np.diff(part) > 0).all()
    again, _ = COVERING[scheme](y.copy(), n_clients, stream(seed, "test"))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_another_seed_gives_another_deal() -> None:
    y = labels_of(5, 300, 0)
    for scheme in COVERING.values():
        a, b = (scheme(y, 5, stream(seed, "test")).parts for seed in (0, 1))
        assert any(not np.array_equal(x, z) for x, z in zip(a, b, strict=True))


def test_iid_sizes_differ_by_at_most_one() -> None:
    sizes = [len(part) for part in schemes.iid(np.zeros(103, np.int64), 10, stream(0, "t")).parts]
    assert max(sizes) - min(sizes) == 1


@given(seed=SEEDS, alpha=st.sampled_from([1e-6, 0.01, 0.1, 1.0, 100.0]))
def test_the_cap_binds(seed: int, alpha: float) -> None:
    """No client exceeds n/N by more than its largest single class."""
    y = labels_of(10, 1000, 1)
    parts = schemes.dirichlet(y, 8, stream(seed, "t"), alpha=alpha, min_size=0).parts
    for part in parts:
        assert len(part) < 1000 / 8 + np.bincount(y[part], minlength=10).max()


def test_a_large_alpha_gives_everybody_the_global_shares() -> None:
    y = labels_of(10, 20000, 2)
    parts = schemes.dirichlet(y, 10, stream(0, "t"), alpha=1e6, balance=False).parts
    share = np.bincount(y) / len(y)
    for part in parts:
        got = np.bincount(y[part], minlength=10) / len(part)
        assert (np.abs(got - share) < 0.01 * share + 2 / len(part)).all()


@pytest.mark.parametrize("alpha", [1e-320, 1e-9, 1e-3, 1e9, 1e308])
def test_extreme_alphas_neither_overflow_nor_lose_samples(alpha: float) -> None:
    y = labels_of(10, 500, 3)
    with np.errstate(all="raise", under="ignore"):
        parts = schemes.dirichlet(y, 5, stream(0, "t"), alpha=alpha, min_size=0, balance=False).parts
    assert sum(len(part) for part in parts) == 500


def test_dirichlet_shares_have_the_moments_of_the_distribution() -> None:
    """Dir(a 1_N): mean 1/N, variance (1/N)(1 - 1/N) / (N a + 1)."""
    for alpha in (0.005, 0.5, 5.0):
        logs = schemes._log_gammas(stream(0, "t"), alpha, (20000, 4))
        shares = np.array([schemes._shares(row, np.ones(4, np.bool_)) for row in logs])
        np.testing.assert_allclose(shares.mean(0), 0.25, atol=0.02)
        np.testing.assert_allclose(shares.var(0), 0.25 * 0.75 / (4 * alpha + 1), rtol=0.05)


@given(seed=SEEDS, min_size=st.integers(1, 20))
def test_min_size_holds(seed: int, min_size: int) -> None:
    y = labels_of(10, 600, 4)
    for deal in (
        schemes.dirichlet(y, 10, stream(seed, "t"), alpha=0.5, min_size=min_size),
        schemes.quantity(y, 10, stream(seed, "t"), alpha=3.0, min_size=min_size),
    ):
        assert min(len(part) for part in deal.parts) >= min_size


def test_the_capped_scheme_keeps_pfllibs_least_samples() -> None:
    y = labels_of(10, 2000, 5)
    parts = schemes.dirichlet_capped(y, 10, stream(0, "t"), alpha=0.3, test_share=0.25).parts
    assert min(len(part) for part in parts) >= 40
    parts = schemes.dirichlet_capped(y, 40, stream(0, "t"), alpha=1.0, test_share=0.25).parts
    assert min(len(part) for part in parts) >= 25


@given(seed=SEEDS, k=st.integers(1, 6))
def test_extended_dirichlet_holds_at_most_k_classes(seed: int, k: int) -> None:
    y = labels_of(6, 400, 6)
    parts = schemes.extended_dirichlet(y, 12, stream(seed, "t"), classes_per_client=k, alpha=1.0, min_size=1).parts
    assert all(len(set(y[part].tolist())) <= k for part in parts)
    assert sum(len(part) for part in parts) == 400


@given(seed=SEEDS, balance=st.booleans())
def test_extended_dirichlet_over_all_classes_is_dirichlet(seed: int, balance: bool) -> None:
    y = labels_of(6, 400, 7)
    a = schemes.extended_dirichlet(
        y, 8, stream(seed, "t"), classes_per_client=6, alpha=0.5, min_size=5, balance=balance
    )
    b = schemes.dirichlet(y, 8, stream(seed, "t"), alpha=0.5, min_size=5, balance=balance)
    assert a.attempts == b.attempts
    assert all(np.array_equal(x, z) for x, z in zip(a.parts, b.parts, strict=True))


@given(seed=SEEDS, n_clients=st.integers(1, 25), k=st.integers(1, 10))
def test_pathological_holds_exactly_k_classes_and_shares_owners_evenly(seed: int, n_clients: int, k: int) -> None:
    y = labels_of(10, 800, 8)
    parts = schemes.pathological(y, n_clients, stream(seed, "t"), classes_per_client=k).parts
    counts = np.stack([np.bincount(y[part], minlength=10) for part in parts])
    assert ((counts > 0).sum(1) == k).all()
    owners = (counts > 0).sum(0)
    assert owners.max() - owners.min() <= 1 and owners.sum() == k * n_clients
    for label in np.flatnonzero(owners):
        held = counts[counts[:, label] > 0, label]
        assert held.max() - held.min() <= 1 and held.sum() == (y == label).sum()


def test_pathological_client_ids_say_nothing_about_classes() -> None:
    y = labels_of(10, 800, 8)
    first = [
        y[schemes.pathological(y, 5, stream(seed, "t"), classes_per_client=2).parts[0]].min() for seed in range(30)
    ]
    assert len(set(first)) > 4


@given(seed=SEEDS, n_clients=st.integers(1, 20), s=st.integers(1, 4))
def test_shards_are_equal_and_used_once(seed: int, n_clients: int, s: int) -> None:
    n = n_clients * s * 5
    y = np.random.default_rng(seed).integers(0, 10, n)
    parts = schemes.shards(y, n_clients, stream(seed, "t"), shards_per_client=s).parts
    assert {len(part) for part in parts} == {5 * s}
    assert all(len(set(y[part].tolist())) <= s * 5 for part in parts)


def test_aligned_shards_give_at_most_s_classes() -> None:
    y = np.repeat(np.arange(10), 40)
    parts = schemes.shards(y, 20, stream(0, "t"), shards_per_client=2).parts
    assert all(len(set(y[part].tolist())) <= 2 for part in parts)


def test_quantity_is_near_equal_for_a_large_beta_and_label_balanced() -> None:
    y = labels_of(5, 5000, 9)
    sizes = [len(part) for part in schemes.quantity(y, 10, stream(0, "t"), alpha=1e6).parts]
    assert sum(sizes) == 5000 and max(sizes) - min(sizes) < 10
    for part in schemes.quantity(y, 5, stream(0, "t"), alpha=2.0, min_size=100).parts:
        emd = np.abs(np.bincount(y[part], minlength=5) / len(part) - np.bincount(y) / 5000).sum()
        assert emd < 4 * np.sqrt(5 / len(part))


@given(
    weights=st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any),
    total=st.integers(0, 500),
    seed=st.one_of(st.none(), SEEDS),
)
def test_largest_remainders(weights: list[int], total: int, seed: int | None) -> None:
    w = np.array(weights)
    got = schemes.apportion(w, total, None if seed is None else stream(seed, "t"))
    quota = w * total / w.sum()
    assert got.sum() == total and (np.abs(got - quota) < 1).all()
    assert (got[w == 0] == 0).all()


@given(total=st.integers(0, 10**6), seed=SEEDS)
def test_largest_remainders_of_real_weights_never_overrun(total: int, seed: int) -> None:
    w = np.random.default_rng(seed).dirichlet(np.full(200, 0.5))
    got = schemes.apportion(w, total)
    assert got.sum() == total and (np.abs(got - w * total) < 1 + 1e-6).all()


@given(m=st.integers(1, 7), seed=SEEDS)
def test_label_permutations_are_bijective_and_agree_nowhere(m: int, seed: int) -> None:
    maps = label_permutations(m, 7, stream(seed, "t"))
    assert maps[0].tolist() == list(range(7))
    for i in range(m):
        assert sorted(maps[i]) == list(range(7))
        assert all((maps[i] != maps[j]).all() for j in range(i))


Y = labels_of(10, 200, 0)
IMPOSSIBLE: dict[str, tuple[str, Callable[[np.random.Generator], object]]] = {
    "too many clients": ("--min-size", lambda r: schemes.dirichlet(Y, 30, r, alpha=1.0, min_size=10)),
    "too skewed": ("--alpha", lambda r: schemes.dirichlet(Y, 19, r, alpha=0.01, min_size=10, balance=False)),
    "quantity": ("--alpha", lambda r: schemes.quantity(Y, 19, r, alpha=0.01, min_size=10)),
    "capped": ("--alpha", lambda r: schemes.dirichlet_capped(Y, 15, r, alpha=0.001)),
    "capped by itself": (
        "6 samples .as PFLlib: 10 / --test-share",
        lambda r: schemes.dirichlet_capped(Y, 15, r, alpha=0.001, min_size=1),
    ),
    "iid": ("--min-size", lambda r: schemes.iid(Y, 30, r, min_size=10)),
    "more clients than samples": ("--clients", lambda r: schemes.iid(Y, 300, r)),
    "k too large": ("--classes-per-client", lambda r: schemes.pathological(Y, 3, r, classes_per_client=11)),
    "class too small": ("--classes-per-client", lambda r: schemes.pathological(Y, 90, r, classes_per_client=9)),
    "shards": ("--shards-per-client", lambda r: schemes.shards(Y, 30, r, shards_per_client=9)),
    "uncovered": (
        "--classes-per-client",
        lambda r: schemes.extended_dirichlet(Y, 3, r, classes_per_client=2, alpha=1.0),
    ),
    "exdir k": (
        "--classes-per-client",
        lambda r: schemes.extended_dirichlet(Y, 3, r, classes_per_client=20, alpha=1.0),
    ),
    "exdir size": (
        "--alpha",
        lambda r: schemes.extended_dirichlet(Y, 20, r, classes_per_client=2, alpha=0.01, min_size=10),
    ),
    "permutations": ("--groups", lambda r: label_permutations(11, 10, r)),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_succeed_names_the_option(case: str) -> None:
    option, draw = IMPOSSIBLE[case]
    with pytest.raises(UsageError, match=option) as caught:
        draw(stream(0, "t"))
    assert "\n" not in str(caught.value)
