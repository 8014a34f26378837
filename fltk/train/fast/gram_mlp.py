"""Local SGD of several perceptrons at once, with the first layer in its dual form.

The first layer of a perceptron holds nearly all of its weights, and SGD changes them by outer products with samples
only. So its weights after any number of steps are

    W_t = a_t W_0 + u_t U + d_t D + C_t^T X

with the weights W_0 at the start, the target U of the pull, the drift D, the client's samples X (n, F) and coefficients
C_t (n, H) (Aizerman, Braverman and Rozonoer 1964 of the perceptron; Irie, Csordas and Schmidhuber 2022, section 3, of
any linear layer). What the layer puts out for a batch B follows from products with all samples at once,

    X_B W_t^T = a_t (X W_0^T)_B + u_t (X U^T)_B + d_t (X D^T)_B + K_B C_t        K = X X^T + 1

and W itself is made once, at the end. Instead of two thin products of F x H for every batch there are two thick ones
for all of them; the steps work in n x H, which stays in the cache. K depends on the samples alone and is kept for later
rounds. The bias belongs to W, with an input of one; hence the 1.

a, u, d and how the gradient of one step acts on all later ones are numbers that follow from the rule alone (`Course`):
decay, pull, drift and momentum cost nothing in a step. Other layers are trained as in `fltk.train.fast.stack`, and so a
client's weights do not depend on its neighbours here either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast
from weakref import finalize

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fltk.train.fast.stack import (
    LINE,
    Dealt,
    Dense,
    Net,
    Parts,
    Step,
    longest_first,
    multiply,
    ones_behind,
    space,
    threshold_backward,
    told,
)
from fltk.train.order import SgdJob, SgdRule, Trained

TOGETHER = 32  # clients in a stack
BLOCK = 128  # samples whose steps are taken one by one; behind them their gradients are gathered in C
NARROW = 16  # outputs of a first layer below which the samples' products with each other cost more than they save
KEPT = 1 << 28  # bytes of kernels that are kept
ROUNDING = 1e-12  # of shares, which are float64

Known = dict[int, tuple[Tensor, Tensor]]  # by the place of samples in memory, those and a model's outputs for them


class Products:
    """Products with samples that come again, for as long as somebody holds what was multiplied."""

    def __init__(self) -> None:
        self._kernels: Any = WeakIdKeyDictionary()  # samples -> (their version, K)
        self._outputs: Any = WeakIdKeyDictionary()  # model -> (its version, {place of samples: (samples, outputs)})
        self._bytes = 0

    def kernel(self, samples: Tensor, x: Tensor) -> Tensor:
        """K = X X^T + 1 (n, n) of samples (n, ...), whose rows are x (n, F)."""
        version, kernel = cast(tuple[int | None, Tensor | None], self._kernels.get(samples, (None, None)))
        if kernel is None or version != samples._version:
            kernel = torch.mm(x, x.t()).add_(1)
            if version is None and self._bytes + kernel.nbytes <= KEPT:
                self._bytes += kernel.nbytes
                finalize(samples, self._freed, kernel.nbytes).atexit = False
                self._kernels[samples] = samples._version, kernel
        return kernel

    def _freed(self, size: int) -> None:
        self._bytes -= size

    def outputs(self, model: Tensor, samples: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """What a model puts out for samples: a target of one order is often the start of the client's next."""
        version, known = cast(tuple[int | None, Known], self._outputs.get(model, (None, {})))
        if version != model._version or len(known) > 2 * TOGETHER:
            known = {}
            self._outputs[model] = model._version, known
        if id(samples) not in known:
            known[id(samples)] = samples, make()
        return known[id(samples)][1]


def suits(net: Net, order: SgdJob) -> bool:
    """Whether the dual form pays: fewer samples than features, all of them seen, and a hidden layer of some width."""
    first, n = net.layers[0], len(order.y)
    wide = len(net.layers) > 1 and first.trained and first.outputs >= NARROW
    return wide and order.batches.size > 1 and n <= first.inputs and 2 * order.batches.steps * order.batches.size > n


def train(net: Net, orders: Sequence[SgdJob], products: Products) -> list[Trained]:
    """Plays orders of one rule and one batch size on a whole perceptron."""
    places = longest_first(orders)
    flats, losses = _play(net, [orders[k] for k in places], products)
    return told(places, flats, losses)


