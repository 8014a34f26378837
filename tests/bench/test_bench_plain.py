"""The plain loop does the work that fltk does: the same weights, so the same data, batches, steps and averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import toys
from torch import Tensor

from fltk import methods, partition
from fltk.bench.data import enlarged
from fltk.bench.plain import PlainLoop
from fltk.bench.training import in_turns
from fltk.bench.workloads import CLIENTS, WORKLOADS, Training
from fltk.engine.base import Job
from fltk.engine.serial import Serial
from fltk.partition.federation import build
from fltk.rounds import loop


def deviation(ours: Tensor, plain: Tensor, start: Tensor) -> float:
    """How far two models (P,) lie from each other, as a share of the way that training took them from `start`."""
    return float((ours - plain).norm() / (ours - start).norm())


def one_sample(job: Job) -> float:
    """The share of one training sample in a round: it enters one of the steps, and there one place of the batch.

    The two loops add up the same terms in other orders, so their sums differ by rounding, and by CPU. Where rounding
    decides on which side of a kink (ReLU, max-pooling) a unit falls, the gradient of that unit for that sample is there
    in one loop only. Either is less than the whole gradient of one sample; a lost sample, or another batch, is more.
    """
    return 1 / (job.train.epochs * sum(len(client.train) for client in job.federation.clients))


def reduced(name: str, clients: int, **train: float) -> Job:
    """A training workload on a few of its clients."""
    workload = WORKLOADS[name]
    assert isinstance(workload, Training)
    config = workload.partition
    few = replace(config, dataset="digits", clients=clients, subset=clients * config.subset // config.clients)
    dataset = enlarged(few.subset)
    settings = replace(workload.train, rounds=9, eval_every=9, **train)
    return Job(build(dataset, partition.make(dataset, few)), settings, methods.create("fedavg", {}), 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: reduced("w1-mlp", 3),
        lambda: reduced("w1-cnn", 2),
        lambda: reduced("w2", 3),
        lambda: reduced("w3", 2),
        lambda: toys.job("fedavg", model="mlp", epochs=2.0, momentum=0.5, weight_decay=0.01),
    ],
    ids=["mlp", "cnn", "uneven", "resnet8", "epochs and momentum"],
)
def test_weights_equal_fltks_after_every_round(make: Callable[[], Job]) -> None:
    job = make()
    plain, played = PlainLoop(job), loop.rounds(job, Serial(job))
    start = job.task().w0
    torch.testing.assert_close(plain.weights(), start, rtol=0, atol=0)
    for _ in range(1 if job.train.model != "mlp" else 2):
        state = next(played).state
        plain.round()
        ours = job.method.global_model(state, job.task())
        assert ours is not None
        assert not torch.equal(plain.weights(), start)
        assert deviation(ours, plain.weights(), start) < one_sample(job)


def test_the_tolerance_notices_a_single_wrong_label() -> None:
    job = reduced("w1-mlp", 3)
    right, wrong = PlainLoop(job), PlainLoop(job)
    right.round()

    labels = job.federation.clients[0].train.y
    labels[0] = (labels[0] + 1) % job.federation.n_classes
    wrong.round()

    start = job.task().w0
    assert deviation(right.weights(), wrong.weights(), start) > one_sample(job)


def test_the_plain_loop_leaves_the_global_random_state_alone() -> None:
    loop, before = PlainLoop(toys.job("fedavg")), torch.random.get_rng_state()
    loop.round()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_clients_of_the_workloads_hold_what_their_names_say() -> None:
    assert {len(c.train) for c in reduced("w1-mlp", 3).federation.clients} == {100}
    assert {len(c.train) for c in reduced("w3", 3).federation.clients} == {50}
    assert {len(c.train) for c in reduced("clients-100", 5).federation.clients} == {5}
    assert len({len(c.train) for c in reduced("w2", 5).federation.clients}) == 5
    assert all(isinstance(w, Training) and w.partition.clients == int(n.split("-")[1]) for n, w in CLIENTS.items())


def test_the_embedded_digits_stand_in_for_mnist_by_shape_and_number() -> None:
    data = enlarged(4000)
    assert (data.shape, len(data), data.n_classes) == ((1, 28, 28), 4000, 10)
    assert (
        data.name == "digits"
        and (data.x[:203] == data.x[1797:2000]).all()
        and (data.y[:203] == data.y[1797:2000]).all()
    )


def test_turns_are_interleaved_and_the_first_round_is_left_out() -> None:
    order: list[str] = []
    steps = [lambda: order.append("a"), lambda: order.append("b")]
    found = in_turns(steps, 4, spell=0)
    assert "".join(order) == "ab" + "aaabbb" + "ab"
    assert [len(seconds) for seconds in found] == [4, 4]
    order.clear()
    found = in_turns(steps, 4, spell=1e9)  # turns of ten rounds instead of three
    assert "".join(order) == "ab" + 10 * "a" + 10 * "b" + 4 * "a" + 4 * "b"
    assert [len(seconds) for seconds in found] == [14, 14]
