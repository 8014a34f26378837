"""Losses as functions of flat weights, so that a method's own loss is computed for one client or for a stack of them.

    loss(net, w, batch, given) -> (n,)          of every sample; the trainer takes the (weighted) mean

`net(w, x)` are the outputs of the network with the weights `w`, `net.features(w, x)` what its last layer sees. `given`
are further tensors of the client that stay what they are, such as the global model; a stack stacks them as well.

A loss is a module-level function, one object for all clients: equal losses are stacked. Constants go into `given`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fltk.models.layout import Layout, module_of
from fltk.objectives import Objective

Given = Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Samples of one step."""

    x: Tensor  # (n, ...)
    y: Tensor  # (n,) labels, or (n, C) where they are mixed or are targets
    index: Tensor  # (n,) int64, their numbers in the client's data


class Net:
    """A network as a function of its flat weights."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self._model = model
        self._layout = layout
        self._head = module_of(model, layout.weighted_layers[-1])

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """Outputs (n, C) for inputs (n, ...)."""
        outputs: Tensor = functional_call(self._model, self._tensors(w), (x,))
        return outputs

    def features(self, w: Tensor, x: Tensor) -> Tensor:
        """What the last layer sees, (n, F); gradients flow through it."""
        caught: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            self(w, x)
        finally:
            hook.remove()
        return caught[0]

    def both(self, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and features of one pass."""
        caught: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            outputs = self(w, x)
        finally:
            hook.remove()
        return outputs, caught[0]

    def _tensors(self, w: Tensor) -> dict[str, Tensor]:
        """Parameters and buffers by name; running statistics of weights in training are updated in `w` itself."""
        buffers = w.detach() if w.requires_grad else w.clone()
        found = {}
        for e in self._layout.entries:
            found[e.name] = e.view(w if e.trainable else buffers)
        return found


Loss = Callable[[Net, Tensor, Batch, Given], Tensor]


def cross_entropy(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
    """(n,): -log softmax(net(w, x))_y, for labels or for mixtures of labels."""
    return F.cross_entropy(net(w, batch.x), batch.y, reduction="none")


def loss_of(objective: Objective) -> Loss:
    """The loss that the data set is learned by."""
    if objective.softmax:
        return cross_entropy

    def loss(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
        return objective.loss(net(w, batch.x), batch.y)

    return loss


def absolute_error(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
    """(n,): mean absolute difference between a sample's outputs and its targets (C,)."""
    return (net(w, batch.x) - batch.y).abs().mean(1)


__all__ = ["Batch", "Given", "Loss", "Net", "absolute_error", "cross_entropy", "loss_of"]
