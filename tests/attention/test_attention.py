"""Attention over clients: every equation as a slow loop against the vectorised code."""

from __future__ import annotations

import math
from statistics import mean, median, pstdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import random

from fltk.attention import Options, attend
from fltk.attention.scores import (
    WIDTHS,
    ceiling,
    energies,
    fix_self_weight,
    gaps,
    lone,
    off_diagonal,
    softmax_rows,
)
from fltk.attention.tokens import Part, Projection, center_of, cosines, countsketch, gaussian, similarity, tokens
from fltk.memory import products
from fltk.memory.products import gram

K = 6


def similarities(seed: int = 0, k: int = K) -> Tensor:
    """A symmetric matrix of plausible cosines with unit diagonal."""
    s = 0.4 + 0.15 * random(k, k, seed=seed).double()
    return ((s + s.T) / 2).clamp(-1, 1).fill_diagonal_(1.0)


def peers_of(s: Tensor, i: int) -> list[float]:
    return [float(s[i, j]) for j in range(len(s)) if j != i]


def slow_energies(s: Tensor, score: str, tau: float) -> Tensor:
    """The four scores, straight from their formulas."""
    k = len(s)
    e = torch.zeros(k, k, dtype=torch.float64)
    others = [float(s[i, j]) for i in range(k) for j in range(k) if i != j]
    for i in range(k):
        m = max(peers_of(s, i))
        for j in range(k):
            g = 0.0 if i == j else max(0.0, m - float(s[i, j]))
            e[i, j] = {
                "gap": -(g**2) / (2 * tau**2),
                "relgap": -g / max(0.05, 1 - m) / tau,
                "raw": float(s[i, j]) / tau,
                "zscore": (float(s[i, j]) - mean(others)) / pstdev(others) / tau,
            }[score]
    return e


@pytest.mark.parametrize("score", sorted(WIDTHS))
def test_scores_as_loops(score: str) -> None:
    for seed in range(3):
        s = similarities(seed)
        got = energies(s, ceiling(s, off_diagonal(K)), score, 0.2)
        torch.testing.assert_close(got, slow_energies(s, score, 0.2), rtol=1e-9, atol=1e-12)


