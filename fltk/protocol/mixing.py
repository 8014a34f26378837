"""Mixtures of the clients' models by a map."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fltk.memory.parallel import on_cores
from fltk.memory.products import cuts
from fltk.memory.shared import SHELF
from fltk.protocol.averaging import average

if TYPE_CHECKING:
    from fltk.protocol.class_head import ClassHead

TOGETHER = 128  # rows of a mixture that are made by one product, so that some have the bits that they have among all
FILLED = 0.15  # share of a map's entries from which on a dense product is faster
ALL = slice(None)


def mix(a: Tensor, rows: Tensor, head: ClassHead | None = None, out: Tensor | None = None, some: slice = ALL) -> Tensor:
    """a @ rows in float64 by cuts of the columns, on all cores: (N, N), (N, P) -> (N, P) float32.

    `head` is the task's `class_head`.  out: where to put it, unless all rows are one; without a head it may be `rows`.
    some: which rows are wanted, from a multiple of TOGETHER to another; without a head.
    A map whose rows are all equal has one target, which is averaged once and like any other: a map that has become
    FedAvg's gives FedAvg's bits. A one-hot row returns that client's row bit for bit (1.0 x + 0.0 is exact).
    """
    if bool((a == a[0]).all()):
        chosen = torch.nonzero(a[0]).flatten().tolist()
        return average([rows[j] for j in chosen], a[0][chosen], chosen, head).expand(len(a[some]), -1)
    sparse, a = _sparse(a, some), a[some]
    out = SHELF.matrix(len(a), rows.shape[1]) if out is None else out

    def mixed(cut: slice) -> None:
        columns = rows[:, cut].double()
        if sparse is not None:
            out[:, cut] = sparse @ columns
            return
        for part, into in zip(torch.split(a, TOGETHER), torch.split(out[:, cut], TOGETHER), strict=True):
            into.copy_(part @ columns)

    for _ in on_cores(mixed, cuts(rows)):
        pass
    return out if head is None else head.mix(out, a, rows)


def _sparse(a: Tensor, some: slice) -> Tensor | None:
    """Rows of a map by their entries, where products with these are faster for it; without MKL torch has none."""
    if int(a.count_nonzero()) > FILLED * a.numel() or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once that its sparse tensors are new
        return a[some].to_sparse_csr()
