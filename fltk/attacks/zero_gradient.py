"""Zero gradient: a free rider that does not train.

J. Lin, M. Du, J. Liu. "Free-riders in Federated Learning: Attacks and Defenses." 2019. arXiv:1911.12560

    g <- 0                          (mode=plain)
    g <- r_k^t - r_k^{t'} + noise   (mode=delta)     t': the client's last attacked round, `plain` at the first

`delta` passes the last change of its own reference off as its work: harder to see. Noise has about `noise` times the
length of that change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, Sent, hyper, sent_update


@dataclass(frozen=True)
class ZeroGradient(Attack):
    """Nothing, or yesterday's news."""

    title: ClassVar[str] = "free rider: uploads what it got, or the last change of it"
    on_upload: ClassVar[bool] = True

    mode: str = hyper("plain", "send no change, or the last change of the received model", choices=("plain", "delta"))
    noise: float = hyper(0.0, "delta: length of added noise in lengths of the change", low=0)

    def prepare(self, everybody: Group, scene: Scene, memory: Memory) -> Memory:
        """`now` and `before` (M, d): the last two references of each malicious client; `seen` (M,) how many it has."""
        if self.mode == "plain":
            return memory
        d, m = everybody.parameters, len(scene.malicious)
        now = memory.get("now", torch.zeros(m, d)).clone()
        before = memory.get("before", torch.zeros(m, d)).clone()
        seen = memory.get("seen", torch.zeros(m, dtype=torch.int64)).clone()
        for sent in everybody.members:
            if sent.client in everybody.malicious:
                k = scene.malicious.index(sent.client)
                before[k], now[k] = now[k].clone(), sent.reference[:d]
                seen[k] += 1
        return {"now": now, "before": before, "seen": seen}

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        g = torch.zeros(group.parameters, dtype=torch.float64)
        k = scene.malicious.index(own.client)
        if self.mode == "delta" and int(memory["seen"][k]) > 1:
            g = memory["now"][k].double() - memory["before"][k].double()
            scale = self.noise * float(g.norm()) / math.sqrt(max(1, len(g)))
            g = g + scale * torch.randn(len(g), generator=scene.of(own.client), dtype=torch.float64)
        return sent_update(own, g)
