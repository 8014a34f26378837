"""Local SGD of one client without autograd, for models that are a chain of known layers.

Autograd's bookkeeping costs a small model more than its arithmetic. Here the backward pass follows from the list of
layers, and the update of a linear layer is fused into the product that makes its gradient, so that the gradient never
exists (the rules are those of `fltk.train.fast.stack`). Convolutions stay oneDNN's. Weights equal those of the
autograd loop to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fltk.models.layout import Entry, Layout, Ranges
from fltk.train.order import SgdJob, SgdRule, finish

aten: Any = torch.ops.aten


class Sink:
    """Where a layer's gradient goes: into its weights, or with momentum into their velocity."""

    def __init__(self, into: Sequence[Tensor], targets: Sequence[Tensor | None], rule: SgdRule) -> None:
        """into: the weight and perhaps the bias.  targets: of the pull, for both."""
        self._into, self._targets, self._rule = into, targets, rule

    def add(self, weight: Tensor, bias: Tensor | None) -> None:
        """Whole gradients."""
        for k, gradient in enumerate((weight, bias)):
            if gradient is not None:
                self._scaled(k).add_(gradient, alpha=self._rule.alpha)

    def add_product(self, g: Tensor, x: Tensor) -> None:
        """G^T X for the weight, which is not made, and the column sums of G for the bias."""
        self._pulled(0).addmm_(g.t(), x, beta=self._rule.beta, alpha=self._rule.alpha)
        self._scaled(1).add_(g.sum(0), alpha=self._rule.alpha)

    def _scaled(self, k: int) -> Tensor:
        pulled = self._pulled(k)
        return pulled if self._rule.beta == 1.0 else pulled.mul_(self._rule.beta)

    def _pulled(self, k: int) -> Tensor:
        target = self._targets[k]
        return self._into[k] if target is None else self._into[k].lerp_(target, self._rule.reach)


class Link(Protocol):
    """A layer of the chain. `forward` remembers what `backward` needs."""

    def forward(self, x: Tensor) -> Tensor: ...

    def backward(self, g: Tensor, sink: Sink | None, below: bool) -> Tensor:
        """From the gradient in the output to that in the input (anything unless `below`); feeds the sink."""


class Linear:
    """A linear layer."""

    def __init__(self, module: nn.Linear) -> None:
        self._weight, self._bias = module.weight.data, module.bias.data

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        return F.linear(x, self._weight, self._bias)

    def backward(self, g: Tensor, sink: Sink | None, below: bool) -> Tensor:
        lower = torch.mm(g, self._weight) if below else g  # before the update
        if sink:
            sink.add_product(g, self._x)
        return lower


class Convolution:
    """A convolution in one or two dimensions."""

    def __init__(self, module: nn.Conv1d | nn.Conv2d) -> None:
        bias = module.bias
        self._weight, self._bias = module.weight.data, None if bias is None else bias.data
        self._sizes = None if bias is None else [len(bias)]
        self._how = [list(module.stride), list(module.padding), list(module.dilation), False, [0] * len(module.stride)]
        self._how.append(module.groups)

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        return aten.convolution(x, self._weight, self._bias, *self._how)  # type: ignore[no-any-return]

    def backward(self, g: Tensor, sink: Sink | None, below: bool) -> Tensor:
        wanted = [below, sink is not None, sink is not None and self._bias is not None]
        lower, weight, bias = aten.convolution_backward(g, self._x, self._weight, self._sizes, *self._how, wanted)
        if sink:
            sink.add(weight, bias)
        return lower if below else g


class Relu:
    """ReLU, in place: nothing below needs its input."""

    def forward(self, x: Tensor) -> Tensor:
        self._y = x.relu_()
        return self._y

    def backward(self, g: Tensor, sink: Sink | None, below: bool) -> Tensor:
        return aten.threshold_backward(g, self._y, 0)  # type: ignore[no-any-return]


