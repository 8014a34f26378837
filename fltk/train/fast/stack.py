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
from fltk.train.order import SgdJob, SgdRule, Trained, finish

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
        return lines(self.inputs + 1)

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
        return lines(self.layers[-1].place.stop)

    @property
    def classes(self) -> int:
        return self.layers[-1].outputs

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

    def above(self) -> Net:
        """This net without its first layer."""
        start = self.layers[1].start
        return Net(tuple(replace(layer, start=layer.start - start) for layer in self.layers[1:]))

    def pack(self, flats: Sequence[Tensor]) -> Tensor:
        """Flat models (P,), or of the trainable columns, as rows of a stack (S, size)."""
        if len(flats) > 1 and all(flat is flats[0] for flat in flats):
            return self.pack(flats[:1]).repeat(len(flats), 1)
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


def lines(floats: int) -> int:
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


def train(net: Net, orders: Sequence[SgdJob]) -> list[Trained]:
    """Plays orders of one rule and one batch size; their x are the net's inputs (n, ...)."""
    by_length = longest_first(orders)
    rows, losses = _play(net, [orders[k] for k in by_length])
    flats = torch.empty(len(orders), len(orders[0].w))
    if not net.covers(flats):
        torch.stack([orders[k].w for k in by_length], out=flats)
    net.unpack(rows, flats)
    return told(by_length, flats, losses)


def longest_first(orders: Sequence[SgdJob]) -> list[int]:
    """The numbers of the orders by their steps: so they end one by one, the last of a stack first."""
    return sorted(range(len(orders)), key=lambda k: -orders[k].batches.steps)


def told(places: Sequence[int], flats: Tensor, losses: Sequence[float]) -> list[Trained]:
    """What came of orders, at their places; flats (S, P) and losses are in the order in which they were played."""
    done = dict(zip(places, map(Trained, flats.unbind(), losses, flats.sum(1).tolist()), strict=True))
    return [done[k] for k in range(len(places))]


def _play(net: Net, orders: Sequence[SgdJob]) -> tuple[Tensor, list[float]]:
    """The trained models (S, size), longest order first, and the losses, summed over the steps."""
    dealt, parts = Dealt.of(orders, net.classes), Parts.of(net, orders)
    features = [_features(order.x, net.layers[0].width) for order in orders]
    step: Step | None = None
    for start, x in _inputs(features, dealt):
        for xt, seen in zip(x.unbind(1), dealt.during(start, x.shape[1]), strict=True):
            if step is None or step.size != seen.active:
                step = Step(net, orders[0].rule, dealt.batch, parts.first(seen.active))
            step(xt[: seen.active], seen)
    return parts.rows, dealt.losses()


@dataclass(frozen=True)
class Seen:
    """What the first `active` clients of a stack see in a step besides its inputs, and where its loss is told."""

    active: int
    labels: Tensor  # (a, 1, B) int64
    truth: Tensor  # (a, C, B): one for the class of the label, else zero
    weight: Tensor | None  # (a, 1, B); None: all 1
    likelihood: Tensor  # (a, 1, B) of the labels, its logarithm


