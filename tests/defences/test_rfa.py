"""RFA: Weiszfeld's iteration in the space of the Gram matrix."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import random
from uploads import equal, merge, uploads

from fltk.defences.rfa import RFA, weiszfeld


def slow(rows: Tensor, p: Tensor, iterations: int, nu: float) -> Tensor:
    v = p @ rows
    for _ in range(iterations):
        b = torch.stack([p[k] / max(nu, float((v - rows[k]).norm())) for k in range(len(rows))])
        v = b @ rows / b.sum()
    return v


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(1e-6, 2))
@settings(deadline=None)
def test_the_iteration_as_loops_and_an_objective_that_never_rises(seed: int, k: int, nu: float) -> None:
    g, p = random(k, 5, seed=seed).double(), torch.softmax(random(k, seed=seed + 1).double(), 0)
    c, told = weiszfeld(g @ g.t(), p, 6, nu)
    assert bool((c > 0).all())
    assert float(c.sum()) == pytest.approx(1)
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(told))
    if k > 1 and len(told) == 7:  # it did not stop early
        torch.testing.assert_close(c @ g, slow(g, p, 6, nu), rtol=1e-5, atol=1e-6)


def test_points_on_a_line_converge_to_their_median() -> None:
    rows = torch.tensor([[0.0], [1], [2], [3], [10]])
    assert float(merge(RFA(iterations=200, stop=0), rows, torch.zeros(1)).row) == pytest.approx(2, abs=1e-3)
    assert float(merge(RFA(), rows, torch.zeros(1)).row) == pytest.approx(2.23, abs=0.005)  # four iterations


def test_it_uses_the_weights_of_the_method() -> None:
    rows, start = torch.tensor([[0.0], [1], [5]]), torch.zeros(1)
    weights = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    assert RFA.weighted
    assert float(merge(RFA(iterations=100, stop=0), rows, start, weights).row) == pytest.approx(5, abs=1e-3)


def test_one_upload_and_equal_uploads_come_back() -> None:
    rows, start = uploads(6)
    one = merge(RFA(), rows[:1], start)
    assert torch.equal(one.row, rows[0])
    torch.testing.assert_close(merge(RFA(), rows[:1].expand(5, -1), start).row, rows[0], rtol=0, atol=1e-6)


@given(st.floats(0.01, 100), st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_it_goes_with_shifts_and_scales(scale: float, seed: int) -> None:
    rows, start = uploads(7, 12, seed=seed)
    plain = merge(RFA(nu=1e-3), rows, start)
    large = merge(RFA(nu=1e-3 * scale), rows * scale, start * scale)
    torch.testing.assert_close(large.used, plain.used, rtol=1e-3, atol=1e-6)
    moved = merge(RFA(nu=1e-3), rows + 3, start)  # distances do not ask where the origin is
    torch.testing.assert_close(moved.used, plain.used, rtol=1e-3, atol=1e-4)


def test_less_than_half_of_the_weight_moves_it_little() -> None:
    rows, start = uploads(10)
    bad = torch.cat([rows[:6], start + 1e6 * random(4, len(start), seed=5)])
    away = (merge(RFA(iterations=60, stop=0), bad, start).row - start).norm()
    assert float(away) < 5 * float((rows - start).norm(dim=1).max())
    assert float((merge(RFA(), bad, start).used)[6:].sum()) < float(equal(10)[6:].sum())