class MaxPool:
    """Max-pooling without overlap; in one dimension as in two of which one has length 1."""

    def __init__(self, module: nn.MaxPool1d | nn.MaxPool2d) -> None:
        size = module.kernel_size
        assert isinstance(size, int)
        self._kernel = [size, size] if isinstance(module, nn.MaxPool2d) else [1, size]

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        y, self._index = aten.max_pool2d_with_indices(x, self._kernel, self._kernel)
        return y  # type: ignore[no-any-return]

    def predict(self, x: Tensor) -> Tensor:
        """The same without the places of the maxima, several times faster in windows of 2 x 2."""
        known = self._kernel == [2, 2] and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        if not known or x.shape[2] % 2 or x.shape[3] % 2:
            return self.forward(x)
        n, c, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).view(n, height // 2, 2, width // 2, 2 * c)
        pairs = torch.maximum(rows[:, :, 0], rows[:, :, 1])
        return torch.maximum(pairs[..., :c], pairs[..., c:]).permute(0, 3, 1, 2)

    def backward(self, g: Tensor, sink: Sink | None, below: bool) -> Tensor:
        kernel = self._kernel
        return aten.max_pool2d_with_indices_backward(  # type: ignore[no-any-return]
            g, self._x, kernel, kernel, [0, 0], [1, 1], False, self._index
        )


class Flatten:
    """(n, ...) -> (n, features)."""

    def forward(self, x: Tensor) -> Tensor:
        self._shape, self._last = x.shape, x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return x.flatten(1)

    def backward(self, g: Tensor, sink: Sink | None, below: bool) -> Tensor:
        g = g.view(self._shape)
        return g.contiguous(memory_format=torch.channels_last) if self._last else g


def _link(module: nn.Module) -> Link | None:
    """The link for a module of a kind that has one."""
    if isinstance(module, nn.Linear) and module.bias is not None:
        return Linear(module)
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.padding_mode == "zeros" and module.padding != "same":
        return Convolution(module)
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        plain = module.stride == module.kernel_size and isinstance(module.kernel_size, int)
        return MaxPool(module) if plain and module.padding == 0 and not module.ceil_mode else None
    if isinstance(module, nn.ReLU):
        return Relu()
    return Flatten() if isinstance(module, nn.Flatten) and module.start_dim == 1 else None


class Chain:
    """The links of a model whose parameters are views into `flat` (P,)."""

    def __init__(self, links: Sequence[Link], entries: Sequence[tuple[Entry, ...]], flat: Tensor) -> None:
        self._links = links
        self._entries = entries  # of each link's weight and bias
        self._flat = flat
        self._minus = torch.full((), -1.0)

    @staticmethod
    def of(model: nn.Module, layout: Layout, flat: Tensor) -> Chain | None:
        """The chain of a sequence of known layers; None for any other model."""
        if not isinstance(model, nn.Sequential):
            return None
        links = [_link(module) for module in model]
        known = [link for link in links if link is not None]
        if len(known) < len(links) or not layout.layers:
            return None
        names = [name for name, _ in model.named_children()]
        return Chain(known, [tuple(e for e in layout.entries if e.layer == name) for name in names], flat)

    def train(self, order: SgdJob, ranges: Ranges, inputs: Callable[[Tensor], Tensor]) -> float:
        """Plays an order on the flat weights; gives the loss, summed over the steps. `inputs` prepares an epoch's x."""
        rule = order.rule
        velocity = torch.zeros_like(self._flat) if rule.momentum else None
        sinks = self._sinks(order, ranges, self._flat if velocity is None else velocity)
        lowest = next(k for k, sink in enumerate(sinks) if sink)
        total = torch.zeros(())
        for permutation, cuts in order.batches:
            x, y = inputs(order.x[permutation]), order.y[permutation]
            for cut in cuts:
                total += self._step(x[cut], y[cut], sinks, lowest)
                self._finish(order, ranges, velocity)
        return float(total)

    def predict(self, x: Tensor) -> Tensor:
        """What the flat weights say of samples as `inputs` prepares them, (n, C)."""
        for link in self._links:
            x = link.predict(x) if isinstance(link, MaxPool) else link.forward(x)
        return x

    def _finish(self, order: SgdJob, ranges: Ranges, velocity: Tensor | None) -> None:
        """What the sinks left out."""
        if velocity is None and order.drift is None:
            return
        for cut in (slice(*cut) for cut in ranges):
            more = (None if part is None else part[cut] for part in (velocity, order.target, order.drift))
            finish(order.rule, self._flat[cut], *more)

    def _sinks(self, order: SgdJob, ranges: Ranges, into: Tensor) -> list[Sink | None]:
        """Where every link's gradient goes; None for what has no weights or is frozen."""
        rule, sinks = order.rule, list[Sink | None]()
        target = None if rule.momentum else order.target
        for entries in self._entries:
            trained = bool(entries) and any(a <= entries[0].start < b for a, b in ranges)
            views = [e.view(into) for e in entries]
            pulls = [None if target is None else e.view(target) for e in entries]
            sinks.append(Sink(views, pulls, rule) if trained else None)
        return sinks

    def _step(self, x: Tensor, y: Tensor, sinks: Sequence[Sink | None], lowest: int) -> Tensor:
        """One step, but for what `_finish` does; the batch's mean loss."""
        for link in self._links:
            x = link.forward(x)
        log_p = torch.log_softmax(x, 1)
        loss = F.nll_loss(log_p, y)
        g = log_p.exp_().scatter_add_(1, y[:, None], self._minus.expand(len(y), 1)).div_(len(y))
        for k in range(len(self._links) - 1, lowest - 1, -1):
            g = self._links[k].backward(g, sinks[k], k > lowest)
        return loss
