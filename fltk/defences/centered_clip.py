"""Centred clipping: from a centre v, every upload pulls by at most tau; v starts at the last round's update.

S. P. Karimireddy, L. He, M. Jaggi. "Learning from History for Byzantine Robust Optimization." ICML 2021.
arXiv:2012.10333

    v <- v + sum_k a_k (g_k - v) min(1, tau / |g_k - v|)        L iterations; v is the next aggregated update

g_k are updates from the target's current model; v is kept per target and is 0 in the first round. tau is, unless given,
`tau_rel` times the median distance to the first v, because updates of small models are far shorter than the published
10 or 100.

Differs from the paper: clients send plain updates, not momentum; `momentum` puts the server's running mean
m_k <- beta m_k + (1 - beta) g_k of each client's updates in their place. Each client moves v by at most a_k tau an
iteration, however large its upload. Float buffers have no v: they are averaged by the clients' final weights, and the
target's own take what is left. No bound on f is needed; with less than about a tenth of malicious clients and momentum
the paper's guarantee holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.base import Combined, Defence, Facts, Screened, hyper
from fltk.defences.space import Rows, block, blocks, distances_to
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE


@dataclass(frozen=True)
class CenteredClip(Defence):
    """Steps of bounded length from the last update towards the uploads."""

    title: ClassVar[str] = "clip around the last round's update"
    forms: ClassVar[Mapping[str, frozenset[str]]] = dict.fromkeys(
        (ONE, CLUSTERS, MIXED), frozenset({"screen", "combine"})
    )
    rejects: ClassVar[bool] = False

    tau: float | None = hyper(None, "clipping distance (default: tau_rel median distances)", low=0, infinite=True)
    tau_rel: float = hyper(1.0, "clipping distance in median distances to the last update", low=0, infinite=True)
    iterations: int = hyper(3, "clipping steps L", low=1)
    momentum: float = hyper(0.0, "clip the server's running means of updates, which forget at this rate", low=0, high=1)

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        trust = torch.ones(len(updates), dtype=torch.float64)
        if not self.momentum:
            return Screened(trust, state=state)
        assert facts.rows is not None and facts.references is not None
        ids, d = list(facts.ids), facts.parameters
        means = state["means"].clone() if state else torch.zeros(facts.n_clients, d)
        means[ids] = torch.lerp(updates, means[ids], self.momentum)
        rows = [torch.cat([r[:d] + means[k], w[d:]]) for k, r, w in zip(ids, facts.references, facts.rows, strict=True)]
        return Screened(trust, rows, {"means": means})

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        assert facts.origin is not None
        origin, d = facts.origin, facts.parameters
        v = state["v"] if state else torch.zeros(d)
        base = origin[:d] if facts.gram.origin is None else facts.gram.origin
        centre = v + (origin[:d].double() - base)
        products = about(facts.gram.products, leanings(rows, base, centre), centre)
        away = products.diagonal().clamp_min(0).sqrt()
        tau = self.tau_rel * float(away.quantile(0.5)) if self.tau is None else self.tau
        c = clip_steps(products, weights, tau, self.iterations)
        out = origin.double() * (1 - c.sum())
        out[:d].add_(v, alpha=float(1 - c.sum()))
        for row, share in zip(rows, c.tolist(), strict=True):
            out.add_(row, alpha=share)
        moved = (out[:d] - origin[:d]).float()
        return Combined(out.to(origin.dtype), c, {"v": moved}, numbers={"clip_radius": tau})


def clip_steps(products: Tensor, weights: Tensor, tau: float, iterations: int) -> Tensor:
    """Weights c (K,) of the uploads in the next centre v + sum_k c_k (g_k - v); the rest stays with v.

    products: (K, K) <g_i - v, g_j - v>.  weights: (K,) float64, sum 1.
    """
    c = torch.zeros_like(weights)
    for _ in range(iterations):
        step = weights * (tau / distances_to(products, c).clamp_min(1e-300)).clamp_max(1)
        c = c * (1 - step.sum()) + step
    return c


def about(products: Tensor, leaning: Tensor, v: Tensor) -> Tensor:
    """<g_i - v, g_j - v> from <g_i, g_j> (K, K), <g_k, v> (K,) and v (d,), all from one point: (K, K)."""
    return products - leaning[:, None] - leaning + v.double().square().sum()


def leanings(rows: Rows, base: Tensor, v: Tensor) -> Tensor:
    """<w_k - base, v>: K rows (P,), (d,), (d,) -> (K,) float64."""
    total = torch.zeros(len(rows), dtype=torch.float64)
    for a, b in blocks(len(v) if bool(v.any()) else 0):
        total.addmv_(block(rows, a, b).double() - base[a:b], v[a:b].double())
    return total
