"""Mimic: all attackers send a copy of one benign client's model, which then counts several times.

S. P. Karimireddy, L. He, M. Jaggi. "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing." ICLR 2022.
arXiv:2006.09365

    w_k <- w_target
    target: the benign client `client` (mode=rank), or the one farthest along the direction of most variance:
    m_t = (t m_{t-1} + mu_t) / (t + 1)                      running mean of the benign mean update
    z'  = sum_i <g_i - m_t, z> (g_i - m_t),   z <- (t z + z' / |z'|) / (t + 1), normalised; a random one at first
    target = argmax_i <g_i, z>                              (mode=variance)

No outlier is to be seen: one distribution of data is over-represented. The target is one of the attacker's group. After
`warmup` rounds it stays; where it is away, the client farthest along z stands in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, Sent, hyper, mean_of


@dataclass(frozen=True)
class Mimic(Attack):
    """Copies of one honest upload."""

    title: ClassVar[str] = "copies of one benign client's upload"
    knows: ClassVar[frozenset[str]] = frozenset({"benign"})
    colludes: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    mode: str = hyper(
        "variance",
        "which client to copy: the extreme of a main direction, or a fixed one",
        choices=("variance", "rank"),
    )
    client: int = hyper(0, "rank: number of the copied client among the benign ones", low=0)
    warmup: int = hyper(0, "rounds after which the copied client stays the same (0: never)", low=0)

    def prepare(self, everybody: Group, scene: Scene, memory: Memory) -> Memory:
        """`mean`, `z` (d,) float64, `t` and `target` (), over the benign updates of all participants."""
        if self.mode == "rank" or not everybody.honest:
            return memory
        seen, t = everybody.benign, int(memory["t"]) if memory else 0
        start = torch.randn(everybody.parameters, generator=scene.shared(), dtype=torch.float64)
        z = memory["z"] if memory else start / start.norm().clamp_min(1e-300)
        mean = mean_of(seen) if not memory else (t * memory["mean"] + mean_of(seen)) / (t + 1)
        z = turned(z, [g - mean for g in seen], t)
        fixed = bool(memory) and 0 < self.warmup <= t
        target = memory["target"] if fixed else torch.tensor(extreme(everybody, z).client)
        return {"mean": mean, "z": z, "t": torch.tensor(t + 1), "target": target}

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        if not group.honest:
            return own.row
        if self.mode == "rank":
            return group.honest[self.client % len(group.honest)].row
        fixed = 0 < self.warmup < int(memory["t"])
        there = [s for s in group.honest if fixed and s.client == int(memory["target"])]
        return there[0].row if there else extreme(group, memory["z"]).row


def turned(z: Tensor, away: list[Tensor], t: int) -> Tensor:
    """The next direction of most variance, of length 1; the last one where there is no variance."""
    step = torch.zeros_like(z)
    for a in away:
        step += (a @ z) * a
    length = float(step.norm())
    if length <= 0:
        return z
    mixed: Tensor = (t * z + step / length) / (t + 1)
    mixed /= mixed.norm().clamp_min(1e-300)
    return mixed


def extreme(group: Group, z: Tensor) -> Sent:
    """The benign member with the largest <g_i, z>; the first of equal ones."""
    along = torch.stack([g.double() @ z for g in group.benign])
    return group.honest[int(along.argmax())]
