"""Inner products of rows, (K, P) with a model in each, which are gone through by cuts of their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fltk.memory.parallel import on_cores

CACHE = 3 << 20  # bytes
LEAST_COLUMNS, MOST_COLUMNS = 256, 1 << 15


def cuts(rows: Tensor) -> list[slice]:
    """Cuts of the columns of (K, P) so small that K of them in float64 fit into a core's cache."""
    chunk = min(MOST_COLUMNS, max(LEAST_COLUMNS, CACHE // (8 * len(rows))))
    return [slice(a, a + chunk) for a in range(0, rows.shape[1], chunk)]


def gram(rows: Tensor, origin: Tensor) -> Tensor:
    """Inner products of displacements: (K, P), (P,) -> (K, K) float64.

    Cuts of the columns are multiplied on all cores and added from left to right, so that the sum does not depend on
    the number of cores.
    """

    def products(cut: slice) -> Tensor:
        d = rows[:, cut].double().sub_(origin[cut])
        return d @ d.t()

    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for part in on_cores(products, cuts(rows)):
        total += part
    return total


@dataclass(frozen=True)
class Gram:
    """Inner products of K updates, computed when first asked for and shared by all that need them.

    rows: the updates (K, d), or with an `origin` (d,) the rows whose leading d columns are measured from it.  known:
    gives the products where something larger has them already.
    """

    rows: Sequence[Tensor] | Tensor
    origin: Tensor | None = None
    known: Callable[[], Tensor] | None = None

    @cached_property
    def updates(self) -> Tensor:
        """g_k, (K, d)."""
        if self.origin is None:
            return self.rows if isinstance(self.rows, Tensor) else torch.stack(list(self.rows))
        return torch.stack([row[: len(self.origin)] for row in self.rows]).sub_(self.origin)

    @cached_property
    def products(self) -> Tensor:
        """<g_i, g_j>, (K, K) float64."""
        if self.known is not None:
            return self.known()
        return gram(self.updates, torch.zeros_like(self.updates[0]))

    @cached_property
    def norms(self) -> Tensor:
        """|g_k|, (K,) float64."""
        return self.products.diagonal().clamp_min(0).sqrt()

    @cached_property
    def squared(self) -> Tensor:
        """|g_i - g_j|^2, (K, K) float64, measured from the first update, for precision."""
        g = gram(self.updates, self.updates[0])
        n = g.diagonal()
        return (n[:, None] + n - 2 * g).clamp_min(0).fill_diagonal_(0)

    @cached_property
    def cosines(self) -> Tensor:
        """cos(g_i, g_j), (K, K) float64; 0 where an update has no length, and 1 on the diagonal."""
        n = self.norms
        products = self.products / (n[:, None] * n).clamp_min(1e-300)
        return products.clamp(-1, 1).fill_diagonal_(1.0)
