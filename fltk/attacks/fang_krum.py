"""Fang's attack on Krum: equal updates against the benign direction, short enough to be chosen.

M. Fang, X. Cao, J. Jia, N. Z. Gong. "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning." USENIX
Security 2020. arXiv:1911.11815

    g <- -lam sign(mu)
    lam_0 = 1 / ((n - 2f - 1) sqrt(d)) min_i sum_{j in Gamma_i} |g_i - g_j| + 1 / sqrt(d) max_i |g_i|
    lam halves from lam_0 until Krum, run on f copies and the benign updates, picks a copy; it gives up below 1e-5

i, j benign, Gamma_i the n - f - 2 benign ones nearest to i. Krum is run with the f that the server's defence assumes,
and that of the group without one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, mean_of
from fltk.defences.base import assumed
from fltk.errors import UsageError
from fltk.memory.products import Gram

LEAST = 1e-5


@dataclass(frozen=True)
class FangKrum(Attack):
    """Copies of one vector that Krum takes for the centre of the crowd."""

    title: ClassVar[str] = "against Krum: equal updates that it selects"
    knows: ClassVar[frozenset[str]] = frozenset({"benign", "defence"})
    colludes: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    def check(self, shape: tuple[int, ...], n_classes: int, participants: int, malicious: int) -> tuple[str, ...]:
        if malicious and participants <= 2 * malicious + 1:
            raise UsageError(
                f"--malicious: fang-krum needs n > 2f + 1 clients in a round, and {malicious} of {participants} are "
                "too many"
            )
        return ()

    def forge(self, group: Group, scene: Scene, memory: Memory) -> Tensor:
        if not group.honest:
            return torch.zeros(group.parameters, dtype=torch.float64)
        known = Gram(group.benign)
        f = group.f if scene.assumed is None else assumed(scene.assumed, group.n)
        direction = -mean_of(group.benign).sign()
        along = torch.stack([g.double() @ direction for g in group.benign])
        lam = first_length(known, group.n, group.f)
        while lam >= LEAST and not selected(known, along, float(direction @ direction), lam, group, f):
            lam /= 2
        if lam < LEAST:
            scene.say("fang-krum: no length was found at which Krum selects an attacker")
        return lam * direction


def first_length(known: Gram, n: int, f: int) -> float:
    """lam_0 from the benign updates of n clients with f attackers."""
    root = math.sqrt(max(1, known.updates.shape[1]))
    near = max(0, min(n - f - 2, len(known.updates) - 1))
    others = known.squared.sqrt().fill_diagonal_(torch.inf)
    sums = others.topk(near, largest=False).values.sum(1)
    return float(sums.min()) / (max(1, n - 2 * f - 1) * root) + float(known.norms.max()) / root


def selected(known: Gram, along: Tensor, length2: float, lam: float, group: Group, rule_f: int) -> bool:
    """Whether Krum, run with `rule_f`, picks one of f copies of lam dir: along (m,) = <g_i, dir>, length2 = |dir|^2."""
    m, f = len(along), group.f
    bad = torch.tensor([s.client in group.malicious for s in group.members])
    good = torch.nonzero(~bad).flatten()
    to_copy = (known.norms.square() - 2 * lam * along + lam * lam * length2).clamp_min(0)
    d2 = torch.zeros(m + f, m + f, dtype=torch.float64)
    d2[good[:, None], good] = known.squared
    d2[good[:, None], torch.nonzero(bad).flatten()] = to_copy[:, None]
    d2[torch.nonzero(bad).flatten()[:, None], good] = to_copy
    others = d2 + torch.diag(torch.full((m + f,), torch.inf, dtype=torch.float64))
    scores = others.topk(min(m + f, max(1, m + f - rule_f - 2)), largest=False).values.sum(1)
    return bool(bad[scores.argmin()])
