"""FoolsGold: clients whose updates have been alike over all rounds are taken for copies of one another.

C. Fung, C. J. M. Yoon, I. Beschastnikh. "The Limitations of Federated Learning in Sybil Settings." RAID 2020.
arXiv:1808.04866

    H_k   = sum of g_k over the rounds with k                   cs_ij = cos(H_i, H_j), i != j
    v_i   = max(0, max_j cs_ij);   cs_ij <- cs_ij v_i / v_j where v_i < v_j         pardon, with the v from before it
    a_i   = 1 - max(0, max_j cs_ij) in [0, 1], divided by the largest; 1 becomes 0.99
    t_i   = ln(a_i / (1 - a_i)) + 1/2 in [0, 1]

Differs from the paper: cosines are of all parameters instead of the indicative features, and the mean is normalised by
the sum of t. No bound on f; a single attacker is not seen, and honest clients with alike data are punished. If all
clients are copies, or only one is there, everybody is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attention.tokens import cosines
from fltk.defences.base import Defence, Facts, Screened
from fltk.memory.products import gram
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class FoolsGold(Defence):
    """Little trust in clients that keep doing the same."""

    title: ClassVar[str] = "little trust in clients whose updates have been alike in all rounds"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"screen"}))
    condition: ClassVar[str] = "n >= 2"

    def most(self, n: int) -> int:
        return n if n > 1 else -1

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        ids = list(facts.ids)
        history = state["history"].clone() if state else torch.zeros(facts.n_clients, updates.shape[1])
        history.index_add_(0, torch.tensor(ids), updates)
        rows = history if len(ids) == len(history) else history[ids]
        alike = cosines(gram(rows, torch.zeros_like(rows[0])))
        alike = alike * torch.outer(rows.any(1), rows.any(1))
        trust = lone_trust(alike)
        notes: tuple[str, ...] = ()
        if trust is None:
            trust = torch.ones(len(ids), dtype=torch.float64)
            notes = ("foolsgold: all clients' histories are alike; everybody is trusted",)
        return Screened(trust, state={"history": history}, notes=notes)


def lone_trust(alike: Tensor) -> Tensor | None:
    """t_i from cosines of histories, (K, K) -> (K,) float64; None where nobody differs from all others."""
    cs = alike.clone().fill_diagonal_(0)  # the maximum of cosines that are all negative is 0
    v = cs.amax(1).clamp_min(0)
    pardoned = torch.where(v[:, None] < v, cs * v[:, None] / v.clamp_min(1e-300), cs)
    a = (1 - pardoned.amax(1)).clamp(0, 1)
    if float(a.max()) <= 1e-9:
        return None
    a = (a / a.max()).clamp_max(0.99)
    return (torch.logit(a) + 0.5).clamp(0, 1)
