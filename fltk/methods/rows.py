"""Arithmetic on clients as rows: averages and mixtures of their models, and the matrices in which they are kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fltk.attention.tokens import cuts
from fltk.defences.base import weighted_sum
from fltk.methods.class_head import ClassHead
from fltk.parallel import on_cores
from fltk.shared import SHELF, rows_of

TOGETHER = 128  # rows of a mixture that are made by one product, so that some have the bits that they have among all
FILLED = 0.15  # share of a map's entries from which on a dense product is faster
ALL = slice(None)


def average(rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int], head: ClassHead | None) -> Tensor:
    """One model from the shared columns of the clients `ids`: K rows (P,), (K,) -> (P,)."""
    out = weighted_sum(rows, weights)
    return out if head is None else head.average(out, rows, weights, ids, weighted_sum)


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


def stepped(old: Tensor, new: Tensor, step: float, parameters: int) -> Tensor:
    """old + step (new - old) in the first columns, (P,); float buffers behind them are those of `new`.

    A longer step would throw a running variance below zero.
    """
    return new if step == 1 else torch.cat([torch.lerp(old, new, step)[:parameters], new[parameters:]])


def equal_weights(count: int) -> Tensor:
    """1 / K each, (K,) float64."""
    return torch.full((count,), 1 / count, dtype=torch.float64)


def by_trust(weights: Tensor, trust: Tensor) -> Tensor:
    """Weights (K,) times trust (K,), normalised: the weights themselves under full trust, zeros where none is left."""
    if bool((trust == 1).all()):
        return weights
    mass = weights * trust
    return mass / mass.sum().clamp_min(1e-300)


def common_rows(p: Tensor) -> Tensor:
    """The map (N, N) of clients that all start from the mean by weights p (N,); own models where nobody entered it."""
    n = len(p)
    return p.expand(n, -1) if bool(p.any()) else torch.eye(n, dtype=p.dtype)


def renewed(rows: Tensor, new: Mapping[int, Tensor]) -> Tensor:
    """The clients' rows (N, ...) with `new` ones for some clients; without a copy if these are a matrix of all."""
    if list(new) == list(range(len(rows))):
        whole = rows_of(list(new.values()))
        if whole is not None and whole.dtype == rows.dtype:
            return whole
    out = written_anew(rows, len(new))
    for i, row in new.items():
        out[i] = row
    return out


def written_anew(rows: Tensor, count: int) -> Tensor:
    """A copy of the clients' rows (N, ...), of which `count` are about to be written: if all, only of their shape."""
    out = SHELF.matrix(*rows.shape) if rows.dim() == 2 and rows.dtype == torch.float32 else torch.empty_like(rows)
    return out if count == len(rows) else out.copy_(rows)


def enlarged(old: Tensor, new: Tensor | None, n: int, total: int) -> Tensor:
    """`old` as the leading block of `new`; of zeros without one, where dimensions of size n become `total`."""
    if new is None:
        new = old.new_zeros([total if size == n else size for size in old.shape])
    if new.shape == old.shape:
        return old
    out = new.clone()
    out[tuple(slice(size) for size in old.shape)] = old
    return out
