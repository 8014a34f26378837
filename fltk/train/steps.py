"""Steps of client optimisers, element by element, on the columns of one model or of a stack of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fltk.train.order import ADAMW, SgdRule


def shorten(pieces: Sequence[Tensor], longest: float) -> None:
    """Gradients of one model, in place, as short as `longest` together (torch.nn.utils.clip_grad_norm_)."""
    squares = [piece.square().sum() for piece in pieces]
    norm = torch.stack(squares).sum().sqrt()
    scale = (longest / (norm + 1e-6)).clamp_max(1.0)
    for piece in pieces:
        piece.mul_(scale)


def decay(rule: SgdRule, w: Tensor, g: Tensor) -> None:
    """Weight decay in place: of the weights themselves with adamw, else as a part of the gradient."""
    if rule.optimiser == ADAMW:
        w.mul_(1 - rule.lr * rule.weight_decay)
    else:
        g.add_(w, alpha=rule.weight_decay)


def adam(rule: SgdRule, w: Tensor, g: Tensor, m: Tensor, v: Tensor, step: int) -> None:
    """Step `step`, from 1, of Adam (D. P. Kingma, J. Ba, ICLR 2015, algorithm 1) in place, element by element."""
    m.lerp_(g, 1 - rule.beta1)
    v.mul_(rule.beta2).addcmul_(g, g, value=1 - rule.beta2)
    first, second = 1 - rule.beta1**step, 1 - rule.beta2**step
    scale = (v.sqrt() / math.sqrt(second)).add_(rule.eps)
    w.addcdiv_(m, scale, value=-rule.lr / first)
