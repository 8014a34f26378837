"""heurfedamp: a softmax over cosines with a fixed weight on oneself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import final, job, random

from fltk.methods.heurfedamp import HeurFedAMP
from fltk.protocol.mixing import mix

TASK = job("heurfedamp").task()


def cohort(k: int = 5) -> Tensor:
    return TASK.w0 + 0.3 * random(k, TASK.layout.size)


@pytest.mark.parametrize("cos_of", ["displacement", "raw"])
def test_xi_as_loops(cos_of: str) -> None:
    w, sigma, own = cohort(), 4.0, 0.25
    d = w.double() - (TASK.w0.double() if cos_of == "displacement" else 0)
    e = [[math.exp(sigma * float(a @ b / (a.norm() * b.norm()))) for b in d] for a in d]
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            others = sum(e[i][h] for h in range(5) if h != i)
            expected[i, j] = own if i == j else (1 - own) * e[i][j] / others
    got = HeurFedAMP(sigma=sigma, self_weight=own, cos_of=cos_of).attention(w, TASK)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(got.sum(1), torch.ones(5, dtype=torch.float64))


def test_without_pull_it_is_local_bit_for_bit() -> None:
    assert torch.equal(final("heurfedamp", {"prox": 0}, rounds=3), final("local", rounds=3))


def test_no_sharpness_and_an_equal_self_weight_is_the_uniform_mean() -> None:
    w = cohort()
    xi = HeurFedAMP(sigma=0, self_weight=0.2).attention(w, TASK)
    torch.testing.assert_close(xi, torch.full((5, 5), 0.2, dtype=torch.float64))
    torch.testing.assert_close(mix(xi, w), w.mean(0).expand(5, -1), rtol=0, atol=1e-6)


def test_equal_models_stay_equal_and_all_self_weight_keeps_models() -> None:
    w = cohort(1).expand(4, -1)
    torch.testing.assert_close(mix(HeurFedAMP().attention(w, TASK), w), w, rtol=0, atol=1e-6)
    others = cohort()
    assert torch.equal(mix(HeurFedAMP(self_weight=1).attention(others, TASK), others), others)


def test_a_client_that_moved_the_same_way_gets_more_weight() -> None:
    w = cohort(3)
    w[1] = TASK.w0 + 3 * (w[0] - TASK.w0)  # the same direction, three times as far
    xi = HeurFedAMP().attention(w, TASK)
    assert xi[0, 1] > 0.69  # of the 0.7 that others share: exp(10) against about exp(0)


def test_one_model_keeps_itself() -> None:
    assert torch.equal(HeurFedAMP().attention(cohort(1), TASK), torch.ones(1, 1, dtype=torch.float64))
