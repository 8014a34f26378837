"""The networks: sizes, shapes, initial weights, and storage that nobody can see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from toys import random

from fltk.config import TrainConfig
from fltk.errors import UsageError
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.models.parts import ALL, Part
from fltk.names import MODELS, RECURRENT
from fltk.partition.federation import Split
from fltk.train.backend import Backend
from fltk.train.streams import Streams
from fltk.train.trainer import Trainer

MNIST = (1, 28, 28)
SHAPES: dict[str, tuple[int, ...]] = {"cnn1d": (6, 128), "lstm": (12,), "gru": (12,)}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mlp", 784 * 100 + 100 + 100 * 10 + 10),
        ("cnn", 582_026),  # 5x5 kernels without padding: 832 + 51,264 + (1024 * 512 + 512) + 5,130
        ("cnn-bn", 29_034),  # 416 + 32 + 12,832 + 64 + 15,690
        ("lenet5", 44_426),  # 156 + 2,416 + 30,840 + 10,164 + 850
    ],
)
def test_parameter_counts_on_mnist_shapes(name: str, count: int) -> None:
    assert sum(p.numel() for p in zoo.make(name, MNIST, 10).parameters()) == count
    assert Layout.of(zoo.make(name, MNIST, 10)).trainable == count
    assert {"mlp": 79_510}.get(name, count) == count


def test_hidden_layers_of_the_mlp() -> None:
    assert Layout.of(zoo.make("mlp", (1, 4, 4), 3, ())).size == 16 * 3 + 3
    assert Layout.of(zoo.make("mlp", (1, 4, 4), 3, (7, 5))).size == 16 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3


def plain(name: str, seed: int = 0) -> tuple[nn.Module, Layout, torch.Tensor]:
    """A module with ordinary contiguous weights, its layout, and the same weights as a flat vector."""
    shape = SHAPES.get(name, (3, 16, 16))
    layout = Layout.of(zoo.make(name, shape, 10))
    flat = zoo.initial(zoo.make(name, shape, 10), layout, torch.Generator().manual_seed(seed))
    flat = flat + 0.05 * random(layout.size, seed=seed).abs()
    model = zoo.make(name, shape, 10).to_empty(device="cpu")
    state = {e.name.lstrip("."): e.view(flat).clone(memory_format=torch.contiguous_format) for e in layout.entries}
    model.load_state_dict(state, strict=False)
    return model, layout, flat


def inputs(name: str, count: int) -> Tensor:
    """Samples that the network takes: numbers, or tokens below 10."""
    x = random(count, *SHAPES.get(name, (3, 16, 16)))
    return (x.abs() * 3).floor().clamp_max(9) if name in RECURRENT else x


@pytest.mark.parametrize("name", MODELS)
def test_a_bound_module_computes_what_a_plain_one_does(name: str) -> None:
    model, layout, flat = plain(name)
    bound = zoo.make(name, SHAPES.get(name, (3, 16, 16)), 10).to_empty(device="cpu")
    layout.bind(bound, flat)
    x = inputs(name, 5)
    for mode in (False, True):
        got, expected = bound.train(mode)(x), model.train(mode)(x)
        assert got.shape == (5, 10)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    loss = [m(x).square().mean() for m in (bound.eval(), model.eval())]
    for mine, theirs in zip(
        torch.autograd.grad(loss[0], list(bound.parameters())),
        torch.autograd.grad(loss[1], list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_come_from_the_generator_alone(name: str) -> None:
    shape = SHAPES.get(name, (1, 16, 16))
    before = torch.get_rng_state()
    model = zoo.make(name, shape, 10)
    layout = Layout.of(model)

    def draw(seed: int) -> torch.Tensor:
        return zoo.initial(model, layout, torch.Generator().manual_seed(seed))

    w = draw(1)
    assert torch.equal(w, draw(1))
    assert not torch.equal(w, draw(2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8-bn", "cnn1d"])
def test_initial_weights_have_torchs_default_bounds(name: str) -> None:
    model = zoo.make(name, SHAPES.get(name, (1, 16, 16)), 10)
    layout = Layout.of(model)
    w = zoo.initial(model, layout, torch.Generator().manual_seed(0))
    modules = dict(model.named_modules())
    for e in layout.entries:
        values = e.view(w)
        if e.norm:
            expected = 1.0 if e.name.endswith(("weight", "running_var")) else 0.0
            assert torch.equal(values, torch.full(e.shape, expected))
            continue
        bound = 1 / math.sqrt(modules[e.layer].weight[0].numel())
        assert float(values.abs().max()) <= bound
        if values.numel() > 100:
            assert float(values.abs().max()) > 0.9 * bound
            assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("cnn", (1, 8, 8), r"--model cnn takes square images of 16x16 or more, not 1x8x8; use mlp or resnet8"),
        ("lenet5", (1, 8, 8), "--model lenet5"),
        ("resnet8", (6, 128), "--model resnet8 .*use mlp$"),
        ("cnn", (1, 28, 20), "--model cnn"),
        ("cnn1d", (1, 28, 28), "--model cnn1d takes time series"),
        ("cnn1d", (6, 32), "64 samples"),
        ("resnet", (1, 28, 28), "--model: unknown model 'resnet'; did you mean resnet8"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_an_alternative(name: str, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        zoo.make(name, shape, 10)


@pytest.mark.parametrize("name", ["mlp", "resnet8", "resnet8-bn"])
def test_small_images_are_taken(name: str) -> None:
    model = zoo.make(name, (1, 8, 8), 10)
    layout = Layout.of(model)
    model = model.to_empty(device="cpu")
    layout.bind(model, zoo.initial(zoo.make(name, (1, 8, 8), 10), layout, torch.Generator().manual_seed(0)))
    assert torch.isfinite(model.eval()(random(2, 1, 8, 8))).all()


class Words(nn.Module):
    """A network of modules with rules of their own, and parameters at the root."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.empty(8))
        self.embed = nn.Embedding(30, 8, padding_idx=0)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x.long().flatten(1)) + self.start
        h = self.lstm(self.gru(h)[0])[0]
        h = self.attention(h, h, h, need_weights=False)[0]
        return self.head(self.norm(h.mean(1)))  # type: ignore[no-any-return]  # nn.Module calls are untyped