def _play(net: Net, orders: Sequence[SgdJob], products: Products) -> tuple[Tensor, list[float]]:
    """The trained models (S, P), longest order first, and the losses, summed over the steps."""
    dealt, upper = Dealt.of(orders, net.classes), net.above()
    parts = Parts.of(upper, orders)
    firsts = _firsts(net.layers[0], orders, dealt, products)
    for begin in range(0, len(dealt.active), firsts[0].course.block):
        active = firsts[: dealt.active[begin]]
        block = _Block.of(active, begin)
        _steps(block, upper, parts, dealt, firsts[0].course)
        for first, gradients in zip(active, block.gradients, strict=True):
            first.gather(begin, gradients)
    flats = space(len(orders), len(orders[0].w))
    for flat, first in zip(flats, firsts, strict=True):
        first.write(flat)
    upper.unpack(parts.rows, flats)
    return flats, dealt.losses()


def _steps(block: _Block, upper: Net, parts: Parts, dealt: Dealt, course: Course) -> None:
    """Plays the steps of a block: fills in its gradients, and trains the upper layers."""
    batch, width = block.outputs.shape[2:]
    step: Step | None = None
    for t, seen in enumerate(dealt.during(block.begin, course.block)):
        active, start = seen.active, t * batch
        if step is None or step.size != active:
            step = Step(upper, course.rule, batch, parts.first(active), below=True)
            hidden = ones_behind(active, batch, upper.layers[0])
        now, ahead = slice(start, start + batch), hidden[:, :, :width]
        sums, gradients = block.outputs[t, :active], block.gradients[:active]
        if start:
            multiply(sums, block.kernels[:active, now, :start], gradients[:, :start], alpha=course.even)
        torch.clamp_min(sums, 0, out=ahead)
        error = step(hidden, seen)[:, :, :width]
        threshold_backward(error, ahead, 0, grad_input=gradients[:, now])


@dataclass(frozen=True)
class _Block:
    """Some steps of the first layers of a stack: m samples, whatever stack it is.

    outputs: what the layers put out but for the block's own steps.  kernels: how the gradient of a sample (column)
    changes the output for a later one (row).  gradients: in the outputs, filled in step by step.
    """

    begin: int  # the first step
    outputs: Tensor  # (steps, S, B, H): torch has a fast path for products that lie side by side
    kernels: Tensor  # (S, m, m)
    gradients: Tensor  # (S, m, H)

    @staticmethod
    def of(firsts: Sequence[_First], begin: int) -> _Block:
        size, course, width = len(firsts), firsts[0].course, firsts[0].layer.outputs
        m = course.block * course.batch
        outputs = torch.empty(course.block, size, course.batch, width)
        block = _Block(begin, outputs, space(size, m, m), space(size, m, width))
        for first, outputs, kernels in zip(firsts, block.outputs.unbind(1), block.kernels, strict=True):
            first.expect(begin, outputs, kernels)
        return block


@dataclass(frozen=True)
class _Fixed:
    """A matrix that stays what it is while its client trains: the start, the target of the pull, or the drift."""

    flat: Tensor  # (P,)
    outputs: Tensor  # (n, H): what it makes of the samples
    share: Tensor | None  # (T + 1,) float64: how much of it is in the weights after 0, 1, ... steps; None: all of it

    def during(self, index: Tensor, begin: int) -> Tensor:
        """Its part of the outputs for the samples (t, B) of the steps from a first one on: (t B, H)."""
        outputs = self.outputs.index_select(0, index.flatten())
        if self.share is None:
            return outputs
        return outputs.mul_(_spread(self.share[begin : begin + len(index)], index.shape[1]))

    def end(self, steps: int) -> float:
        return 1.0 if self.share is None else float(self.share[steps])


