"""A second, private head beside a shared one, and the shape of the output layer.

Fed-RoD (H.-Y. Chen, W.-L. Chao. "On Bridging Generic and Personalized Federated Learning for Image Classification."
ICLR 2022. arXiv:2107.00778) adds the logits of a generic and of a personal head. Both are linear in the same
features, so that the sum is one head u + v: the personal head is an additive offset v of the head's columns.
"""

from __future__ import annotations

from torch import Tensor

from fltk.models.layout import Layout
from fltk.partition.federation import ClientData
from fltk.train.trainer import Trainer


def head_shape(layout: Layout) -> tuple[int, int]:
    """(C, F): classes and features of the output layer."""
    weight = next(e for e in layout.entries if e.layer == layout.weighted_layers[-1])
    return weight.shape[0], weight.shape[1]


def with_offset(w: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """The model whose head is u + v: (P,), (width of the head,) -> (P,)."""
    return layout.put(w, "head", layout.take(w, "head") + v)


def trained_offset(w: Tensor, v: Tensor, client: ClientData, trainer: Trainer) -> Tensor:
    """The next v: the run's local work on u + v over the frozen features of `w` (P,), with u held at that of `w`."""
    layout = trainer.layout
    both = trainer.sgd(with_offset(w, v, layout), client.train, only="head")
    return layout.take(both, "head") - layout.take(w, "head")