def words() -> nn.Module:
    with torch.device("meta"):
        return Words()


def drawn(model: nn.Module, seed: int = 0) -> tuple[Layout, torch.Tensor]:
    """The layout of a model and its initial weights."""
    layout = Layout.of(model)
    return layout, zoo.initial(model, layout, torch.Generator().manual_seed(seed))


def test_any_network_of_float_parameters_has_initial_weights() -> None:
    before = torch.get_rng_state()
    model = words()
    layout, w = drawn(model)
    assert torch.equal(w, drawn(model)[1])
    assert not torch.equal(w, drawn(model, seed=1)[1])
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.is_meta for p in model.parameters())

    named = {e.name: e.view(w) for e in layout.entries}
    assert torch.isfinite(w).all()
    assert float(named["start"].abs().max()) <= 1 / math.sqrt(8)
    assert float(named["embed.weight"].std()) == pytest.approx(1, rel=0.15)  # an embedding's own rule: normal
    assert torch.equal(named["embed.weight"][0], torch.zeros(8))
    for name in ("gru.weight_ih_l0", "gru.bias_hh_l0", "lstm.weight_hh_l0"):
        assert 0.8 / math.sqrt(8) < float(named[name].abs().max()) <= 1 / math.sqrt(8), name
    assert float(named["attention.in_proj_weight"].abs().max()) <= math.sqrt(6 / (24 + 8))  # Glorot
    for name in ("attention.in_proj_bias", "attention.out_proj.bias"):  # MultiheadAttention sets both after its layers
        assert torch.equal(named[name], torch.zeros_like(named[name])), name
    assert torch.equal(named["norm.weight"], torch.ones(8))
    for values in (named["start"], named["head.weight"], named["attention.out_proj.weight"]):
        assert values.count_nonzero() == values.numel()


def test_a_network_decides_over_the_layers_that_it_consists_of() -> None:
    class Zeroed(nn.Sequential):
        def reset_parameters(self) -> None:
            nn.init.zeros_(self[0].weight)

    with torch.device("meta"):
        model = Zeroed(nn.Linear(4, 3))
    layout, w = drawn(model)
    assert torch.equal(layout.take(w, "0")[:12], torch.zeros(12))
    assert layout.take(w, "0")[12:].count_nonzero() == 3


def test_a_buffer_without_a_value_is_refused() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("at", torch.empty(3))

    with torch.device("meta"):
        model = nn.Sequential(Positions(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"buffer 0\.at has no initial value: give Positions reset_parameters"):
        drawn(model)


def test_a_recurrent_network_with_parameters_at_the_root_is_trained() -> None:
    """Every column moves, in the whole and in parts, and the backend counts as torch does."""
    layout, w = drawn(words())
    backend = Backend(words(), layout)
    trainer = Trainer(lambda _: backend, TrainConfig(batch_size=5, lr=0.1), Streams(0)).at(0, 0)
    x = torch.randint(1, 30, (20, 6), generator=torch.Generator().manual_seed(0)).float()
    data = Split(x, torch.arange(20) % 5)

    model = words().to_empty(device="cpu")
    model.load_state_dict({e.name: e.view(w).clone() for e in layout.entries})
    expected = torch.nn.functional.cross_entropy(model.eval()(x), data.y).detach()
    assert trainer.score(w, data).loss == pytest.approx(float(expected), rel=1e-5)

    got = trainer.sgd(w, data, epochs=3)
    assert trainer.score(got, data).loss < trainer.score(w, data).loss
    moved = {e.name for e in layout.entries if not torch.equal(e.view(got), e.view(w))}
    assert moved == {e.name for e in layout.entries}
    for part in ("self", "head", "gru", "all - head - self"):
        some = trainer.sgd(w, data, only=part)
        assert not torch.equal(layout.take(some, part), layout.take(w, part)), part
        assert torch.equal(layout.take(some, ALL - Part(part)), layout.take(w, ALL - Part(part))), part
