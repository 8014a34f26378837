"""FLOPs of training, counted by hand for networks whose layers one can write down."""

from __future__ import annotations

import torch
from torch import nn

from fltk.bench.flops import forward_flops, layer_costs, training_flops
from fltk.models import zoo

MNIST = (1, 28, 28)


def test_an_mlp_costs_three_products_a_layer_but_two_in_the_first() -> None:
    costs = layer_costs(zoo.make("mlp", MNIST, 10), MNIST)
    first, last = 784 * 100, 100 * 10
    assert [(c.forward, c.weights, c.inputs) for c in costs] == [
        (2 * first, 2 * first, 0),
        (2 * last, 2 * last, 2 * last),
    ]
    assert forward_flops(costs) == 158_800
    assert training_flops(costs) == 4 * first + 6 * last == 319_600


def test_a_convolution_costs_its_kernel_at_every_place() -> None:
    """28 -> 24 -> 12 -> 8 -> 4 pixels a side, kernels of 5 x 5."""
    costs = layer_costs(zoo.make("cnn", MNIST, 10), MNIST)
    used = [24 * 24 * 32 * 25, 8 * 8 * 64 * 32 * 25, 64 * 4 * 4 * 512, 512 * 10]
    assert [c.forward for c in costs] == [2 * m for m in used]
    assert training_flops(costs) == 6 * sum(used) - 2 * used[0]


def test_strides_padding_and_nested_blocks_count_by_what_they_put_out() -> None:
    costs = {c.layer: c.forward for c in layer_costs(zoo.make("resnet8", MNIST, 10), MNIST)}
    assert costs["0"] == 2 * 28 * 28 * 16 * 9
    assert costs["4.conv1"] == 2 * 14 * 14 * 32 * 16 * 9
    assert costs["4.shortcut"] == 2 * 14 * 14 * 32 * 16
    assert costs["5.conv2"] == 2 * 7 * 7 * 64 * 64 * 9
    assert costs["8"] == 2 * 64 * 10


def test_a_layer_counts_for_every_position_and_only_while_it_is_watched() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv1d(3, 8, 5), nn.ReLU(), nn.Linear(16, 4))
    assert [c.forward for c in layer_costs(model, (3, 20))] == [2 * 8 * 16 * 15, 2 * 8 * 4 * 16]
    assert not any(module._forward_hooks for module in model.modules())
