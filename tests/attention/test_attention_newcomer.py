"""A newcomer's row of attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from toys import random

from fltk.attention import Options, weigh
from fltk.attention.newcomer import STRIDE, Others, fitted, mean_row, newcomer_row, shares, spread
from fltk.attention.tokens import similarity

D, K = 80, 7
N = torch.tensor([3.0, 9, 4, 4, 8, 2, 6])
EVERYBODY = torch.ones(K, dtype=torch.bool)


def table(newcomer: Tensor, seed: int = 0) -> Tensor:
    """Similarities of seven clients in two groups and of a newcomer, who comes last."""
    a, b = random(1, D, seed=seed), random(1, D, seed=seed + 1)
    rows = torch.cat([a.expand(4, -1), b.expand(3, -1)]) + 0.6 * random(K, D, seed=seed + 2)
    return similarity(torch.cat([rows, newcomer[None]]), torch.zeros(D))


def member(seed: int = 0) -> Tensor:
    return random(1, D, seed=seed)[0] + 0.6 * random(D, seed=50)


def test_a_row_is_that_of_the_map_without_the_own_entry() -> None:
    s, trust = table(member()), -torch.arange(K).double() / 9
    got = newcomer_row(s, Others(N, EVERYBODY, trust), Options(tau=0.3, gamma=0.7))
    keys = torch.tensor([True] * K + [False])
    a = weigh(
        s,
        Options(tau=0.3, gamma=0.7),
        samples=torch.cat([N, torch.ones(1)]),
        keys=keys,
        trust=torch.cat([trust, torch.zeros(1, dtype=torch.float64)]),
    ).map[-1, :-1]
    torch.testing.assert_close(got.weights, a / a.sum())
    assert float(got.weights[:4].sum()) > 0.95
    assert not got.lone


def test_a_twin_has_gap_zero() -> None:
    s = table(member())
    s[K, :K], s[:K, K] = s[2, :K], s[:K, 2]
    got = newcomer_row(s, Others(N, EVERYBODY), Options())
    assert got.ceiling == 1
    torch.testing.assert_close(torch.tensor(got.ceiling), s[K, 2].float())
    assert int((got.weights / N).argmax()) == 2


def test_only_those_with_a_fresh_token_are_attended_to() -> None:
    keys = torch.tensor([False, True, True, False, True, True, True])
    got = newcomer_row(table(member()), Others(N, keys), Options())
    assert not got.weights[~keys].any()
    torch.testing.assert_close(got.weights.sum(), torch.ones((), dtype=torch.float64))


def test_a_lone_newcomer_takes_the_mean() -> None:
    others = Others(N, EVERYBODY)
    s = table(3 * random(D, seed=77))
    got = newcomer_row(s, others, Options())
    assert got.lone
    torch.testing.assert_close(got.weights, (N / N.sum()).double())
    assert torch.equal(got.weights, mean_row(others))
    assert not newcomer_row(s, others, Options(lone=0)).lone


def test_nobody_to_attend_to_gives_no_weights() -> None:
    others = Others(N, ~EVERYBODY)
    assert not mean_row(others).any()
    assert not newcomer_row(table(member()), others, Options()).weights.any()


def test_one_other_client_gets_everything() -> None:
    s = similarity(random(2, D), torch.zeros(D))
    assert newcomer_row(s, Others(torch.ones(1), torch.ones(1, dtype=torch.bool)), Options()).weights.tolist() == [1]


def test_shares_go_through_the_map_of_the_others() -> None:
    """sum_j A_*j u_j with u = A theta is (A_* A) theta; a lone part takes the mean of the models themselves."""
    a = torch.softmax(random(2, K, K).double(), 2)
    near, far = table(member()), table(3 * random(D, seed=77))
    others = Others(N, EVERYBODY)
    rows, lone = shares([near, far], a, others, [Options(), Options()])
    assert lone == [1]
    torch.testing.assert_close(rows[0], newcomer_row(near, others, Options()).weights @ a[0])
    torch.testing.assert_close(rows[1], (N / N.sum()).double())


def quadratic(target: Tensor, models: Tensor) -> tuple[Callable[[Tensor], float], Callable[[Tensor], Tensor]]:
    """The loss |u - target|^2 / 2 of one mixture, and its slopes along every model."""
    return (
        lambda rows: float((rows[0] @ models - target).square().sum() / 2),
        lambda rows: ((rows[0] @ models - target) @ models.t())[None],
    )


def test_a_fitted_row_finds_whom_the_loss_asks_for() -> None:
    models = random(K, D, seed=3).double()
    wanted = torch.tensor([0.0, 0.7, 0, 0, 0.3, 0, 0], dtype=torch.float64)
    start = torch.full((1, K), 1 / K, dtype=torch.float64)
    got = fitted(start, *quadratic(wanted @ models, models), 200).rows
    torch.testing.assert_close(got[0], wanted, rtol=0, atol=0.02)
    torch.testing.assert_close(got.sum(1), torch.ones(1, dtype=torch.float64))


def test_the_loss_of_a_fitted_row_never_rises_and_who_had_no_weight_gets_none() -> None:
    models = random(K, D, seed=4).double()
    loss, slope = quadratic(models[2] * 2, models)  # the best one may not be attended to
    rows = torch.tensor([[0.2, 0.3, 0, 0.1, 0.2, 0.1, 0.1]], dtype=torch.float64)
    path = [loss(fitted(rows, loss, slope, steps).rows) for steps in range(12)]
    assert path == sorted(path, reverse=True)
    assert path[-1] < path[0]
    assert fitted(rows, loss, slope, 12).rows[0, 2] == 0
    assert torch.equal(fitted(rows, loss, slope, 0).rows, rows)


def test_a_step_is_that_of_the_equation_and_is_halved_where_the_loss_would_rise() -> None:
    rows, d = torch.full((2, 3), 1 / 3, dtype=torch.float64), random(2, 3, seed=5).double()
    falling = iter([3.0, 2.0])
    got = fitted(rows, lambda _: next(falling), lambda _: d, 1)
    beta = STRIDE / float((d.amax(1) - d.amin(1)).max())
    torch.testing.assert_close(got.rows, torch.softmax(rows.log() - beta * d, 1))
    bumpy = iter([3.0, 3.5, 2.5])
    got = fitted(rows, lambda _: next(bumpy), lambda _: d, 2)
    torch.testing.assert_close(got.rows, torch.softmax(rows.log() - beta / 2 * d, 1))
    assert got.slopes == 1


def test_a_constant_in_the_slopes_of_a_row_changes_nothing() -> None:
    models = random(K, D, seed=6).double()
    loss, slope = quadratic(models[1], models)
    start = torch.full((1, K), 1 / K, dtype=torch.float64)
    shifted = fitted(start, loss, lambda rows: slope(rows) + 7, 5).rows
    torch.testing.assert_close(shifted, fitted(start, loss, slope, 5).rows)


def test_the_scale_of_the_loss_does_not_matter_nor_do_slopes_of_those_who_are_out() -> None:
    models = random(K, D, seed=7).double()
    loss, slope = quadratic(models[1], models)
    start = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.1, 0, 0]], dtype=torch.float64)
    scaled = fitted(start, lambda rows: 100 * loss(rows), lambda rows: 100 * slope(rows), 6).rows
    torch.testing.assert_close(scaled, fitted(start, loss, slope, 6).rows)
    assert spread(torch.tensor([[1.0, 4, 99], [3, 3, -9]]), torch.tensor([[True, True, False]] * 2)) == 3
