"""Mixing where parts of the model have maps of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fltk.attention.bank import columns
from fltk.memory.products import Gram
from fltk.models.layout import Ranges
from fltk.protocol.averaging import average, weighted_sum
from fltk.protocol.class_head import ClassHead
from fltk.protocol.mixing import ALL, mix
from fltk.protocol.server import Server
from fltk.protocol.verdict import Verdict


def mix_parts(
    maps: Tensor,
    rows: Tensor,
    cuts: Sequence[Ranges],
    head: ClassHead | None,
    out: Tensor | None = None,
    some: slice = ALL,
) -> Tensor:
    """Every part's map times its columns: (G, N, N), (N, P) -> (N, P). One part is `mix`; the last one has the head.

    out, some: as in `mix`.
    """
    if len(maps) == 1:
        return mix(maps[0], rows, head, out, some)
    out = torch.empty_like(rows[some]) if out is None else out
    for a, cut in zip(maps, cuts, strict=True):
        for start, stop in cut:
            out[:, start:stop] = mix(a, rows[:, start:stop], some=some)
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


class Mixed(NamedTuple):
    """Maps (G, N, N) as they really are, and the mixtures (N, P); None where these are just the maps times the bank."""

    maps: Tensor
    rows: Tensor | None


def defended(
    maps: Tensor, bank: Tensor, cuts: Sequence[Ranges], server: Server, current: Callable[[], Sequence[Tensor]]
) -> Mixed:
    """What a round's defence makes of maps (G, N, N) over everybody's last row `bank` (N, P).

    Row i is one target, whose own entry is exempt from trust and clipping; a row of which trust leaves nothing becomes
    the own model. `current`: the models (P,) that the N targets have now, asked for under a rule only.
    """
    if server.watch is None:
        return Mixed(maps, None)
    maps = torch.stack([server.watch.weigh_map(a) for a in maps])
    others = server.watch.usable(bank)
    if server.watch.guard.combines:
        return _by_rule(
            maps, bank, bank if others is None else others, cuts, server.watch, torch.stack(list(current()))
        )
    if others is None:
        return Mixed(maps, None)
    out = mix_parts(maps, others, cuts, server.task.class_head)
    for i in torch.nonzero((others != bank).any(1) & (maps.diagonal(dim1=1, dim2=2) > 0).any(0)).flatten().tolist():
        rows = others.clone()
        rows[i] = bank[i]
        out[i] = blend(maps[:, i], rows, cuts, server.task.class_head)
    return Mixed(maps, out)


def _by_rule(
    maps: Tensor, bank: Tensor, others: Tensor, cuts: Sequence[Ranges], watch: Verdict, current: Tensor
) -> Mixed:
    """Every target by the rule; targets with equal weights, rows, models and memories are computed once."""
    out, used = current.clone(), maps.clone()
    for g, (a, cut) in enumerate(zip(maps, cuts, strict=True)):
        mine, theirs, start = columns(bank, cut), columns(others, cut), columns(current, cut)
        parameters = sum(max(0, min(stop, watch.guard.parameters) - begin) for begin, stop in cut)
        whole = Gram(
            theirs, theirs[middle(theirs), :parameters]
        )  # asked for by few rules, and then once for all targets
        done: dict[tuple[bytes, ...], tuple[int, Tensor, Tensor]] = {}
        for i in torch.nonzero(a.any(1)).flatten().tolist():
            ids = torch.nonzero(a[i]).flatten().tolist()
            own = b"" if torch.equal(mine[i], theirs[i]) or not a[i, i] else bytes([i % 256, i // 256])
            target = f"part{g}-client{i}"
            key = (a[i].numpy().tobytes(), start[i].numpy().tobytes(), own, watch.memory(target))
            if key in done:
                twin, row, weights = done[key]
                watch.copy(f"part{g}-client{twin}", target)
            else:
                rows = [mine[j] if j == i else theirs[j] for j in ids]
                some = None if own else share(whole, ids)
                row, weights = watch.apply(rows, a[i, ids], ids, start[i], target, _mean, parameters, some)
                done[key] = i, row, weights
            used[g, i, ids] = weights
            at = 0
            for begin, stop in cut:
                out[i, begin:stop] = row[at : at + stop - begin]
                at += stop - begin
    return Mixed(used, out)


def _mean(rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int]) -> Tensor:
    return weighted_sum(rows, weights)


def middle(rows: Tensor) -> int:
    """Which of the rows (N, P) has the middle length: no farther out than honest ones while these are the most.

    Products that are measured from it keep their digits, however long the rows of a few attackers are.
    """
    return int(rows.norm(dim=1).argsort(stable=True)[len(rows) // 2])


def share(whole: Gram, ids: Sequence[int]) -> Gram:
    """The Gram matrix of some of the rows of another one."""
    return Gram([whole.rows[k] for k in ids], whole.origin, lambda: whole.products[ids][:, ids])
