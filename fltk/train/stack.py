"""Local SGD of several clients at once, without autograd, for multi-layer perceptrons and for heads.

A small model is bound by the price of calling kernels, not by arithmetic: S clients of one architecture share each
call through batched products. The backward pass is written by hand and the SGD update is fused into the product that
makes the gradient, so that the gradient never exists. With X the input of a layer and G the gradient in its output:

    plain, decay, pull    W <- beta (W + (eta lam / beta) (U - W)) - eta G^T X - eta D      beta = 1 - eta decay
    momentum              V <- m V + G^T X + decay W + lam (W - U) + D,   W <- W - eta V

U is the target of the pull and D the drift. Biases are a column of W and of U, D and V, against an input that is one.
Every product of a batched call is computed on its own, and a short batch is filled up with samples of weight zero;
hence a client's weights do not depend on its neighbours in the stack, bit for bit, and they equal those of the
autograd loop to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fltk.models.layout import Entry, Layout
from fltk.train.order import Order, Rule, Trained, finish

CACHE = 1 << 21  # bytes of models in a stack: more of them leave the cache, and a step costs more again
SMALLEST = 2
LARGEST = 16
GATHERED = 1 << 20  # bytes of samples that are gathered at once
SMALL = 400  # multiplications: below, torch has one loop for stacks of any size
LINE = 16  # floats in a cache line: MKL rounds a product by where its factors lie

threshold_backward: Any = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class Dense:
    """A linear layer, ReLU behind all but the last.

    weight, bias: its columns in the flat model (out x in, and out).  start: where it begins in a packed model, in which
    the bias is column `inputs` of the weight and rows are filled up to `width` with zeros.
    """

    outputs: int
    inputs: int
    weight: slice
    bias: slice
    start: int
    trained: bool = True

    @property
    def width(self) -> int:
        return _lines(self.inputs + 1)

    @property
    def place(self) -> slice:
        """Its columns in a packed model."""
        return slice(self.start, self.start + self.outputs * self.width)

    def matrix(self, rows: Tensor) -> Tensor:
        """Its weights and biases in packed models: (S, size) -> (S, out, width), a view."""
        return rows[:, self.place].view(len(rows), self.outputs, self.width)


@dataclass(frozen=True)
class Net:
    """The linear layers that a stack trains, of all or of the end of a flat model."""

    layers: tuple[Dense, ...]

    @property
    def size(self) -> int:
        """Columns of a packed model."""
        return _lines(self.layers[-1].place.stop)

    @property
    def together(self) -> int:
        """Clients in a stack."""
        return max(SMALLEST, min(LARGEST, CACHE // (4 * self.size)))

    def covers(self, flats: Tensor) -> bool:
        """Whether every column of flat models is one of a layer."""
        return bool(self.layers[0].weight.start == 0 and self.layers[-1].bias.stop == flats.shape[1])

    def training(self, layout: Layout, only: str) -> Net:
        """This net with a part frozen."""
        ranges = layout.ranges(only)
        return Net(tuple(replace(d, trained=any(a <= d.weight.start < b for a, b in ranges)) for d in self.layers))

    def pack(self, flats: Sequence[Tensor]) -> Tensor:
        """Flat models (P,), or of the trainable columns, as rows of a stack (S, size)."""
        rows = torch.empty(len(flats), self.size)
        for layer in self.layers:
            matrices = layer.matrix(rows)
            matrices[:, :, layer.inputs + 1 :] = 0
            for matrix, flat in zip(matrices.unbind(), flats, strict=True):
                matrix[:, : layer.inputs] = flat[layer.weight].view(layer.outputs, layer.inputs)
                matrix[:, layer.inputs] = flat[layer.bias]
        return rows

    def unpack(self, rows: Tensor, flats: Tensor) -> None:
        """Writes a stack (S, size) into flat models (S, P); other columns stay."""
        for layer in self.layers:
            matrices = layer.matrix(rows)
            flats[:, layer.weight].view(len(rows), layer.outputs, layer.inputs).copy_(matrices[:, :, : layer.inputs])
            flats[:, layer.bias] = matrices[:, :, layer.inputs]


def _lines(floats: int) -> int:
    """Filled up to whole cache lines."""
    return -(-floats // LINE) * LINE


def perceptron(model: nn.Module, layout: Layout) -> Net | None:
    """The whole model as a net: Flatten, then Linear with ReLU between; None for any other."""
    kinds = [type(m) for m in model] if isinstance(model, nn.Sequential) else []
    depth = kinds.count(nn.Linear)
    if not depth or kinds != [nn.Flatten, *[nn.Linear, nn.ReLU] * (depth - 1), nn.Linear]:
        return None
    return _net(layout.entries)


def head(layout: Layout) -> Net | None:
    """The last layer as a net of its own; None unless it is linear with a bias."""
    return _net(tuple(e for e in layout.entries if e.layer == layout.weighted_layers[-1]))


def _net(entries: Sequence[Entry]) -> Net | None:
    layers: list[Dense] = []
    for weight, bias in zip(entries[::2], entries[1::2], strict=False):
        if weight.layer != bias.layer or len(weight.shape) != 2 or len(bias.shape) != 1:
            return None
        start = layers[-1].place.stop if layers else 0
        cuts = slice(weight.start, weight.stop), slice(bias.start, bias.stop)
        layers.append(Dense(weight.shape[0], weight.shape[1], *cuts, start))
    return Net(tuple(layers)) if 2 * len(layers) == len(entries) else None


def logits(net: Net, w: Tensor, x: Tensor) -> Tensor:
    """What a perceptron says: flat weights (P,) and samples (n, ...) -> (n, C)."""
    h = x.flatten(1)
    for layer in net.layers:
        out = torch.addmm(w[layer.bias], h, w[layer.weight].view(layer.outputs, layer.inputs).t())
        h = out if layer is net.layers[-1] else out.relu_()
    return h


def train(net: Net, orders: Sequence[Order]) -> list[Trained]:
    """Plays orders of one rule and one batch size; their x are the net's inputs (n, ...)."""
    by_length = sorted(range(len(orders)), key=lambda k: -orders[k].batches.steps)
    rows, losses = _play(net, [orders[k] for k in by_length])
    flats = torch.empty(len(orders), len(orders[0].w))
    if not net.covers(flats):
        torch.stack([orders[k].w for k in by_length], out=flats)
    net.unpack(rows, flats)
    done = dict(zip(by_length, map(Trained, flats.unbind(), losses, flats.sum(1).tolist()), strict=True))
    return [done[k] for k in range(len(orders))]


