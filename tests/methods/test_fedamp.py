"""fedamp: xi against its formula written as loops, and the limits of the method."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor
from toys import aggregated, final, job, made_up, models, play, random, uploads

from fltk import methods
from fltk.engine.base import Bench
from fltk.methods.fedamp import FedAMP, median, squared_distances, with_self_weight
from fltk.protocol.mixing import mix

TASK = job("fedamp").task()


def cohort(k: int = 5, seed: int = 0) -> Tensor:
    """Models some way from the common start, (K, P)."""
    return TASK.w0 + 0.3 * random(k, TASK.layout.size, seed=seed)


def test_squared_distances_as_loops() -> None:
    w = 100 + cohort()  # far from zero, where |a|^2 + |b|^2 - 2ab loses its digits
    slow = [[float((a.double() - b.double()).square().sum()) for b in w] for a in w]
    got = squared_distances(w)
    torch.testing.assert_close(got, torch.tensor(slow, dtype=torch.float64), rtol=1e-9, atol=0)
    assert torch.equal(got.diagonal(), torch.zeros(5, dtype=torch.float64))


def test_the_papers_weights_as_loops() -> None:
    method, w = FedAMP(scale="none", sigma=30.0, alpha=0.8), cohort()
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            if i != j:
                distance = sum(float(a - b) ** 2 for a, b in zip(w[i].double(), w[j].double(), strict=True))
                expected[i, j] = 0.8 / 30.0 * math.exp(-distance / 30.0)
        expected[i, i] = 1 - expected[i].sum()
    torch.testing.assert_close(method.attention(w, TASK), expected, rtol=1e-6, atol=1e-8)  # float32 differences


def test_the_median_scaled_weights_as_loops() -> None:
    method, w = FedAMP(sigma=0.5, share=0.6), cohort(4)
    d = [[float((a.double() - b.double()).square().sum()) for b in w] for a in w]
    unit = 0.5 * statistics.median(d[i][j] for i in range(4) for j in range(4) if i != j)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            expected[i, j] = 0.6 / 3 * math.exp(-d[i][j] / unit) if i != j else 0.0
        expected[i, i] = 1 - expected[i].sum()
    torch.testing.assert_close(method.attention(w, TASK), expected, rtol=1e-6, atol=1e-8)  # float32 differences
    assert (expected.diagonal() >= 0.4).all()


def test_rows_stay_on_the_simplex_where_the_formula_leaves_it() -> None:
    method = FedAMP(scale="none", sigma=1e6, alpha=1e6)  # alpha (K - 1) / sigma = 4
    xi = method.attention(cohort(), TASK)
    assert (xi >= 0).all()
    torch.testing.assert_close(xi.sum(1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(xi.diagonal(), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    raw = torch.tensor([[9.0, 0.2], [0.5, 9.0]], dtype=torch.float64)
    expected = torch.tensor([[0.8, 0.2], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(with_self_weight(raw), expected)


def test_without_pull_it_is_local_bit_for_bit() -> None:
    for settings in ({}, {"participation": 0.5}):
        assert torch.equal(final("fedamp", {"prox": 0}, rounds=3, **settings), final("local", rounds=3, **settings))


@pytest.mark.parametrize("scale", ["median", "none"])
def test_equal_models_stay_equal(scale: str) -> None:
    w = cohort(1).expand(4, -1)
    u = mix(FedAMP(scale=scale).attention(w, TASK), w)
    torch.testing.assert_close(u, w, rtol=0, atol=1e-6)


def test_a_narrow_kernel_keeps_distinct_models() -> None:
    w = cohort()
    xi = FedAMP(scale="none", sigma=1e-3).attention(w, TASK)
    assert torch.equal(mix(xi, w), w)


def test_a_nearer_client_gets_more_weight() -> None:
    w = cohort(3)
    w[1] = w[0] + 0.1 * (w[2] - w[0])
    for method in (FedAMP(), FedAMP(scale="none", sigma=20.0)):
        xi = method.attention(w, TASK)
        assert xi[0, 1] > xi[0, 2]


def test_a_relabelling_relabels_xi() -> None:
    w, p = cohort(), torch.tensor([3, 0, 4, 1, 2])
    for method in (FedAMP(), FedAMP(scale="none", sigma=20.0)):
        torch.testing.assert_close(method.attention(w[p], TASK), method.attention(w, TASK)[p][:, p])


def test_the_first_round_has_no_pull_and_later_ones_pull_to_the_mixture() -> None:
    made = job("fedamp", {"prox": 2.0})
    task, bench = made.task(), Bench(made)
    state = made.method.init(task)
    plain = job("local")
    for a, b in zip(uploads(made, state), uploads(plain, plain.method.init(task)), strict=True):
        assert torch.equal(a.w, b.own["private"])
    state = aggregated(made, uploads(made, state))
    u = mix(made.method.attention(state.client["w"], task), state.client["w"])  # type: ignore[attr-defined]  # FedAMPFamily
    expected = bench.trainer.at(1, 2).sgd(state.client["w"][2], bench.client(2).train, pull=(u[2], 2.0))
    assert torch.equal(uploads(made, state, round=1)[2].w, expected)


def test_clients_without_a_model_are_nobodys_peers() -> None:
    made = job("fedamp")
    w = cohort(2)
    state = aggregated(made, made_up(made, w, pulled=torch.zeros(2, dtype=torch.float64)))
    xi = state.server["xi"]
    assert torch.equal(xi[2:], torch.eye(4, dtype=torch.float64)[2:])
    assert torch.equal(xi[:2, 2:], torch.zeros(2, 2, dtype=torch.float64))
    assert torch.equal(models(made, state)[2:], TASK.w0.expand(2, -1))


def test_the_map_is_the_pull_alone() -> None:
    made = job("fedamp", {"prox": 0.5})
    done = play(made)[-1]
    s = 1 - 0.95 ** torch.tensor([3, 5, 2, 4], dtype=torch.float64)  # steps: ceil(n / 5); eta prox = 0.05
    expected = torch.diag(1 - s) + s[:, None] * done.state.server["xi"]
    assert done.map is not None
    assert done.map.kind == "pull"
    torch.testing.assert_close(done.map.whole(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 1000])
def test_the_median_is_the_usual_one(count: int) -> None:
    values = random(count)
    assert torch.equal(median(values), values.quantile(0.5))


def test_more_clients_than_torch_has_a_quantile_for() -> None:
    method = methods.create("fedamp", {})
    assert isinstance(method, FedAMP)
    rows = random(4100, 3)
    xi = method.attention(rows, job("fedamp").task())
    torch.testing.assert_close(xi.sum(1), torch.ones(4100, dtype=torch.float64))