def test_the_map_as_loops() -> None:
    """A_ij = n_j^gamma exp(e_ij + b [i = j]) / sum over k of the same."""
    w, n, gamma, bias, tau = random(K, 40), torch.tensor([5, 9, 2, 7, 4, 30]), 0.7, 0.3, 0.5
    s = slow_cosines(w, torch.zeros(40))
    e = slow_energies(s, "gap", tau)
    expected = torch.zeros(K, K, dtype=torch.float64)
    for i in range(K):
        top = [float(n[j]) ** gamma * math.exp(float(e[i, j]) + bias * (i == j)) for j in range(K)]
        for j in range(K):
            expected[i, j] = top[j] / sum(top)
    got = attend(w, Options(tau=tau, gamma=gamma, bias=bias, lone=0), center="none", samples=n)
    torch.testing.assert_close(got.map, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(got.similarity, s, rtol=0, atol=1e-9)
    torch.testing.assert_close(got.ceiling, torch.tensor([max(peers_of(s, i)) for i in range(K)]).double())


def slow_cosines(rows: Tensor, origin: Tensor) -> Tensor:
    d = rows.double() - origin.double()
    out = torch.ones(len(d), len(d), dtype=torch.float64)
    for i in range(len(d)):
        for j in range(len(d)):
            if i != j:
                dot = sum(float(a) * float(b) for a, b in zip(d[i], d[j], strict=True))
                out[i, j] = dot / math.sqrt(float(d[i] @ d[i]) * float(d[j] @ d[j]))
    return out


def test_cosines_as_loops_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, origin = random(5, 33), random(33, seed=3)
    for chunk in (1, 7, 33, 100):
        monkeypatch.setattr(products, "MOST_COLUMNS", chunk)
        got = cosines(gram(rows, origin))
        torch.testing.assert_close(got, slow_cosines(rows, origin), rtol=0, atol=1e-6)
    assert gram(rows, origin).dtype == torch.float64


def test_a_client_that_did_not_move_is_like_nobody() -> None:
    rows = torch.cat([torch.zeros(1, 9), random(2, 9)])
    s = similarity(rows, torch.zeros(9))
    assert s[0, 1] == s[1, 0] == 0
    assert torch.equal(s.diagonal(), torch.ones(3, dtype=torch.float64))
    assert torch.isfinite(attend(rows, center="none").map).all()


def test_the_ceiling_is_the_best_peer_or_the_kth_best() -> None:
    s = similarities()
    for rank in (1, 2, 3):
        expected = [sorted(peers_of(s, i), reverse=True)[rank - 1] for i in range(K)]
        torch.testing.assert_close(ceiling(s, off_diagonal(K), rank), torch.tensor(expected, dtype=torch.float64))
    few = off_diagonal(K) & (torch.arange(K) < 2)
    expected = [max(float(s[i, j]) for j in range(2) if j != i) for i in range(K)]
    torch.testing.assert_close(ceiling(s, few), torch.tensor(expected, dtype=torch.float64))


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_the_best_peer_has_no_gap_and_energies_are_not_positive(seed: int, k: int) -> None:
    s = similarities(seed, k)
    m = ceiling(s, off_diagonal(k))
    g, e = gaps(s, m), energies(s, m, "gap", 0.135)
    assert (g >= 0).all()
    assert (e <= 0).all()
    assert not e.diagonal().any()
    assert ((e == 0) & off_diagonal(k)).any(1).all()


@given(st.integers(0, 10**6), st.floats(-0.5, 0.5))
def test_a_constant_on_all_similarities_changes_no_row(seed: int, shift: float) -> None:
    s = similarities(seed)
    moved = torch.where(off_diagonal(K), s + shift, s)
    a, b = (energies(x, ceiling(x, off_diagonal(K)), "gap", 0.135) for x in (s, moved))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_equal_similarities_are_fedavgs_weights() -> None:
    s = torch.full((K, K), 0.3, dtype=torch.float64).fill_diagonal_(1.0)
    n = torch.arange(1.0, K + 1).double()
    e = energies(s, ceiling(s, off_diagonal(K)), "gap", 0.135)
    got = softmax_rows(e, n.log(), torch.ones(K, K, dtype=torch.bool))
    torch.testing.assert_close(got, (n / n.sum()).expand(K, -1), rtol=0, atol=1e-12)


def test_a_gap_of_six_widths_separates_groups() -> None:
    block = torch.tensor([0, 0, 1, 1, 1, 1])
    same = block[:, None] == block
    s = torch.where(same, 0.9, 0.9 - 6 * 0.135).double().fill_diagonal_(1.0)
    n = torch.tensor([3.0, 5, 2, 8, 4, 4]).double()
    e = energies(s, ceiling(s, off_diagonal(K)), "gap", 0.135)
    got = softmax_rows(e, n.log(), torch.ones(K, K, dtype=torch.bool))
    within = same * n
    torch.testing.assert_close(got, within / within.sum(1, keepdim=True), rtol=0, atol=1e-6)


def test_lone_clients_have_a_low_ceiling() -> None:
    m = torch.tensor([0.5, 0.6, 0.1, 0.7], dtype=torch.float64)
    middle = median(m.tolist())
    assert lone(m, 0.4).tolist() == [x < 0.4 * middle for x in m.tolist()] == [False, False, True, False]
    assert not lone(m, 0).any()
    assert not lone(m[2:], 0.4).any()  # two clients have no median worth the name


def test_a_fixed_self_weight_keeps_the_proportions_of_the_rest() -> None:
    a = torch.softmax(random(4, 4).double(), 1)
    got = fix_self_weight(a, 0.4)
    torch.testing.assert_close(got.sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(got.diagonal(), torch.full((4,), 0.4, dtype=torch.float64))
    torch.testing.assert_close(got[0, 1] / got[0, 3], a[0, 1] / a[0, 3])
    alone = fix_self_weight(torch.eye(2, dtype=torch.float64), 0.4)
    assert torch.equal(alone, torch.eye(2, dtype=torch.float64))


def test_only_keys_are_attended_to() -> None:
    keys = torch.tensor([True, False, True, True, False, True])
    got = attend(random(K, 50), Options(lone=0), center="none", keys=keys).map
    allowed = keys | torch.eye(K, dtype=torch.bool)
    assert not got[~allowed].any()
    assert (got[allowed & off_diagonal(K)] > 0).any()
    torch.testing.assert_close(got.sum(1), torch.ones(K, dtype=torch.float64))


def test_centres() -> None:
    rows, start = random(5, 7), random(7, seed=4)
    assert torch.equal(center_of(rows, "init", start), start)
    torch.testing.assert_close(center_of(rows, "mean", None), rows.mean(0))
    slow = torch.tensor([median(rows[:, q].tolist()) for q in range(7)])
    torch.testing.assert_close(center_of(rows, "median", None), slow)
    assert not center_of(rows, "none", None).any()
    with pytest.raises(ValueError, match="common start"):
        center_of(rows, "init", None)


@pytest.mark.parametrize("project", [countsketch, gaussian])
def test_projections_are_linear(project) -> None:  # type: ignore[no-untyped-def]  # two functions of one signature
    a, b, zero = random(3, 500, seed=1), random(3, 500, seed=2), torch.zeros(500)
    both = project(2 * a + b, zero, 64, 9)
    torch.testing.assert_close(both, 2 * project(a, zero, 64, 9) + project(b, zero, 64, 9), rtol=0, atol=1e-4)
    assert torch.equal(project(a, zero, 64, 9), project(a, zero, 64, 9))
    assert not torch.equal(project(a, zero, 64, 9), project(a, zero, 64, 10))


def test_countsketch_as_a_loop() -> None:
    rows, origin, r = random(2, 30), random(30, seed=5), 8
    generator = torch.Generator().manual_seed(3)
    bucket = torch.randint(r, (30,), generator=generator).tolist()
    sign = (torch.randint(2, (30,), generator=generator, dtype=torch.float64) * 2 - 1).tolist()
    expected = torch.zeros(2, r, dtype=torch.float64)
    for i in range(2):
        for q in range(30):
            expected[i, bucket[q]] += sign[q] * (float(rows[i, q]) - float(origin[q]))
    torch.testing.assert_close(countsketch(rows, origin, r, 3), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("projection", ["countsketch", "gaussian"])
def test_projections_keep_cosines(projection: Projection) -> None:
    """The error has a standard deviation of about 1/sqrt(r) = 0.03; five of them are enough for 45 pairs."""
    common = random(1, 20_000, seed=1)
    rows = common + random(10, 20_000, seed=2)
    exact = similarity(rows, torch.zeros(20_000))
    z = tokens([Part(rows, torch.zeros(20_000))], 1024, 7, projection)
    got = z @ z.t()
    assert float((got - exact).abs().max()) < 5 / math.sqrt(1024)
    assert float(exact[0, 1]) == pytest.approx(0.5, abs=0.02)


def test_clients_that_are_alike_meet_whatever_is_hashed() -> None:
    """Exact similarities, and those of projected tokens, put the members of a group into common buckets."""
    groups = random(4, 3000).repeat_interleave(20, 0) + 0.05 * random(80, 3000, seed=1)
    own = torch.arange(80) // 20
    for proj in ("none", "countsketch", "gaussian"):
        a = attend(groups, Options(sparse="lsh", proj=proj, r=512), center="none").map
        inside = a[own[:, None] == own].sum() / 80
        assert float(inside) > 0.99


def test_a_share_of_the_update_mixes_the_two_similarities() -> None:
    rows, updates = random(K, 60), random(K, 60, seed=1)
    a, b = similarity(rows, torch.zeros(60)), similarity(updates, torch.zeros(60))
    got = attend(rows, Options(omega=0.3), center="none", updates=updates).similarity
    torch.testing.assert_close(got, 0.7 * a + 0.3 * b, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="updates"):
        attend(rows, Options(omega=0.3))


@pytest.mark.parametrize("score", sorted(WIDTHS))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_few_clients(score: str, k: int) -> None:
    got = attend(random(k, 20), Options(score=score), center="none").map
    torch.testing.assert_close(got.sum(1), torch.ones(k, dtype=torch.float64))
    assert (got >= 0).all()


def test_no_peers_at_all_leave_everybody_alone() -> None:
    got = attend(random(3, 20), center="none", keys=torch.zeros(3, dtype=torch.bool)).map
    assert torch.equal(got, torch.eye(3, dtype=torch.float64))


def test_numbers_of_clients_may_be_lists() -> None:
    w = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    n, known, trust = [3, 1, 4, 1], [True, True, False, True], [0.0, -0.5, 0.0, 0.0]
    told = attend(w, samples=n, keys=known, trust=trust).map
    tensors = attend(w, samples=torch.tensor(n), keys=torch.tensor(known), trust=torch.tensor(trust)).map
    assert torch.equal(told, tensors)
