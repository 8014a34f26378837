"""The free attention aggregator: models in, map out. Nothing is learned or indexed by client id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fltk.attention import hierarchy, sparse
from fltk.attention.scores import WIDTHS, ceiling, energies, fix_self_weight, limit, lone, softmax_rows
from fltk.attention.tokens import Part, Projection, center_of, similarities, tokens

EXACT_BELOW = 1000  # clients; from here on the Gram matrix of whole models costs more than it is worth


@dataclass(frozen=True)
class Options:
    """How models become weights. The defaults are those of the method `attn`."""

    score: str = "gap"  # gap, relgap, raw, zscore
    tau: float | None = None  # width of the score; None: WIDTHS[score]
    ceiling: int = 1  # the ceiling is the similarity of the k-th best peer
    lone: float = 0.4  # a row whose ceiling is below this share of the median one falls back on itself; 0: none does
    gamma: float = 1.0  # exponent of the data-size prior
    bias: float = 0.0  # added to the score of the own model
    self_weight: float | None = None  # weight of the own model, instead of the scored one
    cap: float = 1.0  # largest weight of another client
    omega: float = 0.0  # share of the last update in the token
    curvature_weight: float = 0.25  # share of the secant estimate in the token, where there is one
    proj: str = "auto"  # similarities from a projection: none, countsketch, gaussian; auto: countsketch from 1000
    r: int = 1024  # numbers in a projected part of a token
    sparse: str = "auto"  # who may be attended to: none, lsh, topk; auto: lsh from 64 clients
    neighbours: int = 16  # topk: peers of a row; lsh: clients in a bucket, on average
    hashes: int = 4  # lsh: hash rounds
    hier: str = "off"  # two levels over clusters: off, kmeans, gmm
    hier_share: float = 0.2  # weight of the upper level
    seed: int = 0  # of the projection
    round_seed: int = 0  # of the hash rotations and of the clustering

    @property
    def width(self) -> float:
        """tau, in use."""
        return WIDTHS[self.score] if self.tau is None else self.tau

    def projection(self, k: int) -> Projection | None:
        """The projection used for K clients, if there is one."""
        if self.proj == "auto":
            return "countsketch" if k >= EXACT_BELOW else None
        return None if self.proj == "none" else cast(Projection, self.proj)

    def sparsity(self, k: int) -> str:
        """The mask used for K clients; two levels are a mask of their own."""
        if self.sparse != "auto":
            return self.sparse
        return "lsh" if k >= sparse.DENSE_BELOW and self.hier == "off" else "none"


DEFAULTS = Options()


@dataclass(frozen=True)
class Attention:
    """A map and what it rests on."""

    map: Tensor  # (K, K) float64, rows on the simplex
    similarity: Tensor  # (K, K) float64
    ceiling: Tensor  # (K,) the best peer's similarity
    lone: Tensor  # (K,) bool, rows that fell back on the own model
    clusters: Tensor | None = None  # (K,) int64, with two levels


def attend(
    models: Tensor,
    options: Options = DEFAULTS,
    *,
    center: Tensor | str = "mean",
    samples: Tensor | Sequence[float] | None = None,
    updates: Tensor | None = None,
    secants: Tensor | None = None,
    keys: Tensor | Sequence[bool] | None = None,
    trust: Tensor | Sequence[float] | None = None,
) -> Attention:
    """Attention of K clients over K clients.

    models: (K, P) flat models.  center: (P,) the common start from which displacements are measured, or mean,
    median or none.  samples: (K,) for the data-size prior n_j^gamma (default: all equal).  updates: (K, P) last
    updates, for omega > 0.  secants: (K, P) from `tokens.secant`.  keys: (K,) bool, who may be attended to by others
    (default: all).  trust: (K,) log rho_j <= 0 (default: full).  Raises ValueError where omega lacks its updates.
    What is one number a client may be a list or an array.
    """
    origin = center if isinstance(center, Tensor) else center_of(models, center, None)
    parts = parts_of(models, origin, options, updates, secants)
    s, mask = compared(parts, options)
    n, rho = (None if given is None else torch.as_tensor(given, dtype=torch.float64) for given in (samples, trust))
    known = None if keys is None else torch.as_tensor(keys, dtype=torch.bool)
    return weigh(s, options, samples=n, keys=known, trust=rho, mask=mask)


def compared(parts: Sequence[Part], options: Options) -> tuple[Tensor, Tensor | None]:
    """Similarities (K, K) float64, and with hashing who may attend to whom (K, K) bool."""
    k = len(parts[0].rows)
    projection, hashed = options.projection(k), options.sparsity(k) == "lsh"
    if projection is None and not hashed:
        return similarities(parts), None
    z = tokens(parts, options.r, options.seed, projection or "countsketch")
    s = similarities(parts) if projection is None else (z @ z.t()).clamp_(-1, 1).fill_diagonal_(1.0)
    return s, sparse.lsh(z, options.hashes, options.neighbours, options.round_seed) if hashed else None


def parts_of(
    models: Tensor, origin: Tensor, options: Options, updates: Tensor | None = None, secants: Tensor | None = None
) -> list[Part]:
    """What the clients' tokens consist of: displacement, update and curvature with their shares."""
    if options.omega > 0 and updates is None:
        raise ValueError("omega > 0 needs the clients' updates")
    bend = 0.0 if secants is None else options.curvature_weight
    parts = [Part(models, origin, (1 - bend) * (1 - options.omega))]
    for rows, share in ((updates, (1 - bend) * options.omega), (secants, bend)):
        if rows is not None:
            parts.append(Part(rows, torch.zeros_like(rows[0]), share))
    return parts