@dataclass
class _First:
    """The first layer of one client. C and its like for the velocity are None as long as they are zero."""

    layer: Dense
    course: Course
    index: Tensor  # samples of its steps (T, B) int64
    x: Tensor  # (n, F)
    kernel: Tensor  # K (n, n)
    start: _Fixed
    target: _Fixed | None
    drift: _Fixed | None
    c: Tensor | None = None  # (n, H)
    velocity: Tensor | None = None  # (n, H)

    def expect(self, begin: int, outputs: Tensor, kernels: Tensor) -> None:
        """Writes a block's outputs (steps, B, H) but for its own steps, and its kernels (m, m), as far as it goes."""
        course, index = self.course, self.index[begin : begin + self.course.block]
        flat, m = index.flatten(), index.numel()
        rows, out = self.kernel.index_select(0, flat), self.start.during(index, begin)
        for fixed in (self.target, self.drift):
            if fixed is not None:
                out += fixed.during(index, begin)
        for gathered, share in ((self.c, course.w_of_w), (self.velocity, course.w_of_v)):
            if gathered is not None:
                out.addcmul_(torch.mm(rows, gathered), _spread(share[: len(index)], course.batch))
        outputs[: len(index)] = out.view(*index.shape, -1)
        torch.index_select(rows, 1, flat, out=kernels[:m, :m])
        if course.within is not None:
            kernels[:m, :m].mul_(course.within[:m, :m])

    def gather(self, begin: int, gradients: Tensor) -> None:
        """Takes the gradients (m, H) of a block into C."""
        course, index = self.course, self.index[begin : begin + self.course.block]
        count, flat = len(index), index.flatten()
        before, gradients = (self.c, self.velocity), gradients[: len(flat)]
        self.c = self._carried(before, course.w_of_w[count], course.w_of_v[count])
        if course.within is None:
            self.c.index_add_(0, flat, gradients, alpha=course.even)
        else:
            self.c.index_add_(0, flat, gradients * course.onto(count)[0])
        if course.rule.momentum:
            self.velocity = self._carried(before, course.v_of_w[count], course.v_of_v[count])
            self.velocity.index_add_(0, flat, gradients * course.onto(count)[1])

    def _carried(self, before: tuple[Tensor | None, Tensor | None], of_c: Tensor, of_velocity: Tensor) -> Tensor:
        """What C and its like for the velocity have become behind a block without its gradients."""
        c, velocity = before
        if c is None:
            return torch.zeros(len(self.x), self.layer.outputs)
        now = c * float(of_c)
        return now if velocity is None else now.add_(velocity, alpha=float(of_velocity))

    def write(self, flat: Tensor) -> None:
        """Writes the trained weights and biases into a flat model (P,)."""
        cut, end = slice(self.layer.weight.start, self.layer.bias.stop), len(self.index)
        row, start = flat[cut], self.start.flat[cut]
        kept = self.start.end(end)
        if self.target is None:
            row.copy_(start)
        else:  # who is at the target stays there, exactly
            torch.lerp(start, self.target.flat[cut], self.target.end(end), out=row)
            kept += self.target.end(end)
        if abs(kept - 1) > ROUNDING:
            row.add_(start, alpha=kept - 1)
        if self.drift is not None:
            row.add_(self.drift.flat[cut], alpha=self.drift.end(end))
        assert self.c is not None
        flat[self.layer.weight].view(self.layer.outputs, self.layer.inputs).addmm_(self.c.t(), self.x)
        flat[self.layer.bias].add_(self.c.sum(0))


