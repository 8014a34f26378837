"""The networks: sizes, shapes, initial weights, and storage that nobody can see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from toys import random

from fltk.errors import UsageError
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.names import MODELS

MNIST = (1, 28, 28)
SHAPES = {"cnn1d": (6, 128)}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mlp", 784 * 100 + 100 + 100 * 10 + 10),
        ("cnn", 582_026),  # 5x5 kernels without padding: 832 + 51,264 + (1024 * 512 + 512) + 5,130
        ("lenet5", 44_426),  # 156 + 2,416 + 30,840 + 10,164 + 850
    ],
)
def test_parameter_counts_on_mnist_shapes(name: str, count: int) -> None:
    assert sum(p.numel() for p in zoo.make(name, MNIST, 10).parameters()) == count
    assert Layout.of(zoo.make(name, MNIST, 10)).size == count
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


@pytest.mark.parametrize("name", MODELS)
def test_a_bound_module_computes_what_a_plain_one_does(name: str) -> None:
    model, layout, flat = plain(name)
    bound = zoo.make(name, SHAPES.get(name, (3, 16, 16)), 10).to_empty(device="cpu")
    layout.bind(bound, flat)
    x = random(5, *SHAPES.get(name, (3, 16, 16)))
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