def _play(net: Net, orders: Sequence[Order]) -> tuple[Tensor, list[float]]:
    """The trained models (S, size), longest order first, and the losses, summed over the steps."""
    rule, decks = orders[0].rule, [_Deck.of(order, net.layers[0].width) for order in orders]
    parts = _Parts.of(net, orders)
    steps, batch = decks[0].index.shape
    weight, labels = torch.zeros(len(decks), steps, batch), torch.zeros(len(decks), steps, batch, dtype=torch.int64)
    lengths = [deck.index.shape[0] for deck in decks]
    for k, (deck, n) in enumerate(zip(decks, lengths, strict=True)):
        weight[k, :n], labels[k, :n] = deck.weight, torch.take(deck.y, deck.index)
    short = (weight != 1).any(2).any(0).tolist()
    weight, labels = weight[..., None], labels[..., None]
    likelihood = torch.zeros_like(weight)
    step: _Step | None = None
    active = len(decks)
    for start, x in _inputs(decks):
        for t, xt in enumerate(x.unbind(1), start):
            while lengths[active - 1] <= t:  # orders end one by one, the last of the stack first
                active -= 1
            if step is None or step.size != active:
                step = _Step(net, rule, batch, parts.first(active))
            weights = weight[:active, t] if short[t] else None
            step(xt[:active], labels[:active, t], weights, likelihood[:active, t])
    told = likelihood.mul_(weight)
    return parts.rows, [-float(told[k, :n].sum()) / batch for k, n in enumerate(lengths)]


@dataclass(frozen=True)
class _Parts:
    """What a stack trains, and what belongs to each of its models: (S, size) each, None where the rule has none."""

    rows: Tensor
    velocity: Tensor | None
    target: Tensor | None
    drift: Tensor | None

    @staticmethod
    def of(net: Net, orders: Sequence[Order]) -> _Parts:
        rows = net.pack([order.w for order in orders])
        targets, drifts = ([getattr(order, name) for order in orders] for name in ("target", "drift"))
        return _Parts(
            rows,
            torch.zeros_like(rows) if orders[0].rule.momentum else None,
            net.pack(targets) if orders[0].target is not None else None,
            net.pack(drifts) if orders[0].drift is not None else None,
        )

    def first(self, count: int) -> _Parts:
        """Those of the first models."""
        more = (None if part is None else part[:count] for part in (self.velocity, self.target, self.drift))
        return _Parts(self.rows[:count], *more)


@dataclass(frozen=True)
class _Deck:
    """One client's batches in the order in which they are dealt; index and weight as in `Batches.table`."""

    x: Tensor  # (n, width): the features, one, and zeros
    y: Tensor  # (n,)
    index: Tensor  # (steps, batch) int64
    weight: Tensor  # (steps, batch)

    @staticmethod
    def of(order: Order, width: int) -> _Deck:
        features = order.x.flatten(1)
        x = torch.cat([features, _one_and_zeros(len(features), width - features.shape[1])], 1)
        return _Deck(x, order.y, *order.batches.table())


def _one_and_zeros(n: int, width: int) -> Tensor:
    """The input of the bias, and what fills the cache line: (n, width)."""
    ending = torch.zeros(n, width)
    ending[:, 0] = 1
    return ending