def _firsts(layer: Dense, orders: Sequence[SgdJob], dealt: Dealt, products: Products) -> list[_First]:
    """The first layers of a stack before their first step."""
    block = max(1, BLOCK // dealt.batch)
    course = _course(orders[0].rule, -(-len(dealt.active) // block), block, dealt.batch)
    known: dict[int, Tensor] = {}

    def fixed(flat: Tensor | None, samples: Tensor, x: Tensor, share: Tensor | None) -> _Fixed | None:
        if flat is None:
            return None
        if id(flat) not in known:
            known[id(flat)] = _aligned(flat)
        w = known[id(flat)]

        def make() -> Tensor:
            return torch.addmm(w[layer.bias], x, w[layer.weight].view(layer.outputs, layer.inputs).t())

        return _Fixed(w, products.outputs(flat, samples, make), share)

    def first(order: SgdJob, index: Tensor) -> _First:
        x, there = _aligned(order.x.flatten(1)), order.target is not None and _same(order.target, order.w)
        start = fixed(order.w, order.x, x, course.start_at_target if there else course.start)
        target = None if there else fixed(order.target, order.x, x, course.w_of_target)
        drift = fixed(order.drift, order.x, x, course.w_of_drift)
        assert start is not None
        return _First(layer, course, index, x, products.kernel(order.x, x), start, target, drift)

    return [first(order, index) for order, index in zip(orders, dealt.index, strict=True)]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two models are one piece of memory; as objects they may be one here and two in another process."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


def _aligned(x: Tensor) -> Tensor:
    """The same numbers side by side, from the beginning of a cache line on."""
    there = x.is_contiguous() and x.data_ptr() % (LINE * x.element_size()) == 0
    return x if there else x.clone(memory_format=torch.contiguous_format)


def _spread(shares: Tensor, batch: int) -> Tensor:
    """A number for every step (t,) as one for every sample of these steps (t B, 1)."""
    return shares.float().repeat_interleave(batch)[:, None]


class Course:
    """What a rule makes of weights w and velocity v, whatever the data; float64, for 0, 1, ... steps.

    Every step is linear, so that w and v are sums of what becomes of each cause alone: `w_of_v` is w where there was
    a velocity of 1 at the beginning and nothing else, `w_of_target` where there is a target of 1 throughout;
    `w_of_gradient[t]` is w t steps behind one in which a sample's gradient was 1.
    """

    def __init__(self, rule: SgdRule, blocks: int, block: int, batch: int) -> None:
        """For so many blocks of `block` steps on `batch` samples each."""
        self.rule, self.block, self.batch = rule, block, batch
        length = blocks * block
        self.w_of_w, self.v_of_w = _response(rule, length, w=1.0)
        self.w_of_v, self.v_of_v = _response(rule, length, v=1.0)
        self.w_of_target, _ = _response(rule, length, target=1.0)
        self.w_of_drift, _ = _response(rule, length, drift=1.0)
        self.start = _unless_whole(self.w_of_w)
        self.start_at_target = _unless_whole(self.w_of_w + self.w_of_target)
        step = rule.alpha / batch
        first = {"w": -rule.lr * step, "v": step} if rule.momentum else {"w": step}
        self.w_of_gradient, self.v_of_gradient = _response(rule, length, **first)
        same = bool((self.w_of_gradient == self.w_of_gradient[0]).all())
        self.even = float(self.w_of_gradient[0]) if same else 1.0
        self.within = None if same else self._within()  # (m, m), else all are even
        self._onto: dict[int, tuple[Tensor, Tensor]] = {}

    def _within(self) -> Tensor:
        """How much of a gradient of a block (column) there is in w for a sample of it (row): (m, m)."""
        since = torch.arange(self.block)[:, None] - torch.arange(self.block) - 1
        shares = torch.where(since >= 0, self.w_of_gradient[since.clamp(min=0)], 0.0).float()
        return shares.repeat_interleave(self.batch, 0).repeat_interleave(self.batch, 1)

    def onto(self, steps: int) -> tuple[Tensor, Tensor]:
        """How much of the gradients of so many steps is in w and in v behind them: (m, 1) each."""
        if steps not in self._onto:
            parts = (self.w_of_gradient, self.v_of_gradient)
            w, v = (_spread(part[:steps].flip(0), self.batch) for part in parts)
            self._onto[steps] = w, v
        return self._onto[steps]


def _unless_whole(share: Tensor) -> Tensor | None:
    return None if bool(((share - 1).abs() <= ROUNDING).all()) else share


_course = lru_cache(maxsize=16)(Course)


def _response(
    rule: SgdRule, steps: int, w: float = 0.0, v: float = 0.0, target: float = 0.0, drift: float = 0.0
) -> tuple[Tensor, Tensor]:
    """w and v after 0, 1, ..., `steps` steps without gradients: (steps + 1,) float64 each."""
    path = [(w, v)]
    for _ in range(steps):
        if rule.momentum:
            v = rule.momentum * v + rule.weight_decay * w + rule.lam * (w - target) + drift
            w -= rule.lr * v
        else:
            w = rule.beta * (w + rule.reach * (target - w)) - rule.lr * drift
        path.append((w, v))
    ws, vs = torch.tensor(path, dtype=torch.float64).unbind(1)
    return ws.contiguous(), vs.contiguous()
