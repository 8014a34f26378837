"""Mixing where parts of the model have maps of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fltk.methods.base import average, mix, weighted_sum
from fltk.methods.class_head import ClassHead
from fltk.models.layout import Ranges


def mix_parts(maps: Tensor, rows: Tensor, cuts: Sequence[Ranges], head: ClassHead | None) -> Tensor:
    """Every part's map times its columns: (G, N, N), (N, P) -> (N, P). One part is `mix`; the last one has the head."""
    if len(maps) == 1:
        return mix(maps[0], rows, head)
    out = torch.empty_like(rows)
    for a, cut in zip(maps, cuts, strict=True):
        for start, stop in cut:
            out[:, start:stop] = mix(a, rows[:, start:stop])
    return out if head is None else head.mix(out, maps[-1], rows)


def blend(weights: Tensor, rows: Tensor, cuts: Sequence[Ranges], head: ClassHead | None) -> Tensor:
    """One model by the weights of every part: (G, N), (N, P) -> (P,)."""
    chosen = torch.nonzero(weights.any(0)).flatten().tolist()
    models = [rows[j] for j in chosen]
    if len(weights) == 1:
        return average(models, weights[0][chosen], chosen, head)
    out = torch.empty_like(rows[0])
    for a, cut in zip(weights, cuts, strict=True):
        for start, stop in cut:
            out[start:stop] = weighted_sum([row[start:stop] for row in models], a[chosen])
    return out if head is None else head.average(out, models, weights[-1][chosen], chosen, weighted_sum)
