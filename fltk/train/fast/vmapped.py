"""Local SGD of many clients at once through `torch.func.vmap`: for a GPU, which small models leave idle.

One function gives the gradient of one client's batch; vmap runs it for S clients in one kernel each. Any model will do
that has no running statistics. A short batch is filled up with samples of weight zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fltk.models.layout import Layout, Ranges
from fltk.objectives import CLASSIFICATION, Objective
from fltk.train.order import Order, Rule, Trained

TOGETHER = 64  # clients in one kernel

Gradient = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def fits(layout: Layout) -> bool:
    """Whether a model can be trained so: all of it is weights, and none of them are those of recurrent layers."""
    recurrent = any(e.recurrent for e in layout.entries)
    return layout.trainable == layout.size and not recurrent


def gradient(model: nn.Module, layout: Layout, objective: Objective = CLASSIFICATION) -> Gradient:
    """Gradients (S, P) and mean losses (S,) of rows (S, P) on batches (S, B, ...), labels and weights (S, B)."""

    def loss(row: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        logits = functional_call(model, {e.name: e.view(row) for e in layout.entries}, (x,))
        return (objective.loss(logits, y) * weight).mean()

    return vmap(grad_and_value(loss))


def train(orders: Sequence[Order], gradients: Gradient, ranges: Ranges, device: torch.device) -> list[Trained]:
    """Plays orders of one rule and one batch size."""
    by_length = sorted(range(len(orders)), key=lambda k: -orders[k].batches.steps)
    played = [orders[k] for k in by_length]
    rows, losses = _play(played, gradients, ranges, device)
    done = dict(zip(by_length, map(Trained, rows.cpu(), losses.tolist(), rows.sum(1).tolist()), strict=True))
    return [done[k] for k in range(len(orders))]


def _play(orders: Sequence[Order], gradients: Gradient, ranges: Ranges, device: torch.device) -> tuple[Tensor, Tensor]:
    """The trained models (S, P), longest order first, and the losses, summed over the steps."""
    rule, data = orders[0].rule, [(order.x.to(device), order.y.to(device)) for order in orders]
    tables = [(o.batches.table().to(device), o.batches.weights().to(device)) for o in orders]
    rows = torch.stack([order.w.to(device) for order in orders])
    velocity = torch.zeros_like(rows) if rule.momentum else None
    target, drift = (_stacked([getattr(order, name) for order in orders], device) for name in ("target", "drift"))
    losses = torch.zeros(len(rows), device=device)
    for t in range(orders[0].batches.steps):
        a = sum(order.batches.steps > t for order in orders)  # orders end one by one, the last of the stack first
        x = torch.stack([x[index[t]] for (x, _), (index, _) in zip(data[:a], tables, strict=False)])
        y = torch.stack([y[index[t]] for (_, y), (index, _) in zip(data[:a], tables, strict=False)])
        weight = torch.stack([weight[t] for _, weight in tables[:a]])
        grads, values = gradients(rows[:a], x, y, weight)
        losses[:a] += values
        if rule.ascend:
            grads = grads.neg()
        for cut in (slice(*cut) for cut in ranges):
            more = (None if part is None else part[:a, cut] for part in (velocity, target, drift))
            _update(rule, grads[:, cut], rows[:a, cut], *more)
    return rows, losses


def _stacked(rows: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """What the orders of one rule all have or all have not."""
    given = [row for row in rows if row is not None]
    return torch.stack(given).to(device) if given else None


def _update(
    rule: Rule, grads: Tensor, rows: Tensor, velocity: Tensor | None, target: Tensor | None, drift: Tensor | None
) -> None:
    """One SGD step of some columns of all models, in place."""
    if rule.weight_decay:
        grads = grads + rule.weight_decay * rows
    if target is not None:
        grads = grads + rule.lam * (rows - target)
    if drift is not None:
        grads = grads + drift
    if velocity is not None:
        grads = velocity.mul_(rule.momentum).add_(grads)
    rows.add_(grads, alpha=-rule.lr)
