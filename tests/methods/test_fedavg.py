"""fedavg: weights by samples, exact means, and one step of gradient descent as the simplest case."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from toys import SIZES, aggregated, federation, job, made_up, models, play, random, uploads


def test_the_mean_is_weighted_by_samples_of_the_participants() -> None:
    made = job("fedavg")
    sent = uploads(made, made.method.init(made.task()), ids=(0, 1, 3))
    n = torch.tensor([SIZES[0], SIZES[1], SIZES[3]], dtype=torch.float64)
    expected = sum(float(k / n.sum()) * u.w.double() for k, u in zip(n, sent, strict=True))
    got = aggregated(made, sent).server["w"]
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-7)


def test_uniform_weights_are_an_option() -> None:
    made = job("fedavg", agg_weights="uniform")
    sent = uploads(made, made.method.init(made.task()))
    expected = torch.stack([u.w.double() for u in sent]).mean(0)
    torch.testing.assert_close(aggregated(made, sent).server["w"].double(), expected, rtol=0, atol=1e-7)


def test_one_participant_is_the_new_global_model_bit_for_bit() -> None:
    made = job("fedavg")
    sent = uploads(made, made.method.init(made.task()), ids=(2,))
    assert torch.equal(aggregated(made, sent).server["w"], sent[0].w)


def test_identical_uploads_are_the_new_global_model_bit_for_bit() -> None:
    made = job("fedavg")
    w = random(made.task().layout.size)
    sent = made_up(made, w.expand(len(SIZES), -1))
    for n in (SIZES, (1, 1, 1), (3, 1000, 7, 11)):
        told = torch.tensor(n)
        assert torch.equal(aggregated(made, sent[: len(n)], n=told).server["w"], w)


def test_one_full_batch_each_is_one_step_of_gradient_descent_on_all_data() -> None:
    made = job("fedavg", rounds=1, batch_size=1000, lr=0.3)
    task, data = made.task(), federation(groups=(0, 1, 0, 1))
    x = torch.cat([c.train.x for c in data.clients])
    y = torch.cat([c.train.y for c in data.clients])
    model = made.network().to_empty(device="cpu")
    parameters = task.layout.bind(model, task.w0.clone())
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
    flat = torch.cat([e.flatten(g) for e, g in zip(task.layout.entries, gradient, strict=True)])
    done = play(made)[-1].state
    torch.testing.assert_close(done.server["w"], task.w0 - 0.3 * flat, rtol=0, atol=1e-6)


def test_everybody_uses_the_global_model() -> None:
    made = job("fedavg")
    done = play(made)[-1].state
    w = made.method.global_model(done, made.task())
    assert w is not None
    assert torch.equal(models(made, done), w.expand(len(SIZES), -1))
