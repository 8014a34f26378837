"""Floating-point operations of training, counted from the layers.

A layer whose weights are used m times (multiply and add) for a sample costs

    forward            2 m
    weight gradients   2 m
    input gradients    2 m, except in the first layer, whose inputs are the data

with m = outputs x weights per output, for linear layers and convolutions alike. Biases, activations, pooling,
normalisation and the update are left out: they are a few percent and no matrix products. So a share of the peak that
is reckoned from these numbers is a lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class LayerCost:
    """FLOPs of one layer for one sample."""

    layer: str
    forward: int
    weights: int
    inputs: int

    @property
    def total(self) -> int:
        return self.forward + self.weights + self.inputs


def layer_costs(model: nn.Module, shape: Sequence[int]) -> list[LayerCost]:
    """The layers with weights, in the order of their use; `model` on the meta device, inputs of `shape`."""
    used: list[tuple[str, int]] = []

    def watched(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module.weight, Tensor)
            used.append((name, output[0].numel() * module.weight[0].numel()))

        return hook

    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, WEIGHTED)]
    hooks = [module.register_forward_hook(watched(name)) for name, module in modules]
    try:
        model(torch.empty(1, *shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return [LayerCost(name, 2 * m, 2 * m, 2 * m if place else 0) for place, (name, m) in enumerate(used)]


def training_flops(costs: Sequence[LayerCost]) -> int:
    """FLOPs of one step for one sample of its batch."""
    return sum(cost.total for cost in costs)


def forward_flops(costs: Sequence[LayerCost]) -> int:
    """FLOPs of scoring one sample."""
    return sum(cost.forward for cost in costs)
