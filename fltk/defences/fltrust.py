"""FLTrust: the server trains on a small clean set of its own, and trusts those whose updates point the same way.

X. Cao, M. Fang, J. Liu, N. Z. Gong. "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping." NDSS 2021.
arXiv:2012.13995

    TS_k = max(0, cos(g_k, g_0))                    g_0: the server's update from the same row, by the clients' settings
    g_k <- |g_0| / |g_k| g_k
    out  = r + sum_k TS_k g_k / sum_k TS_k

Where clients start from different rows, each has a g_0 of its own. No bound on f: it is as good as the root set, which
fails clients whose data or labels differ from it. Float buffers are not rescaled. Where nobody is trusted, the model
stays. An update of no length has trust 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Defence, Facts, Screened
from fltk.defences.space import row_dots
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class FLTrust(Defence):
    """Trust by the cosine with the server's own update, and updates of its length."""

    title: ClassVar[str] = "trust by the cosine with an update that the server trains itself"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys((ONE, CLUSTERS, MIXED), frozenset({"screen"}))
    needs_root: ClassVar[bool] = True

    def most(self, n: int) -> int:
        return n

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        assert facts.rows is not None and facts.references is not None and facts.root is not None
        own = row_dots(facts.root, facts.root).sqrt()
        trust, factors = root_trust(row_dots(updates, facts.root), facts.gram.norms, own)
        d = facts.parameters
        rows = []
        for row, start, factor in zip(facts.rows, facts.references, factors.tolist(), strict=True):
            moved = start[:d].double() + factor * (row[:d].double() - start[:d])
            rows.append(torch.cat([moved.to(row.dtype), row[d:]]))
        notes = (
            ()
            if bool(trust.any())
            else ("fltrust: no update points where that of the root set does; the model is kept",)
        )
        return Screened(trust, rows, state, notes)


def root_trust(products: Tensor, norms: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """TS_k and |g_0| / |g_k| from <g_k, g_0>, |g_k| and |g_0|, all (K,) -> (K,), (K,); both 0 without a length."""
    known = (norms > 0) & (own > 0)
    trust = (products / (norms * own).clamp_min(1e-300)).clamp(0, 1)
    return trust * known, (own / norms.clamp_min(1e-300)) * known
