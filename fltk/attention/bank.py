"""What a server does with uploads before it stores them, and where a layer's columns lie among the shared ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fltk.attention.tokens import SOME, secant, sketches
from fltk.attention.trust import clip_factors, log_trust
from fltk.memory.parallel import on_cores
from fltk.memory.products import gram
from fltk.models.layout import Layout, Ranges

SCREEN = 10.0  # an upload this many times farther from theta^0 than the median one is not stored


def screen(rows: Sequence[Tensor], start: Tensor) -> Tensor:
    """(K,) bool: rows (P,) not finite, or farther from theta^0 than 10 times the median of the finite ones."""
    norms = torch.tensor(list(on_cores(lambda w: float((w - start).norm()), rows, SOME)), dtype=torch.float64)
    finite = norms[torch.isfinite(norms)]
    limit = SCREEN * float(finite.quantile(0.5)) if len(finite) else 0.0
    return ~(norms <= max(limit, 0.0))


def judged(rows: Tensor, starts: Tensor, clip: float | None, trust: bool) -> tuple[Tensor, Tensor | None]:
    """Uploads (K, P) that came from `starts` (K, P): clipped, and their log trust (K,) from before the clipping."""
    updates = rows - starts
    found = log_trust(gram(updates, torch.zeros_like(updates[0]))) if trust else None
    return rows if clip is None else shortened(rows, starts, clip, updates.norm(dim=1)), found


def shortened(rows: Tensor, starts: Tensor, clip: float, norms: Tensor) -> Tensor:
    """Rows (K, P) that came from `starts` (K, P), with updates no longer than `clip` medians of `norms` (M,)."""
    updates = rows - starts
    factor = clip_factors(updates.norm(dim=1), clip, norms)[:, None]
    return torch.where(factor < 1, starts + factor * updates, rows)


def followed(before: Mapping[str, Tensor], again: Tensor, updates: Tensor, starts: Tensor) -> dict[str, Tensor]:
    """The next `update`, `begun` (where it started) and `secant` of the round's clients, those that `before` has.

    before: their last ones, (K, P) each.  again: (K,) bool, clients that have taken part before; the others have no
    secant yet, which is a row of zeros.  updates, starts: (K, P) of this round.
    """
    after = {"update": updates, "begun": starts}
    if "secant" in before:
        bent = secant(updates, before["update"], starts, before["begun"])
        after["secant"] = torch.where(again[:, None], bent, torch.zeros_like(bent))
    return {name: after[name] for name in before}


def layer_columns(layout: Layout, shared: str) -> dict[str, Ranges]:
    """Layer -> its column ranges among the columns of the part `shared`; layers outside of it are left out."""
    inside = layout.ranges(shared)

    def before(column: int) -> int:
        return sum(min(stop, column) - start for start, stop in inside if start < column)

    return {
        layer: tuple((before(a), before(b)) for a, b in layout.ranges(layer))
        for layer in layout.layers
        if any(start <= layout.ranges(layer)[0][0] < stop for start, stop in inside)
    }


def columns(rows: Tensor, cut: Ranges) -> Tensor:
    """The columns of `cut`: (..., P) -> (..., width). A view where they are one run."""
    pieces = [rows[..., a:b] for a, b in cut]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)


def of_clients(rows: Tensor, chosen: Tensor) -> Tensor:
    """Rows of the clients `chosen` (K,), ascending: (N, ...) -> (K, ...). A view where these are all."""
    return rows if len(chosen) == len(rows) else rows[chosen]


def width(cut: Ranges) -> int:
    """Number of columns."""
    return sum(b - a for a, b in cut)


def births(rows: Tensor, start: Tensor, cuts: Sequence[Ranges], r: int, seeds: Sequence[int]) -> list[Tensor]:
    """Displacements from `start` (P,), sketched part by part: (K, P) -> one (K, min(width, r)) float32 a part."""
    pairs = zip(cuts, seeds, strict=True)
    return [sketches(columns(rows, cut), columns(start, cut), r, seed).float() for cut, seed in pairs]
