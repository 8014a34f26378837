"""Attention trust: weigh clients by the company that their updates keep, and by whether they move as far as others.

fltk's own rule, the second line of `attn`, as a judgement of uploads for every method:

    a_j   = mean of the max(1, ceil(0.2 n)) largest cos(g_j, g_i), i != j          nearest peers only
    t_j   = (a_j - median a) / (1.4826 MAD a + eps);   v_j = the same of log |g_j|
    trust = exp(-max(0, -t_j - 2) - max(0, |v_j| - 3)), 0 from e^-20 down

The equations stand in fltk.attention.trust; there, e^-20 is the least. Here it is nothing, because an upload may be so
long that the least part of it would decide. Trust is 1 for everybody with fewer than four uploads. No bound on f;
colluders are each other's nearest peers and are not seen. With `attn` and `--set trust=on` the two multiply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attention.trust import FLOOR, log_trust
from fltk.defences.base import Defence, Facts, Screened
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class AttentionTrust(Defence):
    """Trust by company and length."""

    title: ClassVar[str] = "weigh clients by the company and the length of their updates"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"screen"}))
    weighted: ClassVar[bool] = True

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        found = log_trust(facts.gram.products)
        return Screened(torch.where(found > FLOOR, found.exp(), 0.0), state=state)