@dataclass(frozen=True)
class Dealt:
    """The batches of a stack, longest order first."""

    index: list[Tensor]  # samples of each client's steps (T_k, B) int64
    active: list[int]  # how many clients have a step
    labels: Tensor  # (S, T, 1, B) int64
    weight: Tensor | None  # (S, T, 1, B) as in `Batches.weights`, zero behind an order's end
    likelihood: Tensor  # (S, T, 1, B)
    classes: int

    @staticmethod
    def of(orders: Sequence[SgdJob], classes: int) -> Dealt:
        index = [order.batches.table() for order in orders]
        counts, (steps, batch) = [own.shape[0] for own in index], index[0].shape
        labels = torch.zeros(len(orders), steps, 1, batch, dtype=torch.int64)
        for row, order, own in zip(labels, orders, index, strict=True):
            torch.take(order.y, own, out=row[: own.shape[0], 0])
        weight = None if all(order.batches.even for order in orders) else torch.zeros(len(orders), steps, 1, batch)
        if weight is not None:
            for row, order in zip(weight, orders, strict=True):
                row[: order.batches.steps, 0] = order.batches.weights()
        active = [sum(count > t for count in counts) for t in range(steps)]
        return Dealt(index, active, labels, weight, torch.zeros(len(orders), steps, 1, batch), classes)

    @property
    def batch(self) -> int:
        return self.labels.shape[3]

    def during(self, begin: int, steps: int) -> list[Seen]:
        """What is seen in so many steps from a first one on, as far as there are steps."""
        cut = slice(begin, begin + steps)
        labels, told = self.labels[:, cut], self.likelihood[:, cut]
        truth = torch.zeros(len(labels), labels.shape[1], self.classes, self.batch).scatter_(2, labels, 1.0)
        weight = told if self.weight is None else self.weight[:, cut]
        parts = zip(self.active[cut], *(part.unbind(1) for part in (labels, truth, weight, told)), strict=True)
        return [Seen(a, y[:a], t[:a], None if self.weight is None else w[:a], p[:a]) for a, y, t, w, p in parts]

    def losses(self) -> list[float]:
        """Of every client the mean losses of its batches, summed."""
        told = self.likelihood if self.weight is None else self.likelihood * self.weight
        return [-float(mine[: len(index)].sum()) / self.batch for mine, index in zip(told, self.index, strict=True)]


@dataclass(frozen=True)
class Parts:
    """What a stack trains, and what belongs to each of its models: (S, size) each, None where the rule has none."""

    rows: Tensor
    velocity: Tensor | None
    target: Tensor | None
    drift: Tensor | None

    @staticmethod
    def of(net: Net, orders: Sequence[SgdJob]) -> Parts:
        rows = net.pack([order.w for order in orders])
        targets, drifts = ([getattr(order, name) for order in orders] for name in ("target", "drift"))
        return Parts(
            rows,
            torch.zeros_like(rows) if orders[0].rule.momentum else None,
            net.pack(targets) if orders[0].target is not None else None,
            net.pack(drifts) if orders[0].drift is not None else None,
        )

    def first(self, count: int) -> Parts:
        """Those of the first models."""
        more = (None if part is None else part[:count] for part in (self.velocity, self.target, self.drift))
        return Parts(self.rows[:count], *more)


def _features(x: Tensor, width: int) -> Tensor:
    """Samples (n, ...) as a layer takes them in: the features, a one for the bias, and zeros; (n, width)."""
    x = x.flatten(1)
    ending = torch.zeros(len(x), width - x.shape[1])
    ending[:, 0] = 1
    return torch.cat([x, ending], 1)


