"""Class head: in an average of output layers, a client counts for each class by what it has seen of it.

Under label skew most clients know nothing of a class, and their row of the output layer for it only says "not
this". Row c of the layer (weights and bias) is therefore averaged with weights of its own, made from the weights
A_ij that the other columns get:

    A_ijc = A_ij (n_jc / n_j + nu / C) / sum_k A_ik (n_kc / n_k + nu / C),      nu = 1

n_jc: training samples of class c at client j, which the server has to know; C: number of classes. nu keeps a part
of the negative evidence. fltk's own rule, for every method that averages an output layer (`--head-mix classes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fltk.models.layout import Layout

NU = 1.0

Rule = Callable[[Sequence[Tensor], Tensor], Tensor]  # K rows (P,) and weights (K,) -> (P,)


@dataclass(frozen=True)
class ClassHead:
    """Where the rows of the output layer lie among the shared columns, and how much clients know of each class."""

    columns: Tensor  # (C, F + 1) int64, the weights and the bias of each class
    shares: Tensor  # (N, C) float64, n_jc / n_j + nu / C

    @staticmethod
    def of(layout: Layout, part: str, label_counts: Tensor, nu: float = NU) -> ClassHead | None:
        """The class head of the columns of `part`; None where the output layer is not among them.

        label_counts: (N, C) training samples per client and class.
        """
        columns = class_columns(layout, part)
        if columns is None:
            return None
        counts = label_counts.double()
        return ClassHead(columns, counts / counts.sum(1, keepdim=True) + nu / counts.shape[1])

    def with_client(self, labels: Tensor, nu: float = NU) -> ClassHead:
        """With one more client, as number N, whose training samples have these labels (n,)."""
        classes = self.shares.shape[1]
        share = torch.bincount(labels, minlength=classes).double() / max(1, len(labels)) + nu / classes
        return ClassHead(self.columns, torch.cat([self.shares, share[None]]))

    def weights(self, a: Tensor, ids: Sequence[int]) -> Tensor:
        """A_ijc of one target: weights (K,) of the clients `ids` -> (C, K) float64, rows on the simplex."""
        return _normal(a * self.shares[list(ids)].t())

    def average(self, out: Tensor, rows: Sequence[Tensor], a: Tensor, ids: Sequence[int], rule: Rule) -> Tensor:
        """`out` (P,), an average of `rows` (K, P) of the clients `ids` by `a` (K,), with its output layer made anew."""
        out = out.clone()  # a rule may give one of the rows itself
        for at, p in zip(self.columns, self.weights(a, ids), strict=True):
            out[at] = rule([row[at] for row in rows], p)
        return out

    def mix(self, out: Tensor, a: Tensor, rows: Tensor) -> Tensor:
        """`out` (N, P), the mixture a @ rows, with its output layers made anew in place: (N, N), (N, P)."""
        for at, share in zip(self.columns, self.shares.t(), strict=True):
            out[:, at] = (_normal(a * share) @ rows[:, at].double()).to(out.dtype)
        return out


def _normal(a: Tensor) -> Tensor:
    """Rows that sum to 1; a row without mass stays empty."""
    return a / a.sum(-1, keepdim=True).clamp_min(1e-300)


def class_columns(layout: Layout, part: str) -> Tensor | None:
    """(C, F + 1) int64: each class's row of the output layer, counted among the columns of `part`."""
    index = torch.arange(layout.size)
    head = [e for e in layout.entries if e.layer == layout.weighted_layers[-1]]
    wanted = torch.cat([e.view(index).reshape(e.shape[0], -1) for e in head], 1)
    shared = layout.take(index, part)
    if not bool(torch.isin(wanted, shared).all()):
        return None
    return torch.searchsorted(shared, wanted)
