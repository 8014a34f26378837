"""Median and trimmed mean: their definitions, their weighted forms, and what they withstand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import Tensor
from toys import random
from uploads import equal

from fltk.defences.median import median
from fltk.defences.trimmed_mean import trimmed_mean
from fltk.protocol.averaging import weighted_sum

VALUES = hnp.arrays("float32", st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=st.floats(-100, 100, width=32))


def weights_of(k: int, seed: int) -> Tensor:
    return torch.softmax(random(k, seed=seed).double(), 0)


def slow_median(column: list[float], a: list[float]) -> float:
    order = sorted(range(len(column)), key=column.__getitem__)
    total, low, high = 0.0, None, None
    for k in order:
        total += a[k]
        if low is None and total >= 0.5 - 1e-9:
            low = column[k]
        if high is None and total > 0.5 + 1e-9:
            high = column[k]
    assert low is not None and high is not None
    return (low + high) / 2


def slow_trimmed(column: list[float], a: list[float], share: float) -> float:
    start, total, kept = 0.0, 0.0, 0.0
    for k in sorted(range(len(column)), key=column.__getitem__):
        part = max(0.0, min(start + a[k], 1 - share) - max(start, share))
        start, total, kept = start + a[k], total + part * column[k], kept + part
    return total / kept


@given(VALUES)
@settings(deadline=None)
def test_equal_weights_give_the_usual_median(x: np.ndarray) -> None:
    row, used = median(torch.from_numpy(x), equal(len(x)))
    np.testing.assert_allclose(row.numpy(), np.median(x.astype(np.float64), axis=0), rtol=1e-6, atol=1e-30)
    assert float(used.sum()) == pytest.approx(1)


@given(VALUES, st.integers(0, 4))
@settings(deadline=None)
def test_equal_weights_give_the_usual_trimmed_mean(x: np.ndarray, b: int) -> None:
    n = len(x)
    b = min(b, (n - 1) // 2)
    row, used = trimmed_mean(torch.from_numpy(x), equal(n), b / n)
    inner = np.sort(x.astype(np.float64), axis=0)[b : n - b]
    np.testing.assert_allclose(row.numpy(), inner.mean(0), rtol=1e-5, atol=1e-4)
    assert float(used.sum()) == pytest.approx(1)


def test_the_trimmed_mean_is_that_of_scipy() -> None:
    x = random(10, 40)
    expected = torch.from_numpy(stats.trim_mean(x.double().numpy(), 0.2 + 1e-9, axis=0))
    torch.testing.assert_close(trimmed_mean(x, equal(10), 0.2)[0].double(), expected, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 10**6), st.integers(2, 8))
@settings(deadline=None)
def test_weighted_forms_as_loops(seed: int, k: int) -> None:
    x, a = random(k, 6, seed=seed), weights_of(k, seed + 1)
    columns = x.double().t().tolist()
    expected = torch.tensor([slow_median(column, a.tolist()) for column in columns])
    torch.testing.assert_close(median(x, a)[0], expected)
    trimmed = torch.tensor([slow_trimmed(column, a.tolist(), 0.2) for column in columns])
    torch.testing.assert_close(trimmed_mean(x, a, 0.2)[0], trimmed)


def test_no_trimming_is_the_mean_and_most_trimming_the_median() -> None:
    x, a = random(7, 30), weights_of(7, 1)
    torch.testing.assert_close(trimmed_mean(x, a, 0)[0], weighted_sum(list(x), a))
    torch.testing.assert_close(trimmed_mean(x, equal(7), 3 / 7)[0], x.median(0).values)
    for few in (x[:1], x[:2]):
        torch.testing.assert_close(median(few, equal(len(few)))[0], few.double().mean(0).float())


@pytest.mark.parametrize("a", [torch.ones(1), torch.tensor([0.7, 0.1, 0.2])])
def test_more_than_half_of_the_weight_is_that_row(a: Tensor) -> None:
    x = random(len(a), 50)
    row, used = median(x, a.double())
    assert torch.equal(row, x[0])
    assert used.tolist() == [1.0] + [0.0] * (len(a) - 1)
    assert torch.equal(trimmed_mean(x[:1], torch.ones(1, dtype=torch.float64), 0.3)[0], x[0])


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_outliers_short_of_the_breakdown_point_stay_without_effect(size: float) -> None:
    """Values of any size, on one side or on both, and through the weighted forms."""
    honest = random(6, 40)
    low, high = honest.amin(0), honest.amax(0)
    for bad in (torch.full((4, 40), size), torch.full((4, 40), -size), size * random(4, 40).sign()):
        rows = torch.cat([honest, bad])
        for a in (equal(10), torch.cat([0.62 * weights_of(6, 3), 0.38 * weights_of(4, 4)])):
            for got in (median(rows, a)[0], trimmed_mean(rows, a, 0.4)[0]):
                assert bool((got >= low - 1e-5).all() and (got <= high + 1e-5).all())


def test_half_of_the_weight_breaks_both() -> None:
    rows = torch.cat([random(5, 40), torch.full((5, 40), 1e6)])
    assert float(median(rows, equal(10))[0].min()) > 1e5
    assert float(trimmed_mean(rows, equal(10), 0.4)[0].min()) > 1e5


def test_shares_say_whose_values_were_used() -> None:
    x = torch.tensor([[0.0, 5], [1, 4], [2, 3], [9, 9], [8, 8]])
    assert median(x, equal(5))[1].tolist() == [0.5, 0, 0.5, 0, 0]
    torch.testing.assert_close(
        trimmed_mean(x, equal(5), 0.2)[1], torch.tensor([1 / 6, 2 / 6, 1 / 6, 0, 2 / 6], dtype=torch.float64)
    )


def test_values_reach_across_blocks_and_trimming_everything_is_refused() -> None:
    x = random(5, 20_000)
    assert torch.equal(median(x, equal(5))[0], x.median(0).values)
    assert torch.equal(median(list(x), equal(5))[0], x.median(0).values)
    with pytest.raises(ValueError, match="leaves nothing"):
        trimmed_mean(x, equal(5), 0.5)
