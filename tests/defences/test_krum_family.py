"""Krum, Multi-Krum and Bulyan: their definitions as loops, their guarantees, and what they need."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import random
from uploads import equal, judge, merge, uploads

from fltk import defences
from fltk.defences.bulyan import Bulyan, chosen, nearest_mean
from fltk.defences.krum import Krum, MultiKrum, krum_scores
from fltk.defences.space import squared_distances
from fltk.protocol.averaging import weighted_sum

ROUNDS = st.integers(0, 10**6), st.integers(0, 3)


def slow_score(g: Tensor, i: int, f: int) -> float:
    away = sorted(float((g[i] - g[j]).double().square().sum()) for j in range(len(g)) if j != i)
    return sum(away[: len(g) - f - 2])


@given(*ROUNDS)
@settings(deadline=None)
def test_scores_as_loops(seed: int, f: int) -> None:
    g = random(2 * f + 3 + seed % 3, 20, seed=seed)
    d2 = squared_distances(g.double() @ g.double().t())
    expected = torch.tensor([slow_score(g, i, f) for i in range(len(g))], dtype=torch.float64)
    torch.testing.assert_close(krum_scores(d2, f), expected)


def test_krum_returns_one_of_the_rows_itself_and_multi_krum_the_lowest_scores() -> None:
    rows, start = uploads(11)
    scores = torch.tensor([slow_score(rows, i, 2) for i in range(11)])
    found = merge(Krum(), rows, start, f=2)
    assert torch.equal(found.row, rows[int(scores.argmin())])
    assert found.used.tolist() == [float(i == scores.argmin()) for i in range(11)]
    trust = judge(MultiKrum(), rows, start, f=2).trust
    assert sorted(torch.nonzero(trust).flatten().tolist()) == sorted(scores.argsort()[:9].tolist())
    assert judge(MultiKrum(keep=1), rows, start, f=2).trust.tolist() == found.used.tolist()


def test_equal_rows_are_taken_in_client_order() -> None:
    rows, start = uploads(9)
    rows[4:] = rows[4].clone()
    assert int(merge(Krum(), rows, start, f=2).used.argmax()) == 4
    assert torch.nonzero(judge(MultiKrum(keep=3), rows, start, f=2).trust).flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize("size", [10.0, 1e4, 1e18])
def test_far_outliers_are_never_chosen(size: float) -> None:
    """n = 12, f = 4: (n - 2f - 1) D^2 > (n - f - 2) d^2, also for outliers that keep each other company."""
    rows, start = uploads(12)
    for bad in (start + size * random(4, len(start), seed=9), (start + size).expand(4, -1)):
        mixed = torch.cat([rows[:8], bad])
        assert int(merge(Krum(), mixed, start, f=4).used.argmax()) < 8
        assert judge(MultiKrum(), mixed, start, f=4).trust.tolist() == [1.0] * 8 + [0.0] * 4


def test_outliers_that_are_merely_farther_than_others_from_each_other_can_win() -> None:
    """n = 23, f = 10: 13 orthonormal vectors, and 10 copies at a squared distance of 3.25 from each of them."""
    benign = torch.eye(14)[:13]
    # on the axis of the benign mean m, |m|^2 = 1/13, off it by h: |x - e_i|^2 = h^2 + 1 - 1/13
    copies = (benign.mean(0) + (3.25 - 12 / 13) ** 0.5 * torch.eye(14)[13]).expand(10, -1)
    rows = torch.cat([benign, copies])
    torch.testing.assert_close((rows[0] - rows[20]).square().sum(), torch.tensor(3.25))
    assert int(merge(Krum(), rows, torch.zeros(14), f=10).used.argmax()) >= 13


@pytest.mark.parametrize(("name", "least"), [("krum", 2), ("multi-krum", 2), ("bulyan", 4)])
def test_the_largest_f(name: str, least: int) -> None:
    rule = defences.create(name, {})
    for n in range(3, 40):
        f = rule.most(n)
        assert n >= least * f + 3
        assert n < least * (f + 1) + 3
    assert [rule.most(n) for n in range(3)] == [-1] * 3


def test_too_large_an_f_is_an_error() -> None:
    d2 = torch.zeros(6, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs 7"):
        krum_scores(d2, 2)
    with pytest.raises(ValueError, match="needs 7"):
        chosen(d2, 1)


@given(*ROUNDS)
@settings(deadline=None, max_examples=40)
def test_bulyan_as_loops(seed: int, f: int) -> None:
    rows, start = uploads(4 * f + 3 + seed % 4, 7, seed=seed)
    left, picked = list(range(len(rows))), []
    while len(picked) < len(rows) - 2 * f:
        near = min(len(left) - 1, max(1, len(left) - f - 2))

        def score(i: int, near: int = near) -> float:
            away = [float((rows[i] - rows[j]).double().square().sum()) for j in left if j != i]
            return sum(sorted(away)[:near])

        best = min(left, key=score)
        picked.append(best)
        left.remove(best)
    beta, ids = len(picked) - 2 * f, sorted(picked)
    expected = []
    for column in rows[ids].double().t().tolist():
        order = sorted(column)
        middle = (order[(len(order) - 1) // 2] + order[len(order) // 2]) / 2
        expected.append(sum(sorted(column, key=lambda x: abs(x - middle))[:beta]) / beta)
    found = merge(Bulyan(), rows, start, f=f)
    assert torch.nonzero(judge(Bulyan(), rows, start, f=f).trust).flatten().tolist() == ids
    torch.testing.assert_close(found.row, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert float(found.used.sum()) == pytest.approx(1)
    assert not found.used[[i for i in range(len(rows)) if i not in ids]].any()


def test_bulyan_with_nobody_malicious_is_the_mean() -> None:
    rows, start = uploads(7)
    torch.testing.assert_close(merge(Bulyan(), rows, start, f=0).row, weighted_sum(list(rows), equal(7)))


def test_bulyan_withstands_a_quarter() -> None:
    rows, start = uploads(11)
    bad = torch.cat([rows[:9], start + 1e6 * random(2, len(start), seed=4)])
    found = merge(Bulyan(), bad, start, f=2)
    assert not found.used[9:].any()
    assert bool((found.row >= rows[:9].amin(0)).all() and (found.row <= rows[:9].amax(0)).all())


def test_values_nearest_to_the_median_with_ties_by_client() -> None:
    column = torch.tensor([[4.0], [0.0], [2.0], [1.0], [3.0]])  # median 2; 1 and 3, 0 and 4 are equally near
    row, used = nearest_mean(column, 2)
    assert row.tolist() == [1.5]
    assert used.tolist() == [0, 0, 0.5, 0.5, 0]
    assert nearest_mean(column, 4)[1].tolist() == [0.25, 0, 0.25, 0.25, 0.25]
    even = torch.tensor([[0.0], [10.0], [4.0], [5.0]])  # median 4.5
    assert nearest_mean(even, 3)[0].tolist() == [3.0]
    many = random(9, 20_000)
    row, used = nearest_mean(many, 5)
    assert used.sum().item() == pytest.approx(1)
    assert all(0 < x < 1 / 5 for x in used.tolist())
    spans = [float((many[:, c] - many[:, c].median()).abs().sort().values[4]) for c in (0, 19_999)]
    for c, span in zip((0, 19_999), spans, strict=True):
        inside = (many[:, c] - many[:, c].median()).abs() <= span
        torch.testing.assert_close(row[c], many[inside, c].mean())
