"""perfedavg: both variants as loops, and FedAvg where the inner rate is zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_pfedme import slope
from torch import Tensor, nn
from torch.autograd.functional import hvp, jacobian
from toys import final, job, models, play, uploads

from fltk.engine.base import Bench
from fltk.errors import UsageError
from fltk.partition.federation import Split

SAMPLES = 23  # of client 1: five batches, the last one short


def step(w: Tensor, batches: list[Split], variant: str, alpha: float, beta: float, delta: float) -> Tensor:
    g = slope(w - alpha * slope(w, batches[0]), batches[1])
    if variant == "fo":
        return w - beta * g
    h = (slope(w + delta * g, batches[2]) - slope(w - delta * g, batches[2])) / (2 * delta)
    return w - beta * (g - alpha * h)


@pytest.mark.parametrize(("variant", "each", "steps"), [("fo", 2, 2), ("hf", 3, 1)])
def test_a_round_as_loops(variant: str, each: int, steps: int) -> None:
    made = job("perfedavg", {"variant": variant, "alpha": 0.05, "delta": 0.01}, lr=0.1)
    state, bench = play(made)[-1].state, Bench(made)
    sent = uploads(made, state, ids=(1,), round=2)[0]
    w, data = state.server["w"], bench.client(1).train
    assert len(data) == SAMPLES
    batches = bench.trainer.at(2, 1).batches(data, each * steps)
    for k in range(steps):
        w = step(w, batches[k * each : (k + 1) * each], variant, 0.05, 0.1, 0.01)
    torch.testing.assert_close(sent.w, w, rtol=0, atol=2e-6)


def test_a_client_of_one_batch_takes_a_step_all_the_same() -> None:
    made = job("perfedavg", {"variant": "hf"}, batch_size=50)
    sent = uploads(made, made.method.init(made.task()))
    assert all(not torch.equal(u.w, made.task().w0) for u in sent)


def test_an_inner_rate_of_zero_is_fedavg_on_the_second_batches_bit_for_bit() -> None:
    made = job("perfedavg", {"alpha": 0, "beta": 0.07})
    state, bench = made.method.init(made.task()), Bench(made)
    for u in uploads(made, state):
        trainer, data, w = bench.trainer.at(0, u.client), bench.client(u.client).train, made.task().w0
        for batch in trainer.batches(data, 2 * max(1, trainer.steps(len(data)) // 2))[1::2]:
            w = trainer.sgd(w, batch, epochs=1, lr=0.07)
        assert torch.equal(u.w, w)


def test_the_finite_difference_is_the_second_order_term() -> None:
    """Against the exact product with the Hessian, for softmax regression, which has no kinks."""
    alpha, beta = 0.5, 0.1
    made = job("perfedavg", {"variant": "hf", "alpha": alpha, "delta": 2e-3}, hidden="", lr=beta)
    state, bench = play(made)[-1].state, Bench(made)
    sent = uploads(made, state, ids=(1,), round=2)[0]
    batches = bench.trainer.at(2, 1).batches(bench.client(1).train, 3)

    def loss(batch: Split) -> Callable[[Tensor], Tensor]:
        x, y = batch.x.flatten(1).double(), batch.y
        return lambda w: nn.functional.cross_entropy(x @ w[:64].view(4, 16).t() + w[64:], y)

    w = state.server["w"].double()
    inner = w - alpha * jacobian(loss(batches[0]), w)
    g = jacobian(loss(batches[1]), inner)
    second = alpha * hvp(loss(batches[2]), w, g)[1]
    torch.testing.assert_close(sent.w.double(), w - beta * (g - second), rtol=0, atol=2e-5)
    assert float((beta * second).abs().max()) > 1e-3


def test_clients_use_the_model_after_their_own_steps() -> None:
    """On training data, and nothing of it comes back."""
    runs = [play(job("perfedavg", {"adapt_steps": k, "alpha": 0.1}, eval_every=1)) for k in (0, 1, 2)]
    assert len({r[-1].digest for r in runs}) == 1
    assert len({r[-1].scalars["personal_val_loss"] for r in runs}) == 3
    made = job("perfedavg", {"adapt_steps": 2, "alpha": 0.1})
    bench, w = Bench(made), models(made, play(made)[-1].state)[1]
    trainer, client = bench.trainer.at(2, 1), bench.client(1)
    expected = w
    for batch in trainer.batches(client.train, 2):
        expected = expected - 0.1 * slope(expected, batch)
    torch.testing.assert_close(made.method.personalise(w, client, trainer), expected, rtol=0, atol=1e-6)


def test_momentum_is_refused() -> None:
    with pytest.raises(UsageError, match="--momentum"):
        final("perfedavg", momentum=0.5)
