"""The label prior as an offset of the logits: its formula, and its place in the bias."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import random

from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.train.prior import in_bias, log_prior

COUNTS = st.lists(st.lists(st.integers(0, 200), min_size=3, max_size=3), min_size=1, max_size=5)


@given(COUNTS)
def test_the_offset_as_loops(counts: list[list[int]]) -> None:
    """log((n_ic + eps C pi_c) / (n_i + eps C) / pi_c) with pi_c = (sum_j n_jc + 1) / sum_c' (...)."""
    table = torch.tensor(counts)
    got = log_prior(table, table.sum(0))
    total = [sum(row[c] for row in counts) + 1 for c in range(3)]
    for i, row in enumerate(counts):
        for c in range(3):
            pi = total[c] / sum(total)
            p = (row[c] + 0.1 * 3 * pi) / (sum(row) + 0.1 * 3)
            assert float(got[i, c]) == pytest.approx(math.log(p / pi), abs=1e-9)


@given(st.integers(1, 10**6))
def test_a_client_with_the_pooled_shares_has_no_offset(n: int) -> None:
    pooled = torch.tensor([39, 79, 119, 159])  # the pooled shares are of one more sample each: 1 : 2 : 3 : 4
    own = torch.tensor([[1, 2, 3, 4]]) * n
    torch.testing.assert_close(log_prior(own, pooled), torch.zeros(1, 4).double(), rtol=0, atol=1e-6)


def test_a_class_that_a_client_lacks_sinks_and_one_that_it_has_rises() -> None:
    offset = log_prior(torch.tensor([[50, 0], [0, 50]]), torch.tensor([50, 50]))
    assert (offset[0, 0] > 0 > offset[0, 1]) and torch.equal(offset[1], offset[0].flip(0))


@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet5", "resnet8", "resnet8-bn"])
def test_the_bias_of_the_last_layer_shifts_the_logits(name: str) -> None:
    with torch.no_grad():
        model = zoo.make(name, (1, 28, 28), 5)
        layout = Layout.of(model)
        w, offset, x = random(layout.size).abs() / 9, random(5, seed=1), random(3, 1, 28, 28, seed=2)
        flat = torch.zeros(layout.size)
        layout.bind(model.to_empty(device="cpu").eval(), flat)
        flat.copy_(w)
        expected = model(x) + offset
        flat.copy_(w + in_bias(layout, offset))
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
