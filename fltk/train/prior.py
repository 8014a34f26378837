"""A client's label prior as an offset of the logits, for models that end in a linear layer.

    pi_c   = (sum_j n_jc + 1) / sum_c' (sum_j n_jc' + 1)          pooled share of class c
    p_ic   = (n_ic + eps C pi_c) / (n_i + eps C),  eps = 0.1      share at client i, drawn to the pooled one
    logits = f(x)_c + log(p_ic / pi_c)

Adding the offset to the bias of the last layer gives these logits exactly, and training from there is training with
the offset in the loss: the gradient does not see the difference, and the offset stays in the bias.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fltk.models.layout import Layout

EPSILON = 0.1


def log_prior(counts: Tensor, pooled: Tensor, epsilon: float = EPSILON) -> Tensor:
    """log(p_ic / pi_c) of clients: (N, C) training samples per class -> (N, C) float64; 0 where p_i = pi.

    pooled: (C,) samples per class of all clients that train.
    """
    pi = (pooled + 1).double()
    pi = pi / pi.sum()
    prior = epsilon * len(pi)
    n = counts.double()
    return torch.log((n + prior * pi) / (n.sum(1, keepdim=True) + prior) / pi)


def in_bias(layout: Layout, offset: Tensor) -> Tensor:
    """A flat model (P,) that is zero but for the bias of the last layer, which is `offset` (C,)."""
    head = [e for e in layout.entries if e.layer == layout.weighted_layers[-1]]
    row = torch.zeros(layout.size)
    next(e for e in head if len(e.shape) == 1).view(row).copy_(offset)
    return row