def _inputs(decks: Sequence[_Deck]) -> Iterator[tuple[int, Tensor]]:
    """The samples of all steps, (S, T, B, width) for some of them from a first one on.

    Where a deck has ended there is anything.
    """
    steps, batch = decks[0].index.shape
    width = decks[0].x.shape[1]
    block = max(1, GATHERED // (4 * len(decks) * batch * width))
    for start in range(0, steps, block):
        x = torch.empty(len(decks), min(block, steps - start), batch, width)
        for row, deck in zip(x.unbind(), decks, strict=True):
            index = deck.index[start : start + block]
            torch.index_select(deck.x, 0, index.flatten(), out=row[: len(index)].view(-1, width))
        yield start, x


class _Step:
    """One SGD step of the first models of a stack, each on its own batch. Views and memory are made once for many."""

    def __init__(self, net: Net, rule: Rule, batch: int, parts: _Parts) -> None:
        self.size = len(parts.rows)
        self._rule, self._parts = rule, parts
        rows, sink = parts.rows, parts.rows if parts.velocity is None else parts.velocity
        self._layers = net.layers
        self._lowest = next(k for k, layer in enumerate(net.layers) if layer.trained)
        self._weights = [layer.matrix(rows) for layer in net.layers]
        self._turned = [w.transpose(1, 2) for w in self._weights]
        self._into = [layer.matrix(sink) for layer in net.layers]
        self._hidden = [_ones_behind(self.size, batch, layer) for layer in net.layers[1:]]
        self._outputs = [h[:, :, : d.inputs] for h, d in zip(self._hidden, net.layers[1:], strict=True)]
        self._outputs.append(_room(self.size, batch, net.layers[-1].outputs))
        self._errors = [_room(self.size, batch, h.shape[2]) for h in self._hidden]
        self._minus = rows.new_full((), -1.0).expand(self.size, batch, 1)
        self._alpha, self._beta = rule.alpha / batch, rule.beta

    def __call__(self, x: Tensor, labels: Tensor, weight: Tensor | None, likelihood: Tensor) -> None:
        """On x (a, B, width), labels (a, B, 1) and weights (None: all 1); writes the log-likelihood (a, B, 1)."""
        inputs = [x, *self._hidden]
        for w, h, out in zip(self._turned, inputs, self._outputs, strict=True):
            _multiply(out, h, w, beta=0.0)
            if out is not self._outputs[-1]:
                out.relu_()
        log_p = torch.log_softmax(self._outputs[-1], 2)
        torch.gather(log_p, 2, labels, out=likelihood)
        g = torch.exp(log_p, out=self._outputs[-1]).scatter_add_(2, labels, self._minus)
        self._back(g if weight is None else g.mul_(weight), inputs)
        self._finish()

    def _back(self, g: Tensor, inputs: list[Tensor]) -> None:
        """From the gradient in the logits down to the lowest trained layer."""
        for k in range(len(self._layers) - 1, self._lowest - 1, -1):
            if k > self._lowest:  # with the weights before their update
                _multiply(self._errors[k - 1], g, self._weights[k], beta=0.0)
            if self._layers[k].trained:
                self._pull(self._layers[k].place)
                _multiply(self._into[k], g.transpose(1, 2), inputs[k], beta=self._beta, alpha=self._alpha)
            if k > self._lowest:
                below = self._errors[k - 1]
                g = threshold_backward(below, inputs[k], 0, grad_input=below)[:, :, : self._layers[k].inputs]

    def _pull(self, cut: slice) -> None:
        """Towards the target, before the gradient's part."""
        if self._parts.target is not None and self._parts.velocity is None:
            self._parts.rows[:, cut].lerp_(self._parts.target[:, cut], self._rule.reach)

    def _finish(self) -> None:
        """What the products left out."""
        parts = self._parts
        if parts.velocity is None and parts.drift is None:
            return
        for cut in (layer.place for layer in self._layers if layer.trained):
            more = (None if part is None else part[:, cut] for part in (parts.velocity, parts.target, parts.drift))
            finish(self._rule, parts.rows[:, cut], *more)


def _multiply(out: Tensor, a: Tensor, b: Tensor, beta: float = 1.0, alpha: float = 1.0) -> None:
    """out <- beta out + alpha a b, for every model of the stack.

    For a stack of one torch takes another path, which rounds otherwise; as a plain matrix it takes that of the others.
    """
    if len(out) == 1 and a[0].numel() * b.shape[2] >= SMALL:
        out[0].addmm_(a[0], b[0], beta=beta, alpha=alpha)
    else:
        out.baddbmm_(a, b, beta=beta, alpha=alpha)


def _room(size: int, *shape: int) -> Tensor:
    """Memory (size, *shape) in which every model's part begins with a cache line."""
    width = torch.Size(shape).numel()
    return torch.empty(size, _lines(width + 1))[:, :width].view(size, *shape)


def _ones_behind(size: int, batch: int, layer: Dense) -> Tensor:
    """Room for what a layer takes in, (size, batch, width): zeros, and a one where the bias is."""
    room = _room(size, batch, layer.width).zero_()
    room[:, :, layer.inputs] = 1
    return room
