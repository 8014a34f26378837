"""A round of uploads as defences see it, without a method, an engine or a runner around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from toys import random

from fltk import defences
from fltk.defences.base import Combined, Facts, Screened
from fltk.defences.base import Defence as Defence
from fltk.memory.products import Gram
from fltk.protocol.averaging import MIXED, ONE, weighted_sum


def uploads(k: int = 10, d: int = 60, spread: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows (k, d) that moved from a start (d,) by a common vector of length about 1, with noise of length `spread`."""
    start, common = random(d, seed=seed), random(d, seed=seed + 1)
    return start + (common + spread * random(k, d, seed=seed + 2)) / d**0.5, start


def equal(k: int) -> Tensor:
    """Equal weights (k,)."""
    return torch.full((k,), 1 / k, dtype=torch.float64)


def facts(rows: Sequence[Tensor] | Tensor, start: Tensor, f: int = 0, seed: int = 0, **more: Any) -> Facts:
    """What a rule is told of K rows (P,) that all started from `start` (P,), or each from its own (K, P)."""
    d = more.pop("parameters", len(rows[0]))
    starts = start.expand(len(rows), -1) if start.dim() == 1 else start
    updates = torch.stack([row[:d] for row in rows]) - starts[:, :d]
    told = {"ids": tuple(range(len(rows))), "weights": equal(len(rows)), "round": 0, "n_clients": len(rows)} | more
    generator = torch.Generator().manual_seed(seed)
    return Facts(
        f=f,
        generator=generator,
        parameters=d,
        gram=Gram(updates),
        references=starts,
        rows=list(rows),
        origin=starts[0],
        **told,
    )


def judge(
    defence: Defence, rows: Tensor, start: Tensor, state: Mapping[str, Tensor] | None = None, **more: Any
) -> Screened:
    """One screening."""
    told = facts(rows, start, **more)
    return defence.screen(told.gram.updates, told, state or {})


def merge(
    defence: Defence,
    rows: Tensor,
    start: Tensor,
    weights: Tensor | None = None,
    state: Mapping[str, Tensor] | None = None,
    **more: Any,
) -> Combined:
    """One combination."""
    told = facts(rows, start, **more)
    return defence.combine(list(rows), equal(len(rows)) if weights is None else weights, told, state or {})


def aggregate(name: str, rows: Tensor, start: Tensor, f: int = 0, **params: Any) -> tuple[Tensor, Tensor]:
    """One global model by a defence, as 8.0.1 says: the screen, then the rule or the mean; and the clients' weights."""
    defence = defences.create(name, params)
    weights, kept = equal(len(rows)), list(rows)
    if "screen" in defence.forms[ONE]:
        root = (rows.contiguous().median(0).values - start).expand(len(rows), -1) if defence.needs_root else None
        found = judge(defence, rows, start, f=f, root=root)
        weights = found.trust / found.trust.sum()
        kept = list(found.rows or kept)
    if "combine" in defence.forms[ONE]:
        merged = merge(defence, torch.stack(kept), start, weights, f=f)
        return merged.row, merged.used
    return weighted_sum(kept, weights), weights


def mixes(name: str) -> bool:
    """Whether a defence has a rule of its own for rows of a map."""
    return "combine" in defences.defence_class(name).forms.get(MIXED, ())
