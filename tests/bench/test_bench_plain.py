"""The plain loop does the work that fltk does: the same weights, so the same data, batches, steps and averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import toys

from fltk import methods, partition
from fltk.bench.data import enlarged
from fltk.bench.plain import PlainLoop
from fltk.bench.training import in_turns
from fltk.bench.workloads import CLIENTS, WORKLOADS, Training
from fltk.engine.base import Job
from fltk.engine.serial import Serial
from fltk.partition.federation import build
from fltk.rounds import loop

TOLERANCE = 5e-6


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
    torch.testing.assert_close(plain.weights(), job.task().w0, rtol=0, atol=0)
    for _ in range(1 if job.train.model != "mlp" else 2):
        state = next(played).state
        plain.round()
        ours = job.method.global_model(state, job.task())
        assert ours is not None
        assert not torch.equal(plain.weights(), job.task().w0)
        torch.testing.assert_close(plain.weights(), ours, rtol=0, atol=TOLERANCE)


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
