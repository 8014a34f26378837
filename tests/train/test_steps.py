"""The fast steps against autograd, and a stack against its clients one by one."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import random

from fltk.config import TrainConfig
from fltk.errors import UsageError
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.partition.federation import Split
from fltk.train.backend import Answer, Backend, Request, chosen
from fltk.train.order import SgdJob
from fltk.train.streams import Streams
from fltk.train.trainer import Overrides, Trainer

SHAPES = {"mlp": (1, 8, 8), "cnn": (1, 16, 16), "lenet5": (1, 16, 16), "resnet8": (1, 8, 8), "cnn1d": (3, 64)}
CLASSES = 5
SIZES = (23, 7, 40, 5, 12)  # short last batches, and one client with less than a batch
RULES: tuple[dict[str, Any], ...] = (
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.01},
    {"momentum": 0.5, "weight_decay": 0.01},
)


def backend_for(name: str, step: str = "auto", hidden: tuple[int, ...] = (12,)) -> Backend:
    model = zoo.make(name, SHAPES[name], CLASSES, hidden)
    return Backend(model, Layout.of(model), step)


def start_for(backend: Backend, name: str, hidden: tuple[int, ...] = (12,)) -> Tensor:
    return zoo.initial(zoo.make(name, SHAPES[name], CLASSES, hidden), backend.layout, torch.Generator().manual_seed(0))


def data_for(name: str, n: int, seed: int = 0) -> Split:
    return Split(random(n, *SHAPES[name], seed=seed), torch.arange(n) % CLASSES)


def trainer_at(backend: Backend, client: int = 0, asked: list[SgdJob] | None = None, **train: Any) -> Trainer:
    def noted(request: Request) -> Answer:
        if asked is not None and isinstance(request, SgdJob):
            asked.append(request)
        return backend.answer([request])[0]

    config = TrainConfig(**{"batch_size": 10, "lr": 0.05, **train})
    return Trainer(lambda _: backend, config, Streams(3), noted).at(1, client)


@pytest.mark.parametrize("step", ["fast", "vmap"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_other_steps_are_autograds(name: str, rule: dict[str, Any], step: str) -> None:
    fast, slow = (trainer_at(backend_for(name, step), **rule) for step in (step, "autograd"))
    w = start_for(fast.backend, name)
    u, drift = w + 0.1 * random(len(w), seed=1), 0.05 * random(fast.layout.trainable, seed=2)
    for only, pull, d in product(("all", "base", "head", "top:2"), (None, (u, 0.3)), (None, drift)):
        got, expected = (t.sgd(w, data_for(name, 23), epochs=2, only=only, pull=pull, drift=d) for t in (fast, slow))
        torch.testing.assert_close(got, expected, rtol=0, atol=5e-6)
        assert fast.losses[-1] == pytest.approx(slow.losses[-1], rel=1e-5)
        assert not torch.equal(got, w)


def test_climbing_is_the_same_in_both() -> None:
    fast, slow = (trainer_at(backend_for("mlp", step), weight_decay=0.01) for step in ("auto", "autograd"))
    w, data = start_for(fast.backend, "mlp"), data_for("mlp", 23)
    up = Overrides(ascend=True, lr=0.01, momentum=0.5)
    got, expected = (t.under(up).sgd(w, data, pull=(w + 0.1, 0.2)) for t in (fast, slow))
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-6)
    assert trainer_at(fast.backend).score(got, data).loss > trainer_at(fast.backend).score(w, data).loss


@given(
    sizes=st.lists(st.integers(1, 45), min_size=2, max_size=18),
    hidden=st.sampled_from([(), (12,), (100,), (33, 7)]),
    rule=st.sampled_from(RULES),
    terms=st.booleans(),
    only=st.sampled_from(["all", "base", "head"]),
    epochs=st.sampled_from([1, 2, 5]),
)
@settings(max_examples=40, deadline=None)
def test_neighbours_in_a_stack_change_no_bit(
    sizes: list[int], hidden: tuple[int, ...], rule: dict[str, Any], terms: bool, only: str, epochs: int
) -> None:
    """Clients of all sizes, in one call and one by one."""
    backend = backend_for("mlp", hidden=hidden)
    start = start_for(backend, "mlp", hidden)
    if not backend.layout.width(only):
        return
    orders: list[SgdJob] = []
    alone = []
    for k, n in enumerate(sizes):
        w, u = start + 0.01 * random(len(start), seed=k), start + 0.1 * random(len(start), seed=k + 100)
        more: dict[str, Any] = {"pull": (u, 0.3), "drift": 0.1 * u} if terms else {}
        trainer = trainer_at(backend, k, orders, **rule)
        alone.append((trainer.sgd(w, data_for("mlp", n, k), epochs=epochs, only=only, **more), trainer))
    for (w, trainer), order, one in zip(alone, orders, backend.play(orders), strict=True):
        assert torch.equal(one.w, w)
        assert one.loss / order.batches.steps == trainer.losses[-1]


@pytest.mark.parametrize("hidden", [(12,), (20,)], ids=["stack", "dual"])
def test_orders_that_differ_are_played_together_and_told_in_order(hidden: tuple[int, ...]) -> None:
    backend = backend_for("mlp", hidden=hidden)
    w, orders = start_for(backend, "mlp", hidden), list[SgdJob]()
    alone = []
    for k, (n, only, lr, drift) in enumerate(product((23, 70), ("all", "head"), (0.05, 0.1), (None, 0.1 * w))):
        alone.append(trainer_at(backend, k, orders).sgd(w, data_for("mlp", n, k), only=only, lr=lr, drift=drift))
    for one, expected in zip(backend.play(orders), alone, strict=True):
        assert torch.equal(one.w, expected)


@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_many_models_under_vmap_are_those_one_by_one(name: str) -> None:
    backend, asked = backend_for(name, "vmap"), list[SgdJob]()
    start = start_for(backend, name)
    alone = []
    for k, n in enumerate(SIZES):
        w = start + 0.01 * random(len(start), seed=k)
        alone.append(trainer_at(backend, k, asked, momentum=0.5).sgd(w, data_for(name, n, k), pull=(start, 0.1)))
    for one, expected in zip(backend.play(asked), alone, strict=True):
        torch.testing.assert_close(one.w, expected, rtol=0, atol=5e-6)


def test_what_a_step_is_can_be_forced() -> None:
    assert backend_for("mlp", "autograd").together == 1
    assert backend_for("mlp", "fast").together > 1
    layout = backend_for("mlp").layout
    assert [chosen("auto", layout, device) for device in ("cpu", "cuda")] == ["fast", "vmap"]


def test_a_step_that_cannot_be_is_told() -> None:
    model = zoo.make("resnet8-bn", (1, 8, 8), CLASSES)
    layout = Layout.of(model)
    with pytest.raises(UsageError, match="--step vmap takes models without running statistics"):
        Backend(model, layout, "vmap")
    with pytest.raises(UsageError, match="--step fast is for the CPU, not for --device cuda"):
        chosen("fast", layout, "cuda")
    assert chosen("auto", layout, "cuda") == "autograd"