def weigh(
    s: Tensor,
    options: Options = DEFAULTS,
    *,
    samples: Tensor | None = None,
    keys: Tensor | None = None,
    trust: Tensor | None = None,
    mask: Tensor | None = None,
) -> Attention:
    """The map that belongs to similarities (K, K) of any origin; arguments as in `attend`.

    mask: (K, K) bool, pairs that may attend to each other (default: all, or the best with options.sparse=topk).
    """
    k = len(s)
    own = torch.eye(k, dtype=torch.bool)
    peer = ~own if keys is None else ~own & keys
    labels = None if options.hier == "off" else hierarchy.clusters(s, options.hier, options.round_seed)
    if labels is not None:
        peer = peer & (labels[:, None] == labels)
    if options.sparsity(k) == "topk":
        mask = sparse.topk(s, options.neighbours, peer)
    if mask is not None:
        peer = peer & mask
    log_n = prior(k, options.gamma, samples)
    m = ceiling(s, peer, options.ceiling)
    alone = lone(m, options.lone)
    e = energies(s, m, options.score, options.width, own, peer) + options.bias * own.to(s.dtype)
    if trust is not None:
        e = e + trust * ~own
    a = softmax_rows(e, log_n, peer | own)
    if labels is not None:
        mass = (log_n if trust is None else log_n + trust).exp()
        upper = hierarchy.across(s, labels, mass if keys is None else mass * keys, 2 * options.width)
        share = options.hier_share * (upper.sum(1, keepdim=True) > 0).to(s.dtype)
        a = (1 - share) * a + share * upper
    return Attention(finish(a, own, alone, options), s, m, alone, labels)


def prior(k: int, gamma: float, samples: Tensor | None) -> Tensor:
    """gamma log n_j, (K,) float64."""
    n = torch.ones(k, dtype=torch.float64) if samples is None else samples.double()
    return gamma * n.log()


def finish(a: Tensor, own: Tensor, alone: Tensor, options: Options) -> Tensor:
    """The rules that overrule scores, in this order: fixed self-weight, cap, lone. (K, C), (K, C), (K,) -> (K, C)."""
    if options.self_weight is not None:
        a = fix_self_weight(a, options.self_weight, own)
    if options.cap < 1:
        a = limit(a, options.cap, own)
    return torch.where(alone[:, None], own.to(a.dtype), a)
