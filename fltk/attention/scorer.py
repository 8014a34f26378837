"""A learned score between clients: one set of projections for all of them, several heads, a width per head.

    x_i = z_i + e_l,   psi(x) = x + W_2 gelu(W_1 x + b_1) + b_2       embedding e_l of layer l and MLP: options
    q_i = W_Q psi(x_i),   k_j = W_K psi(x_j),   S_ij = <q_i, k_j> / sqrt(d)
    A   = mean over heads of the map that the free mode makes of S and the head's width

A token z (d,) is a unit vector, which stands in for the usual LayerNorm. No parameter is indexed by client, so a
scorer applies to cohorts of any size and to clients it has never seen. At the start e_l, W_2 and b_2 are zero and
W_Q = W_K = d^(1/4) R with an orthogonal R, so that S_ij = <z_i, z_j>: the map is that of the free mode. R is the
identity in the first head and random in the others, because equal heads would get equal gradients for ever.

The derivative goes through the ceiling m_i as well. Held constant, it would be right for the width and mislead the
projections: whatever raises a whole row of S raises its ceiling too and leaves the gaps alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from fltk.attention.attend import Attention, Options, weigh

DEFAULTS = Options()


@dataclass(frozen=True)
class Scorer:
    """The parameters phi, float64. H heads, tokens of size d, MLP of width m, L layers."""

    query: Tensor  # (H, d, d)
    key: Tensor  # (H, d, d)
    log_tau: Tensor  # (H,)
    w1: Tensor | None = None  # (m, d); None without an MLP, as the next three
    b1: Tensor | None = None  # (m,)
    w2: Tensor | None = None  # (d, m)
    b2: Tensor | None = None  # (d,)
    layer: Tensor | None = None  # (L, d); None with one map for the whole model

    def tensors(self) -> dict[str, Tensor]:
        """The parameters that exist, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in named.items() if v is not None}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Scorer:
        """The inverse of `tensors`."""
        return Scorer(**tensors)


def initial(d: int, tau: float, *, heads: int = 1, width: int = 0, layers: int = 0, seed: int = 0) -> Scorer:
    """The scorer that equals the free mode of width `tau`, for tokens of size d.

    width: of the MLP (128 is ample), 0 for none.  layers: number of layer embeddings, 0 for none.  seed: of the
    rotations of all heads but the first, and of the MLP's first layer.
    """
    generator = torch.Generator().manual_seed(seed)
    rotations = [torch.eye(d, dtype=torch.float64)]
    rotations += [torch.linalg.qr(_normal(generator, d, d)).Q for _ in range(heads - 1)]
    w = torch.stack(rotations) * d**0.25
    return Scorer(
        query=w,
        key=w.clone(),
        log_tau=torch.full((heads,), math.log(tau), dtype=torch.float64),
        w1=_normal(generator, width, d) if width else None,  # tokens have length 1: the units' inputs have variance 1
        b1=torch.zeros(width, dtype=torch.float64) if width else None,
        w2=torch.zeros(d, width, dtype=torch.float64) if width else None,
        b2=torch.zeros(d, dtype=torch.float64) if width else None,
        layer=torch.zeros(layers, d, dtype=torch.float64) if layers else None,
    )


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def similarities(scorer: Scorer, tokens: Tensor, others: Tensor | None = None, layer: int | None = None) -> Tensor:
    """S of every head: tokens (K, d), of the clients attended to (C, d), by default the same -> (H, K, C).

    Tokens shorter than d, such as those of a small layer, are filled up with zeros.  layer: the embedding to add.
    """
    psi = _features(scorer, tokens, layer)
    keys = psi if others is None else _features(scorer, others, layer)
    return psi @ scorer.query.mT @ (keys @ scorer.key.mT).mT / math.sqrt(scorer.query.shape[-1])


def _features(scorer: Scorer, tokens: Tensor, layer: int | None) -> Tensor:
    """psi (K, d)."""
    x = F.pad(tokens, (0, scorer.query.shape[-1] - tokens.shape[1]))
    if layer is not None and scorer.layer is not None:
        x = x + scorer.layer[layer]
    if scorer.w1 is None or scorer.w2 is None:
        return x
    return x + F.linear(F.gelu(F.linear(x, scorer.w1, scorer.b1)), scorer.w2, scorer.b2)


def learned_attention(
    scorer: Scorer,
    tokens: Tensor,
    options: Options = DEFAULTS,
    *,
    layer: int | None = None,
    exact: Tensor | None = None,
    samples: Tensor | None = None,
    keys: Tensor | None = None,
    trust: Tensor | None = None,
    mask: Tensor | None = None,
) -> Attention:
    """Attention of K clients over K clients; the map is differentiable in the scorer's parameters.

    tokens: (K, d) unit rows (`tokens.tokens`).  options: as in `attend`, but for the widths, which are the scorer's,
    and two levels (hier), whose clusters have no derivative.  layer: which layer, where the scorer knows layers.
    exact: (K, K) cosines of the whole directions, which replace the tokens' own inner products in S, so that a
    sketch costs no precision at the start.  samples, keys, trust, mask: as in `weigh`.

    A row that is lone in one head falls back on its own model in that head. The similarity and the ceiling returned
    are means over the heads; `lone` says: in all of them.
    """
    s = similarities(scorer, tokens, layer=layer)
    if exact is not None:
        s = s + (exact - tokens @ tokens.mT)
    heads = [
        # a width that is a tensor does all that a number does, and has a derivative
        weigh(one, replace(options, tau=cast(float, tau)), samples=samples, keys=keys, trust=trust, mask=mask)
        for one, tau in zip(s, scorer.log_tau.exp(), strict=True)
    ]
    return Attention(
        map=torch.stack([head.map for head in heads]).mean(0),
        similarity=s.detach().mean(0),
        ceiling=torch.stack([head.ceiling.detach() for head in heads]).mean(0),
        lone=torch.stack([head.lone for head in heads]).all(0),
    )
