"""Blocks, distances, ranks and sorted columns of uploads."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toys import random

from fltk.defences.space import (
    blocks,
    cumulated,
    distances_to,
    nearest_sums,
    ordered,
    ranked,
    row_dots,
    squared_distances,
    tally,
)

K, P = 7, 20_000  # more than two blocks of columns


def test_blocks_cover_every_column_once() -> None:
    assert [a for a, b in blocks(20, 8)] == [0, 8, 16]
    assert [b for a, b in blocks(20, 8)] == [8, 16, 20]
    assert not list(blocks(0))


def test_inner_products_of_rows_with_rows_and_with_a_vector() -> None:
    x, y = random(K, P), random(K, P, seed=1)
    torch.testing.assert_close(row_dots(x, y), (x.double() * y.double()).sum(1))
    torch.testing.assert_close(row_dots(x, y[0]), x.double() @ y[0].double())


def test_distances_as_loops_and_none_between_equal_updates() -> None:
    g = random(K, 500).double()
    g[3] = g[5]
    d2 = squared_distances(g @ g.t())
    for i in range(K):
        for j in range(K):
            torch.testing.assert_close(d2[i, j], (g[i] - g[j]).square().sum())
    assert d2[3, 5] == 0
    assert torch.equal(d2, d2.t())
    c = torch.softmax(random(K).double(), 0)
    torch.testing.assert_close(distances_to(g @ g.t(), c), (g - c @ g).norm(dim=1))
    others = sorted(float(d2[0, j]) for j in range(1, K))
    torch.testing.assert_close(float(nearest_sums(d2, 3)[0]), sum(others[:3]))


def test_ranks_put_the_first_of_equals_first() -> None:
    scores = torch.tensor([3.0, 1, 2, 1, torch.inf, 0.5], dtype=torch.float64)
    assert ranked(scores).tolist() == [5, 1, 3, 2, 0, 4]
    wobbly = scores + torch.tensor([0, 1e-15, 0, -1e-16, 0, 0], dtype=torch.float64)
    assert ranked(wobbly).tolist() == [5, 1, 3, 2, 0, 4]
    assert ranked(torch.full((3,), torch.inf)).tolist() == [0, 1, 2]
    assert ranked(torch.zeros(3)).tolist() == [0, 1, 2]


def test_one_score_of_any_size_does_not_blur_the_others() -> None:
    assert ranked(torch.tensor([3.0, 2.0, 1e60, 1.0], dtype=torch.float64)).tolist() == [3, 1, 0, 2]


@given(hnp.arrays("float32", (5, 9), elements=st.floats(width=32, allow_nan=False)))
def test_columns_in_order_with_their_owners(x: object) -> None:
    rows = torch.as_tensor(x)
    values, whose = ordered(rows, 2, 9)
    expected, at = (rows[:, 2:] + 0.0).t().sort(dim=1, stable=True)
    assert torch.equal(values, expected)
    assert torch.equal(whose, at)
    again = ordered(list(rows), 2, 9)
    assert torch.equal(again[0], values)
    assert torch.equal(again[1], whose)


def test_weights_end_to_end_and_sums_by_owner() -> None:
    whose = torch.tensor([[0, 2, 1], [2, 1, 0]])
    each, ends = cumulated(torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64), whose)
    torch.testing.assert_close(ends, torch.tensor([[0.5, 0.8, 1.0], [0.3, 0.5, 1.0]], dtype=torch.float64))
    assert tally(whose, each, 4).tolist() == [1, 0.4, 0.6, 0]
    assert cumulated(torch.full((3,), 1 / 3, dtype=torch.float64), whose)[0].shape == (1, 3)