def _inputs(features: Sequence[Tensor], dealt: Dealt) -> Iterator[tuple[int, Tensor]]:
    """The inputs of all steps, (S, T, B, width) for some of them from a first one on.

    Where an order has ended there is anything.
    """
    steps, batch, width = len(dealt.active), dealt.batch, features[0].shape[1]
    block = max(1, GATHERED // (4 * len(features) * batch * width))
    for start in range(0, steps, block):
        x = torch.empty(len(features), min(block, steps - start), batch, width)
        for row, mine, index in zip(x.unbind(), features, dealt.index, strict=True):
            wanted = index[start : start + block]
            torch.index_select(mine, 0, wanted.flatten(), out=row[: len(wanted)].view(-1, width))
        yield start, x


class Step:
    """One SGD step of the first models of a stack, each on its own batch. Views and memory are made once for many.

    below: whether something else trains what the net takes in, and wants the gradient there.
    """

    def __init__(self, net: Net, rule: SgdRule, batch: int, parts: Parts, below: bool = False) -> None:
        self.size = len(parts.rows)
        self._rule, self._parts = rule, parts
        rows, sink = parts.rows, parts.rows if parts.velocity is None else parts.velocity
        self._layers = net.layers
        self._lowest = -1 if below else next(k for k, layer in enumerate(net.layers) if layer.trained)
        self._weights = [layer.matrix(rows) for layer in net.layers]
        self._turned = [w.transpose(1, 2) for w in self._weights]
        self._into = [layer.matrix(sink) for layer in net.layers]
        self._hidden = [ones_behind(self.size, batch, layer) for layer in net.layers[1:]]
        self._ahead = [h[:, :, : d.inputs] for h, d in zip(self._hidden, net.layers[1:], strict=True)]
        self._sums = [rows.new_empty(self.size, batch, layer.outputs) for layer in net.layers[:-1]]
        self._errors = [rows.new_empty(self.size, batch, layer.width) for layer in net.layers[0 if below else 1 :]]
        self._logits = rows.new_empty(self.size, net.classes, batch)  # softmax is several times faster along the middle
        self._g = space(self.size, net.classes, batch)
        self._alpha, self._beta = rule.alpha / batch, rule.beta

    def __call__(self, x: Tensor, seen: Seen) -> Tensor:
        """On x (a, B, width); the gradient in what the lowest trained layer puts out, or in x (a, B, width)."""
        inputs = [x, *self._hidden]
        for w, h, sums, ahead in zip(self._turned, inputs, self._sums, self._ahead, strict=False):
            multiply(sums, h, w, beta=0.0)
            torch.clamp_min(sums, 0, out=ahead)
        multiply(self._logits, self._weights[-1], inputs[-1].transpose(1, 2), beta=0.0)
        log_p = torch.log_softmax(self._logits, 1)
        torch.gather(log_p, 1, seen.labels, out=seen.likelihood)
        g = torch.exp(log_p, out=self._g).sub_(seen.truth)
        g = self._back((g if seen.weight is None else g.mul_(seen.weight)).transpose(1, 2), inputs)
        self._finish()
        return g

    def _back(self, g: Tensor, inputs: list[Tensor]) -> Tensor:
        """From the gradient in the logits down to the lowest trained layer, or through all of them."""
        errors = self._errors[::-1]
        for depth, k in enumerate(range(len(self._layers) - 1, max(self._lowest, 0) - 1, -1)):
            if k > self._lowest:  # with the weights before their update
                multiply(errors[depth], g, self._weights[k], beta=0.0)
            if self._layers[k].trained:
                self._pull(self._layers[k].place)
                multiply(self._into[k], g.transpose(1, 2), inputs[k], beta=self._beta, alpha=self._alpha)
            if k > self._lowest:
                g = errors[depth] if k == 0 else _through_relu(errors[depth], inputs[k], self._layers[k].inputs)
        return g

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


def _through_relu(g: Tensor, outputs: Tensor, width: int) -> Tensor:
    """The gradient in a hidden layer's outputs (a, B, >= width) as one in its sums, in place; (a, B, width)."""
    threshold_backward(g, outputs, 0, grad_input=g)
    return g[:, :, :width]


def multiply(out: Tensor, a: Tensor, b: Tensor, beta: float = 1.0, alpha: float = 1.0) -> None:
    """out <- beta out + alpha a b, for every model of the stack; out lies side by side.

    For a stack of one torch takes other paths, which round otherwise. As a plain matrix it takes that of larger stacks;
    where a factor is a vector nothing does but a stack of two.
    """
    _, rows, columns = out.shape
    if len(out) > 1 or rows * columns * a.shape[2] < SMALL:
        out.baddbmm_(a, b, beta=beta, alpha=alpha)
    elif min(rows, columns, a.shape[2]) > 1:
        out[0].addmm_(a[0], b[0], beta=beta, alpha=alpha)
    else:
        two = torch.cat([out, out]).baddbmm_(a.expand(2, -1, -1), b.expand(2, -1, -1), beta=beta, alpha=alpha)
        out.copy_(two[:1])


def space(size: int, *shape: int) -> Tensor:
    """Memory (size, *shape) in which every model's part begins with a cache line."""
    width = torch.Size(shape).numel()
    return torch.empty(size, lines(width + 1))[:, :width].view(size, *shape)


def ones_behind(size: int, batch: int, layer: Dense) -> Tensor:
    """Room for what a layer takes in, (size, batch, width): zeros, and a one where the bias is."""
    room = torch.zeros(size, batch, layer.width)
    room[:, :, layer.inputs] = 1
    return room
