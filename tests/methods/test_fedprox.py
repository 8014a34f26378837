"""fedprox: FedAvg with a pull towards the received model."""

from __future__ import annotations

import torch
from torch import Tensor
from toys import SIZES, federation, final, job, random

from fltk.engine.base import Bench
from fltk.train.losses import Batch, Given, Loss, Net
from fltk.train.trainer import Trainer


def toward(target: Tensor, trainer: Trainer, strength: float = 1.0) -> Loss:
    """strength/2 ||w - target||^2 as the client's loss."""

    def loss(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
        return (0.5 * strength * (w - target).square().sum()).expand(len(batch.x))

    return loss


def test_without_pull_it_is_fedavg_bit_for_bit() -> None:
    assert torch.equal(final("fedprox", {"mu": 0}, rounds=3), final("fedavg", rounds=3))


def test_the_first_local_step_feels_no_pull() -> None:
    for settings in ({"steps": 1}, {"batch_size": 1000}):
        assert torch.equal(final("fedprox", {"mu": 5}, rounds=3, **settings), final("fedavg", rounds=3, **settings))


def test_the_pull_shortens_the_way() -> None:
    made = job("fedavg")
    w0 = made.task().w0
    far = [float((final("fedprox", {"mu": mu}, rounds=1)[0] - w0).norm()) for mu in (0, 0.1, 1, 5)]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 0.9 * far[0]


def test_a_quadratic_loss_ends_between_its_minimum_and_the_global_model() -> None:
    """argmin 1/2 ||w - c||^2 + mu/2 ||w - theta||^2 = (c + mu theta) / (1 + mu)."""
    bench = Bench(job("fedprox", lr=0.2))
    size, mu = bench.trainer.layout.size, 0.7
    theta, c = random(size, seed=1), random(size, seed=2)
    data = bench.client(0).train
    got = bench.trainer.at(0, 0).sgd(theta, data, epochs=40, pull=(theta, mu), loss=toward(c, bench.trainer))
    torch.testing.assert_close(got, (c + mu * theta) / (1 + mu), rtol=0, atol=1e-5)


def test_a_constant_loss_stays_at_the_global_model_exactly() -> None:
    bench = Bench(job("fedprox"))
    theta = random(bench.trainer.layout.size)
    got = bench.trainer.at(0, 0).sgd(
        theta, bench.client(0).train, pull=(theta, 3.0), loss=toward(theta, bench.trainer, 0.0)
    )
    assert torch.equal(got, theta)


def test_running_statistics_are_not_pulled() -> None:
    made = job("fedprox", {"mu": 2.0}, data=federation(SIZES, (1, 8, 8)), model="resnet8-bn", steps=1)
    bench = Bench(made)
    w0, data = made.task().w0, bench.client(0).train
    pulled = bench.trainer.at(0, 0).sgd(w0, data, pull=(w0 + 1, 2.0))
    free = bench.trainer.at(0, 0).sgd(w0, data)
    k = bench.trainer.layout.trainable
    assert torch.equal(pulled[k:], free[k:])
    assert not torch.equal(pulled[:k], free[:k])
