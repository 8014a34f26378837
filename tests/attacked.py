"""Attackers and defences around toy runs, for the tests of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from toys import random

from fltk import attacks, defences
from fltk.attacks.base import Attack, Group, Memory, Scene, Sent
from fltk.attacks.campaign import Campaign
from fltk.engine.base import Job, Protection
from fltk.protocol.state import State
from fltk.train.streams import Streams

BAD = (1, 3)


def attacked(
    job: Job,
    kind: str,
    params: Mapping[str, Any] | None = None,
    *,
    malicious: Sequence[int] = BAD,
    start: int = 0,
    stop: float = 1e9,
    size: float = 1.0,
    seed: int = 5,
) -> Job:
    """The job with an attack; rounds are counted from 0."""
    made = attacks.create(kind, params or {})
    return replace(job, campaign=Campaign(made, tuple(sorted(malicious)), start, stop, size, Streams(seed)))


def defended(
    job: Job, name: str, params: Mapping[str, Any] | None = None, *, share: float = 0.25, weights: str = ""
) -> Job:
    """The job with a defence."""
    return replace(job, protection=Protection(name, defences.create(name, params or {}), share, weights))


def plain(state: State) -> dict[str, Tensor]:
    """A state's tensors without what attackers and defence remember."""
    return {k: v for k, v in state.tensors().items() if not k.startswith(("server.attack", "server.defence"))}


def group(updates: Tensor, malicious: Sequence[int], reference: Tensor | None = None, buffers: int = 0) -> Group:
    """Participants 0..K-1 with these updates (K, d) from one reference, and some buffer columns behind them."""
    d = updates.shape[1]
    start = random(d + buffers, seed=99) if reference is None else reference
    rows = [torch.cat([start[:d] + g, random(buffers, seed=k) + 7]) for k, g in enumerate(updates)]
    return Group(tuple(Sent(k, w, start) for k, w in enumerate(rows)), frozenset(malicious), d, "same-reference")


def scene(
    malicious: Sequence[int] = BAD, round: int = 0, weights: Mapping[int, float] | None = None, **more: Any
) -> Scene:
    """A round as attackers see it."""
    return Scene(
        round=round,
        streams=Streams(5),
        fresh=lambda generator: torch.randn(9, generator=generator),
        weights=weights or {},
        malicious=tuple(malicious),
        **more,
    )


def sent(attack: Attack, found: Group, at: Scene, memory: Memory | None = None) -> tuple[dict[int, Tensor], Memory]:
    """Update (d,) that each malicious member of a group sends, and what they remember."""
    known = attack.prepare(found, at, memory or {})
    forged = attack.forge(found, at, known)
    d, out = found.parameters, {}
    for own in found.members:
        if own.client in found.malicious:
            row = attack.poison_upload(own, forged, found, at, known)
            assert torch.equal(row[d:], own.row[d:]) or attack.title.startswith(("copies", "uploads a model"))
            out[own.client] = row[:d].double() - own.reference[:d].double()
    return out, known
