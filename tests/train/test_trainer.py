"""Local SGD against the same thing written with plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys import random

from fltk.config import TrainConfig
from fltk.errors import Diverged
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.partition.federation import Split
from fltk.train.backend import Backend
from fltk.train.losses import Batch, Given, Net, cross_entropy
from fltk.train.streams import Streams
from fltk.train.trainer import Trainer

SHAPES = {"mlp": (1, 8, 8), "cnn": (1, 16, 16), "resnet8": (1, 8, 8), "resnet8-bn": (1, 8, 8), "cnn1d": (3, 64)}
CLASSES, SAMPLES = 5, 23
Place = tuple[int, int]


def data_for(name: str, n: int = SAMPLES) -> Split:
    return Split(random(n, *SHAPES[name]), torch.arange(n) % CLASSES)


def trainer_for(name: str = "mlp", seed: int = 3, **train: Any) -> Trainer:
    settings = {"hidden": "12", "batch_size": 5, "lr": 0.1, **train}
    config = TrainConfig(model=name, **settings)
    model = zoo.make(name, SHAPES[name], CLASSES, config.hidden_sizes())
    backend = Backend(model, Layout.of(model), config.step)
    return Trainer(lambda _: backend, config, Streams(seed))


def start_for(trainer: Trainer, name: str = "mlp") -> Tensor:
    model = zoo.make(name, SHAPES[name], CLASSES, trainer.config.hidden_sizes())
    return zoo.initial(model, trainer.layout, torch.Generator().manual_seed(0))


def module_of(name: str, layout: Layout, w: Tensor, hidden: tuple[int, ...]) -> nn.Module:
    """An ordinary module with contiguous weights."""
    model = zoo.make(name, SHAPES[name], CLASSES, hidden).to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked.zero_()
    state = {e.name.lstrip("."): e.view(w).clone(memory_format=torch.contiguous_format) for e in layout.entries}
    model.load_state_dict(state, strict=False)
    return model


def flat_of(model: nn.Module, layout: Layout) -> Tensor:
    state = model.state_dict()
    return torch.cat([e.flatten(state[e.name.lstrip(".")]) for e in layout.entries])


def reference(
    trainer: Trainer, name: str, w: Tensor, data: Split, steps: int, extra: Callable[[dict[str, Tensor]], Tensor] | None
) -> tuple[Tensor, float]:
    """`steps` of torch.optim.SGD over the same batches; `extra` adds to the loss. Returns weights and mean loss."""
    c = trainer.config
    model = module_of(name, trainer.layout, w, c.hidden_sizes()).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=trainer.lr, momentum=c.momentum, weight_decay=c.weight_decay)
    generator = trainer.streams.generator("batches", trainer.round, trainer.client)
    done, total = 0, 0.0
    while done < steps:
        order = torch.randperm(len(data), generator=generator)
        for batch in order.split(c.batch_size):
            if done == steps:
                break
            loss = F.cross_entropy(model(data.x[batch]), data.y[batch])
            total += float(loss.detach())
            if extra is not None:
                loss = loss + extra(dict(model.named_parameters()))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
    return flat_of(model, trainer.layout), total / steps


OPTIONS: list[dict[str, float]] = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.01},
    {"momentum": 0.5, "weight_decay": 0.01},
]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sgd_is_torchs_sgd(name: str, options: dict[str, float]) -> None:
    trainer, data = trainer_for(name, lr=0.05, **options).at(2, 4), data_for(name)
    w = start_for(trainer, name)
    copy = w.clone()
    got = trainer.sgd(w, data, epochs=2)
    expected, loss = reference(trainer, name, w, data, 10, None)
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-6)
    assert trainer.losses == [pytest.approx(loss, rel=1e-5)]
    assert torch.equal(w, copy)
    assert not torch.equal(got, w)


@pytest.mark.parametrize("name", SHAPES)
def test_pull_and_drift_are_terms_of_the_loss(name: str) -> None:
    trainer, data = trainer_for(name, lr=0.05, momentum=0.5, weight_decay=0.01).at(0, 1), data_for(name)
    w, layout = start_for(trainer, name), trainer.layout
    u, d, lam = w + 0.1 * random(layout.size, seed=1), 0.05 * random(layout.trainable, seed=2), 0.7
    entries = {e.name.lstrip("."): e for e in layout.entries if e.trainable}

    def extra(parameters: dict[str, Tensor]) -> Tensor:
        terms = [
            lam / 2 * (p - entries[k].view(u)).square().sum() + (p * entries[k].view(d)).sum()
            for k, p in parameters.items()
        ]
        return torch.stack(terms).sum()

    got = trainer.sgd(w, data, epochs=2, pull=(u, lam), drift=d)
    expected, loss = reference(trainer, name, w, data, 10, extra)
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-6)
    assert trainer.losses == [pytest.approx(loss, rel=1e-5)]  # the loss told is that of the data


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_closed_form_for_the_head_is_autograds(name: str, options: dict[str, float]) -> None:
    trainer, data = trainer_for(name, **options).at(1, 1), data_for(name)
    w = start_for(trainer, name)
    u = w + 0.1 * random(len(w), seed=1)
    for extra in ({}, {"pull": (u, 0.5)}, {"drift": 0.05 * random(trainer.layout.trainable, seed=2)}):
        closed = trainer.sgd(w, data, epochs=2.5, only="head", **extra)
        auto = trainer.sgd(w, data, epochs=2.5, only="head", loss=cross_entropy, **extra)
        torch.testing.assert_close(closed, auto, rtol=0, atol=5e-6)
        assert trainer.losses[-2] == pytest.approx(trainer.losses[-1], rel=1e-5)
        assert torch.equal(trainer.layout.take(closed, "base"), trainer.layout.take(w, "base"))
        assert not torch.equal(trainer.layout.take(closed, "head"), trainer.layout.take(w, "head"))


@pytest.mark.parametrize("name", SHAPES)
def test_a_part_is_trained_and_the_rest_is_frozen(name: str) -> None:
    trainer, data = trainer_for(name).at(0, 0), data_for(name)
    w, layout = start_for(trainer, name), trainer.layout
    for part in ("base", "top:2", "below:2", "norm", "all - norm", layout.layers[0]):
        if not layout.width(part):
            continue
        got = trainer.sgd(w, data, only=part, pull=(w + 1, 0.1))
        outside = torch.ones(layout.size, dtype=torch.bool)
        for a, b in layout.ranges(part):
            outside[a:b] = False
        assert torch.equal(got[outside], w[outside]), part
        assert not torch.equal(got[~outside], w[~outside]), part


@pytest.mark.parametrize("name", ["resnet8", "resnet8-bn"])
def test_normalisation_layers_alone_get_their_gradients(name: str) -> None:
    """torch 2.13 ends the process when GroupNorm has a channels-last input that needs no gradient."""
    trainer, data = trainer_for(name, batch_size=SAMPLES, lr=0.5).at(0, 0), data_for(name)
    w, layout = start_for(trainer, name), trainer.layout
    got = trainer.sgd(w, data, only="norm")
    model = module_of(name, layout, w, ()).train()
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(data.x), data.y), list(named.values()))
    for key, g in zip(named, gradients, strict=True):
        e = next(e for e in layout.entries if e.name.lstrip(".") == key)
        expected = e.view(w) - 0.5 * g if e.norm else e.view(w)
        torch.testing.assert_close(e.view(got), expected, rtol=0, atol=5e-6)


def test_nothing_to_train_returns_the_model() -> None:
    trainer, data = trainer_for(), data_for("mlp")
    w = start_for(trainer)
    assert torch.equal(trainer.sgd(w, data, only="none"), w)
    assert torch.equal(trainer.sgd(w, data, only="norm"), w)
    assert torch.equal(trainer.sgd(w, data, epochs=0), w)
    assert trainer.losses == []


def test_running_statistics_move_in_training_and_stay_when_their_layer_is_frozen() -> None:
    trainer, data = trainer_for("resnet8-bn").at(0, 0), data_for("resnet8-bn")
    w, k = start_for(trainer, "resnet8-bn"), trainer.layout.trainable
    assert not torch.equal(trainer.sgd(w, data)[k:], w[k:])
    for loss in (None, cross_entropy):
        assert torch.equal(trainer.sgd(w, data, only="head", loss=loss)[k:], w[k:])
    assert not torch.equal(trainer.sgd(w, data, only="base")[k:], w[k:])


@pytest.mark.parametrize(
    ("settings", "n", "epochs", "steps"),
    [
        ({}, 23, None, 5),  # 4 full batches and one of 3
        ({}, 23, 2.0, 10),
        ({}, 23, 0.5, 2),
        ({}, 23, 1.3, 6),  # 6.5 rounds to even
        ({}, 23, 0.01, 1),  # some work is one step
        ({}, 23, 0.0, 0),
        ({}, 3, None, 1),
        ({"drop_last": True}, 23, None, 4),
        ({"drop_last": True}, 23, 2.0, 8),
        ({"drop_last": True}, 3, None, 1),  # a client with less than a batch trains on what it has
        ({"epochs": 3.0}, 20, None, 12),
        ({"steps": 7}, 23, None, 7),
        ({"steps": 7}, 3, None, 7),
        ({"steps": 7}, 23, 1.0, 5),  # epochs asked for by a method come first
    ],
)
def test_the_number_of_steps(settings: dict[str, Any], n: int, epochs: float | None, steps: int) -> None:
    trainer, data = trainer_for(**settings).at(0, 0), data_for("mlp", n)
    assert trainer.steps(n, epochs) == steps
    calls: list[int] = []

    def counted(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
        calls.append(len(batch.y))
        return cross_entropy(net, w, batch, given)

    trainer.sgd(start_for(trainer), data, epochs=epochs, loss=counted)
    assert len(calls) == steps
    if settings.get("drop_last"):
        assert set(calls) == {min(n, 5)}


def batches_of(trainer: Trainer, data: Split, **how: Any) -> list[list[float]]:
    """The samples of each batch that `sgd` draws, by their first value."""
    seen: list[list[float]] = []

    def watch(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
        seen.append(batch.x.flatten(1)[:, 0].tolist())
        return cross_entropy(net, w, batch, given)

    trainer.sgd(start_for(trainer), data, loss=watch, **how)
    return seen


def test_an_epoch_sees_every_sample_once_and_the_next_one_in_another_order() -> None:
    trainer, data = trainer_for().at(0, 0), data_for("mlp")
    seen = batches_of(trainer, data, epochs=2)
    first, second = ([x for batch in epoch for x in batch] for epoch in (seen[:5], seen[5:]))
    everything = sorted(data.x.flatten(1)[:, 0].tolist())
    assert sorted(first) == sorted(second) == everything
    assert first != second
    assert [len(b) for b in seen] == [5, 5, 5, 5, 3] * 2


def test_batches_belong_to_the_place() -> None:
    trainer, data = trainer_for(), data_for("mlp")
    here = batches_of(trainer.at(1, 2), data)
    assert here == batches_of(trainer, data)
    assert here == batches_of(trainer, data, only="base", lr=1e-3)
    assert here == batches_of(trainer_for().at(1, 2), data)
    others = [
        batches_of(trainer.at(2, 2), data),
        batches_of(trainer.at(1, 1), data),
        batches_of(trainer_for(seed=4).at(1, 2), data),
    ]
    assert all(here != other for other in others)


def test_a_longer_run_begins_with_the_shorter_one() -> None:
    trainer, data = trainer_for().at(0, 0), data_for("mlp")
    assert batches_of(trainer, data, epochs=3)[:5] == batches_of(trainer, data, epochs=1)


def test_nothing_carries_over_from_one_client_to_the_next() -> None:
    """Momentum, running statistics and modes of a worker that served others before."""
    data, other = data_for("resnet8-bn"), data_for("resnet8-bn", 9)
    fresh, used = (trainer_for("resnet8-bn", momentum=0.9) for _ in range(2))
    w = start_for(fresh, "resnet8-bn")
    used.at(0, 7).sgd(w + 0.01, other, only="head")
    used.score(w, other)
    assert torch.equal(fresh.at(0, 1).sgd(w, data), used.at(0, 1).sgd(w, data))


@pytest.mark.parametrize("only", ["all", "head"])
def test_divergence_names_the_client_the_round_and_the_rate(only: str) -> None:
    trainer, data = trainer_for(lr=1e38).at(6, 3), data_for("mlp")
    with pytest.raises(Diverged, match=r"client 3, round 7: .*--lr \(now 1e\+38\)"):
        trainer.sgd(start_for(trainer), data, epochs=3, only=only)


def test_a_model_that_is_not_finite_is_told_as_divergence() -> None:
    trainer, data = trainer_for().at(0, 0), data_for("mlp")
    w = start_for(trainer)
    w[3] = math.nan
    with pytest.raises(Diverged):
        trainer.sgd(w, data)


@pytest.mark.parametrize("name", SHAPES)
def test_scores_are_those_of_a_plain_module(name: str) -> None:
    trainer, data = trainer_for(name), data_for(name, 1203)  # more than two slices
    w = start_for(trainer, name)
    trainer.at(0, 0).sgd(w, data_for(name))
    model = module_of(name, trainer.layout, w, trainer.config.hidden_sizes()).eval()
    with torch.no_grad():
        logits = model(data.x)
    got = trainer.score(w, data)
    assert got.loss == pytest.approx(float(F.cross_entropy(logits, data.y)), rel=1e-5)
    assert abs(got.accuracy * got.n - int((logits.argmax(1) == data.y).sum())) < 1.5  # a tie may fall either way
    assert got.n == 1203
    assert got.accuracy * 1203 == pytest.approx(round(got.accuracy * 1203))


def test_no_samples_have_no_score() -> None:
    trainer = trainer_for()
    got = trainer.score(start_for(trainer), data_for("mlp", 0))
    assert math.isnan(got.loss)
    assert math.isnan(got.accuracy)
    assert got.n == 0


def test_rates_over_the_rounds() -> None:
    cosine = trainer_for(lr=0.4, lr_schedule="cosine", rounds=10)
    expected = [0.2 * (1 + math.cos(math.pi * t / 10)) for t in range(10)]
    assert [cosine.at(t, 0).lr for t in range(10)] == pytest.approx(expected)
    falling = trainer_for(lr=0.4, lr_schedule="exponential", lr_decay=0.5)
    assert [falling.at(t, 0).lr for t in range(4)] == pytest.approx([0.4, 0.2, 0.1, 0.05])
    assert [trainer_for(lr=0.4).at(t, 0).lr for t in (0, 9)] == [0.4, 0.4]


def test_one_sample_a_batch_trains_every_network() -> None:
    for name in SHAPES:
        trainer = trainer_for(name, batch_size=1, lr=0.01).at(0, 0)
        got = trainer.sgd(start_for(trainer, name), data_for(name, 3))
        assert torch.isfinite(got).all()
