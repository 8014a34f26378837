"""pfedme: the two coupled updates, as loops, and where they are known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toys import SIZES, final, job, models, play, rows, uploads

from fltk.engine.base import Bench
from fltk.errors import UsageError
from fltk.partition.federation import Split


def slope(w: Tensor, batch: Split, hidden: int = 6) -> Tensor:
    """Gradient of the mean cross-entropy of the toys' perceptron, by autograd: weights and biases in order."""
    w = w.clone().requires_grad_()
    cuts = torch.split(w, [16 * hidden, hidden, hidden * 4, 4])
    h = torch.relu(batch.x.flatten(1) @ cuts[0].view(hidden, 16).t() + cuts[1])
    loss = nn.functional.cross_entropy(h @ cuts[2].view(4, hidden).t() + cuts[3], batch.y)
    return torch.autograd.grad(loss, w)[0]


@pytest.mark.parametrize("lam", [3.0, 15.0])
@pytest.mark.parametrize("step", ["fast", "autograd"])
def test_a_round_as_loops(step: str, lam: float) -> None:
    """Also where eta lam is larger than 1."""
    eta, own = 0.1, 0.05
    made = job("pfedme", {"lam": lam, "personal_lr": own, "inner_steps": 3}, lr=eta, step=step)
    state, bench = play(made)[-1].state, Bench(made)
    sent = uploads(made, state, ids=(1,), round=2)[0]
    w = theta = state.server["w"]
    batches = bench.trainer.at(2, 1).batches(bench.client(1).train)
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3]
    for batch in batches:
        for _ in range(3):
            theta = theta - own * (slope(theta, batch) + lam * (theta - w))
        w = w - eta * lam * (w - theta)
    torch.testing.assert_close(sent.w, w, rtol=0, atol=1e-6)
    torch.testing.assert_close(sent.own["theta"], theta, rtol=0, atol=1e-6)


def test_without_inner_steps_nothing_moves() -> None:
    made = job("pfedme", {"inner_steps": 0}, rounds=3)
    state = play(made)[-1].state
    torch.testing.assert_close(state.server["w"], made.task().w0, rtol=0, atol=1e-7)


def test_a_server_step_of_zero_keeps_the_global_model() -> None:
    made = job("pfedme", {"beta": 0}, rounds=3)
    state = play(made)[-1].state
    assert torch.equal(state.server["w"], made.task().w0)
    assert not torch.equal(models(made, state), made.task().w0.expand(len(SIZES), -1))


def test_a_local_step_of_one_ends_at_the_personal_model() -> None:
    """eta lam = 1: w_i = theta_i behind every batch."""
    made = job("pfedme", {"lam": 10.0, "personal_lr": 0.05}, lr=0.1)
    sent = uploads(made, made.method.init(made.task()))
    for own, w in zip((u.own["theta"] for u in sent), rows(made, sent), strict=True):
        assert torch.equal(own, w)


def test_one_inner_and_one_outer_step_are_one_step_of_their_product() -> None:
    """R = K = 1: w_i = w - eta eta_p lam g."""
    made = job("pfedme", {"lam": 2.0, "personal_lr": 0.05, "inner_steps": 1}, lr=0.1, steps=1)
    state, bench = made.method.init(made.task()), Bench(made)
    for u in uploads(made, state):
        batch = bench.trainer.at(0, u.client).batches(bench.client(u.client).train)[0]
        w = made.task().w0
        torch.testing.assert_close(u.w, w - 0.1 * 0.05 * 2.0 * slope(w, batch), rtol=0, atol=1e-7)


def test_the_global_model_is_the_mean_of_local_ones_by_the_server_step() -> None:
    full, half = (job("pfedme", {"beta": beta}, rounds=1) for beta in (1.0, 0.5))
    w0, a, b = full.task().w0, play(full)[-1].state.server["w"], play(half)[-1].state.server["w"]
    torch.testing.assert_close(b, (w0 + a) / 2, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("params", "train", "said"),
    [
        ({"lam": 30, "personal_lr": 0.09}, {}, "keep personal_lr times lam below 2"),
        ({}, {"momentum": 0.9}, "--momentum"),
        ({}, {"weight_decay": 0.1}, "--weight-decay"),
    ],
)
def test_what_it_cannot_do_is_refused(params: dict[str, float], train: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        final("pfedme", params, **train)
