"""Local SGD of many clients at once through `torch.func.vmap`: for a GPU, which small models leave idle.

One function gives the gradient of one client's batch; vmap runs it for S clients in one kernel each. Any model will do
that has no running statistics. A short batch is filled up with samples of weight zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from fltk.models.layout import Layout, Ranges
from fltk.train.losses import Batch, Given, Loss, Net
from fltk.train.order import SGD, SgdJob, SgdRule, Trained
from fltk.train.steps import adam, decay

TOGETHER = 64  # clients in one kernel


def fits(layout: Layout) -> bool:
    """Whether a model can be trained so: all of it is weights, and none of them are those of recurrent layers."""
    recurrent = any(e.recurrent for e in layout.entries)
    return layout.trainable == layout.size and not recurrent


class Gradients:
    """Gradients of many clients' losses at once, for every loss that methods bring."""

    def __init__(self, net: Net, default: Loss) -> None:
        """default: the loss of orders that bring none."""
        self._net = net
        self.default = default
        self._known: dict[Loss, Any] = {}

    def __call__(
        self, loss: Loss, rows: Tensor, batch: Batch, weight: Tensor, given: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Gradients (S, P) and mean losses (S,) of rows (S, P) on batches (S, B, ...) with weights (S, B)."""
        if loss not in self._known:

            def mean(row: Tensor, x: Tensor, y: Tensor, index: Tensor, weight: Tensor, given: Given) -> Tensor:
                return (loss(self._net, row, Batch(x, y, index), given) * weight).mean()

            self._known[loss] = vmap(grad_and_value(mean))
        found: tuple[Tensor, Tensor] = self._known[loss](rows, batch.x, batch.y, batch.index, weight, dict(given))
        return found


def train(orders: Sequence[SgdJob], gradients: Gradients, ranges: Ranges, device: torch.device) -> list[Trained]:
    """Plays orders of one rule and one batch size."""
    by_length = sorted(range(len(orders)), key=lambda k: -orders[k].batches.steps)
    played = [orders[k] for k in by_length]
    rows, losses = _play(played, gradients, ranges, device)
    done = dict(zip(by_length, map(Trained, rows.cpu(), losses.tolist(), rows.sum(1).tolist()), strict=True))
    return [done[k] for k in range(len(orders))]


class _Stack:
    """The orders of one rule, longest first, as tensors with a row for each."""

    def __init__(self, orders: Sequence[SgdJob], device: torch.device) -> None:
        self.steps = [order.batches.steps for order in orders]
        self.x = [order.x.to(device) for order in orders]
        self.y = [order.y.to(device) for order in orders]
        self.index = [order.batches.table().to(device) for order in orders]
        self.weight = [order.batches.weights().to(device) for order in orders]

    def at(self, step: int) -> tuple[Batch, Tensor]:
        """The batches (A, B, ...) of a step, and the samples' weights (A, B), of the A orders that have so many."""
        active = sum(steps > step for steps in self.steps)
        index = [table[step] for table in self.index[:active]]
        x = [samples[numbers] for samples, numbers in zip(self.x, index, strict=False)]
        y = [labels[numbers] for labels, numbers in zip(self.y, index, strict=False)]
        weight = [table[step] for table in self.weight[:active]]
        return Batch(torch.stack(x), torch.stack(y), torch.stack(index)), torch.stack(weight)


def _play(
    orders: Sequence[SgdJob], gradients: Gradients, ranges: Ranges, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The trained models (S, P), longest order first, and the losses, summed over the steps."""
    rule, loss, stack = orders[0].rule, orders[0].loss or gradients.default, _Stack(orders, device)
    rows = torch.stack([order.w.to(device) for order in orders])
    losses = torch.zeros(len(rows), device=device)

    adaptive = rule.optimiser != SGD
    first = torch.zeros_like(rows) if rule.momentum or adaptive else None
    second = torch.zeros_like(rows) if adaptive else None
    target = _stacked([order.target for order in orders], device)
    drift = _stacked([order.drift for order in orders], device)
    given = {name: _together([order.given[name] for order in orders], device) for name in orders[0].given}

    for step in range(orders[0].batches.steps):
        # orders end one by one, the last of the stack first
        batch, weight = stack.at(step)
        active = len(weight)
        some = {name: tensor[:active] for name, tensor in given.items()}
        grads, values = gradients(loss, rows[:active], batch, weight, some)
        losses[:active] += values
        if rule.ascend:
            grads = grads.neg()
        moments = [_first(part, active) for part in (first, second)]
        terms = [_first(part, active) for part in (target, drift)]
        _update(rule, grads, rows[:active], moments, terms, ranges, step + 1)
    return rows, losses


def _first(part: Tensor | None, count: int) -> Tensor | None:
    """The first rows of a stack, where there is one."""
    return None if part is None else part[:count]


def _together(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors of all orders in one."""
    return torch.stack([tensor.to(device) for tensor in tensors])


def _stacked(rows: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """What the orders of one rule all have or all have not."""
    given = [row for row in rows if row is not None]
    return torch.stack(given).to(device) if given else None


def _update(
    rule: SgdRule,
    grads: Tensor,
    rows: Tensor,
    moments: Sequence[Tensor | None],
    terms: Sequence[Tensor | None],
    ranges: Ranges,
    step: int,
) -> None:
    """One step of the trained columns of all models, in place; see `fltk.train.backend._Update`."""
    (first, second), (target, drift) = moments, terms
    if rule.weight_decay and rule.fuses:
        grads = grads + rule.weight_decay * rows
    if target is not None:
        grads = grads + rule.lam * (rows - target)
    if drift is not None:
        grads = grads + drift
    if rule.clip < math.inf:
        grads = _shortened(grads, ranges, rule.clip)

    for start, stop in ranges:
        w, g = rows[:, start:stop], grads[:, start:stop]
        m = None if first is None else first[:, start:stop]
        if rule.weight_decay and not rule.fuses:
            g = g.clone()
            decay(rule, w, g)
        if second is not None and m is not None:
            adam(rule, w, g, m, second[:, start:stop], step)
            continue
        if m is not None:
            g = m.mul_(rule.momentum).add_(g)
        w.add_(g, alpha=-rule.lr)


def _shortened(grads: Tensor, ranges: Ranges, longest: float) -> Tensor:
    """Gradients (S, P), each as short as `longest` in the trained columns."""
    squares = [grads[:, a:b].square().sum(1) for a, b in ranges]
    norms = torch.stack(squares).sum(0).sqrt()
    return grads * (longest / (norms + 1e-6)).clamp_max(1.0)[:, None]
