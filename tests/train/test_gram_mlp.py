"""The dual form of a first layer against autograd, where the stack's tests do not go: many steps, kept products."""

from __future__ import annotations

import gc
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import random

from fltk.config import TrainConfig
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.partition.federation import Split
from fltk.train.backend import Backend
from fltk.train.fast import gram_mlp
from fltk.train.fast.stack import perceptron
from fltk.train.order import Batches, SgdJob, SgdRule
from fltk.train.streams import Streams
from fltk.train.trainer import Trainer

SHAPE, CLASSES, HIDDEN = (1, 8, 8), 5, (20, 9)
RULES: tuple[dict[str, Any], ...] = (
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.05},
    {"momentum": 0.5, "weight_decay": 0.05},
)


def trainer_for(step: str = "auto", hidden: tuple[int, ...] = HIDDEN, **train: Any) -> tuple[Trainer, Tensor]:
    model = zoo.make("mlp", SHAPE, CLASSES, hidden)
    layout = Layout.of(model)
    start = zoo.initial(zoo.make("mlp", SHAPE, CLASSES, hidden), layout, torch.Generator().manual_seed(0))
    config = TrainConfig(**{"batch_size": 10, "lr": 0.02, **train})
    backend = Backend(model, layout, step)
    return Trainer(lambda _: backend, config, Streams(3)).at(1, 0), start


def data_for(n: int, seed: int = 0) -> Split:
    return Split(random(n, *SHAPE, seed=seed), torch.arange(n) % CLASSES)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("n", [60, 33])
def test_many_blocks_of_steps_are_autograds(rule: dict[str, Any], n: int) -> None:
    """Six epochs: three blocks and more, with batches that are short, and samples that come again in a block."""
    (fast, w), (slow, _) = (trainer_for(step, **rule) for step in ("auto", "autograd"))
    u, drift = w + 0.1 * random(len(w), seed=1), 0.05 * random(len(w), seed=2)
    for only, pull, d in product(("all", "base"), (None, (u, 0.3), (w, 0.3)), (None, drift)):
        got, expected = (t.sgd(w, data_for(n), epochs=6, only=only, pull=pull, drift=d) for t in (fast, slow))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        assert fast.losses[-1] == pytest.approx(slow.losses[-1], rel=1e-5)


def test_who_is_at_the_target_stays_there() -> None:
    """Samples of zeros move the biases alone."""
    trainer, w = trainer_for()
    first = trainer.layout.entries[0]
    data = Split(torch.zeros(30, *SHAPE), torch.arange(30) % CLASSES)
    got = trainer.sgd(w, data, epochs=3, pull=(w.clone(), 0.7))
    assert torch.equal(got[first.start : first.stop], w[first.start : first.stop])
    assert not torch.equal(got, w)


def test_products_that_are_kept_are_those_of_the_samples_as_they_are() -> None:
    (used, w), (fresh, _), data = trainer_for(), trainer_for(), data_for(40)
    again = used.sgd(w, data)
    assert torch.equal(used.sgd(w, data), again)
    data.x.mul_(2.0)
    w += 0.01
    got = used.sgd(w, data)
    assert torch.equal(got, fresh.sgd(w, data))
    assert not torch.equal(got, again)


def test_room_for_products_is_given_back_with_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    products, (x, other) = gram_mlp.Products(), (random(12, 64), random(12, 64, seed=1))
    monkeypatch.setattr(gram_mlp, "KEPT", 4 * 12 * 12)
    kept = products.kernel(x, x)
    torch.testing.assert_close(kept, x @ x.t() + 1)
    assert products.kernel(x, x) is kept
    assert products.kernel(other, other) is not products.kernel(other, other)  # there is no room
    del x
    gc.collect()
    assert products.kernel(other, other) is products.kernel(other, other)


@pytest.mark.parametrize(
    ("n", "hidden", "config", "fits"),
    [
        (60, (20,), {}, True),
        (65, (20,), {}, False),  # more samples than features
        (60, (8,), {}, False),  # a narrow layer
        (60, (), {}, False),  # the only layer
        (60, (20,), {"batch_size": 1}, False),
        (60, (20,), {"steps": 2}, False),  # a few of the samples
    ],
)
def test_whom_it_suits(n: int, hidden: tuple[int, ...], config: dict[str, Any], fits: bool) -> None:
    trainer, w = trainer_for(hidden=hidden, **config)
    net = perceptron(zoo.make("mlp", SHAPE, CLASSES, hidden), trainer.layout)
    assert net is not None
    data, steps = data_for(n), trainer.steps(n)
    batches = Batches.deal(n, steps, trainer.config, torch.Generator())
    order = SgdJob(w, data.x, data.y, batches, SgdRule("all", 0.1, 0.0, 0.0, 0.0, ascend=False))
    assert gram_mlp.suits(net, order) == fits
    if hidden:
        assert not gram_mlp.suits(net.training(trainer.layout, "head"), order)
