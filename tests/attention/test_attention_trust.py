"""Trust and clipping: the equations as loops, who loses weight and who does not."""

from __future__ import annotations

import math
from statistics import mean, median

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import random

from fltk.attention import Options, attend, weigh
from fltk.attention.scores import limit
from fltk.attention.tokens import similarity
from fltk.attention.trust import EPS, FLOOR, clip_factors, log_trust
from fltk.memory.products import gram

D = 200


def updates(k: int = 10, seed: int = 0) -> Tensor:
    """A common direction and noise, (k, D)."""
    return random(1, D, seed=seed) + random(k, D, seed=seed + 1)


def trust_of(rows: Tensor) -> Tensor:
    return log_trust(gram(rows, torch.zeros(rows.shape[1])))


def slow_z(x: list[float]) -> list[float]:
    spread = median(abs(v - median(x)) for v in x)
    return [(v - median(x)) / (1.4826 * spread + EPS) for v in x]


def test_trust_as_loops() -> None:
    rows = updates()
    rows[3] *= 4
    rows[7] = 5 * random(D, seed=9)
    k = len(rows)
    s, near = similarity(rows, torch.zeros(D)), max(1, math.ceil(0.2 * k))
    company = [mean(sorted((float(s[j, i]) for i in range(k) if i != j), reverse=True)[:near]) for j in range(k)]
    t, v = slow_z(company), slow_z([math.log(float(row.double().norm())) for row in rows])
    expected = [max(FLOOR, -max(0, -t[j] - 2) - max(0, abs(v[j]) - 3)) for j in range(k)]
    torch.testing.assert_close(trust_of(rows), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)
    assert trust_of(rows)[7] < -5


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_trust_is_at_most_full(seed: int, k: int) -> None:
    found = trust_of(updates(k, seed))
    assert (found <= 0).all()
    assert (found >= FLOOR).all()
    if k < 4:
        assert not found.any()


def test_an_honest_minority_is_not_punished_but_a_loner_of_noise_is() -> None:
    groups = torch.cat([updates(8, seed=1), updates(4, seed=5)])
    assert float(trust_of(groups)[8:].min()) == 0
    assert float(trust_of(torch.cat([groups, random(1, D, seed=8)]))[-1]) < -3
    assert float(trust_of(torch.cat([groups, 20 * updates(1, seed=1)]))[-1]) < -3


def test_colluders_keep_each_other_company() -> None:
    """What this defence does not see, as its description says."""
    lie = 2**0.5 * random(1, D, seed=8).expand(4, -1)  # as long as the honest updates
    assert float(trust_of(torch.cat([updates(8), lie]))[-4:].min()) == 0


def test_a_zero_update_is_finite() -> None:
    assert torch.isfinite(trust_of(torch.cat([updates(5), torch.zeros(1, D)]))).all()


def test_equal_trust_leaves_proportions_alone() -> None:
    s = similarity(updates(6), torch.zeros(D))
    trust = torch.tensor([0.0, -1.5, -1.5, 0.0, -7.0, 0.0], dtype=torch.float64)
    plain, judged = (weigh(s, Options(lone=0), trust=t).map for t in (None, trust))
    for i in range(6):
        for j, k in ((1, 2), (0, 3), (0, 5)):
            if i not in (j, k):
                torch.testing.assert_close(judged[i, j] / judged[i, k], plain[i, j] / plain[i, k])
        for j in range(6):
            if i != j:
                ratio = judged[i, j] / judged[i, i] / (plain[i, j] / plain[i, i])
                assert float(ratio) == pytest.approx(math.exp(float(trust[j])))


def test_clipping_shortens_to_a_multiple_of_the_median() -> None:
    norms = torch.tensor([1.0, 2.0, 3.0, 30.0, 0.0])
    torch.testing.assert_close(clip_factors(norms, 1.5), torch.tensor([1.0, 1, 1, 0.1, 1]))
    assert not clip_factors(norms, 0).any()


def test_a_cap_gives_the_surplus_to_the_own_model() -> None:
    a = torch.softmax(3 * random(5, 5).double(), 1)
    got = limit(a, 0.15)
    for i in range(5):
        for j in range(5):
            if i != j:
                assert float(got[i, j]) == min(float(a[i, j]), 0.15)
    torch.testing.assert_close(got.sum(1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(limit(a, 1), a)
    assert float(attend(updates(6), Options(cap=0.1), center="none").map.fill_diagonal_(0).max()) <= 0.1
