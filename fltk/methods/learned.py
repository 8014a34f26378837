"""Maps from a scorer that learns, beside those of the free mode: how they are made, taught and met by newcomers.

The equations are those of `fltk.attention.scorer` and `fltk.attention.learn`, fltk's own. This module ties them to a
method's state: a round's uploads judge and teach the scorer that made the maps of the round before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fltk.attention import Attention, Options, attend
from fltk.attention.attend import compared, parts_of
from fltk.attention.bank import screen
from fltk.attention.learn import Learner, learn, loss_matrix, surrogate
from fltk.attention.newcomer import Others, shares
from fltk.attention.scorer import Scorer, learned_attention
from fltk.attention.scorer import similarities as scored
from fltk.attention.tokens import tokens
from fltk.models.layout import Ranges
from fltk.protocol.messages import Upload
from fltk.protocol.state import State

Maker = Callable[[Scorer], Attention]


@dataclass(frozen=True)
class Cohort:
    """All that the map of one part of the model is made from, but for the scorer. K clients, P columns."""

    models: Tensor  # (K, P)
    center: Tensor  # (P,)
    options: Options
    samples: Tensor  # (K,)
    keys: Tensor  # (K,) bool
    trust: Tensor | None = None  # (K,)
    updates: Tensor | None = None  # (K, P)
    secants: Tensor | None = None  # (K, P)

    def free(self) -> Attention:
        """The map of the free mode."""
        return attend(
            self.models,
            self.options,
            center=self.center,
            samples=self.samples,
            updates=self.updates,
            secants=self.secants,
            keys=self.keys,
            trust=self.trust,
        )

    def maker(self, layer: int) -> Maker:
        """From a scorer to the map of layer number `layer`; tokens are made once, however many scorers are tried.

        The similarities of the free mode take the place of the tokens' own inner products, so that the first scorer
        gives the map of the free mode, whatever the size of the tokens.
        """
        o = self.options
        parts = parts_of(self.models, self.center, o, self.updates, self.secants)
        z = tokens(parts, o.r, o.seed)
        exact, mask = compared(parts, o)
        given = {"samples": self.samples, "keys": self.keys, "trust": self.trust, "mask": mask}
        return lambda scorer: learned_attention(scorer, z, o, layer=layer, exact=exact, **given)


def members(state: State, round: int) -> Tensor:
    """(K,) the clients whose rows and columns are in the maps made in `round`; none where it made none.

    The state must be the one after that round. Newcomers who have joined it since are in the bank, but their rows are
    those of their joining.
    """
    stored = state.server["stored"]
    made = bool((stored == round).any()) and round >= 0
    return torch.nonzero((stored >= 0) & ~state.server["screened"] & (state.last >= 0) & made).flatten()


def teachers(uploads: Sequence[Upload], known: Tensor, start: Tensor) -> list[Upload]:
    """The uploads that can be believed from clients that trained from a mixed model: of `known` (K,), not screened."""
    bad = screen([u.w for u in uploads], start).tolist()
    return [u for u, b in zip(uploads, bad, strict=True) if not b and bool((known == u.client).any())]


def products(sent: Sequence[Upload], starts: Sequence[Tensor], theta: Tensor, cuts: Sequence[Ranges]) -> Tensor:
    """G_ij = <g_i, theta_j> of T uploads, that came from `starts`, and models (K, P), part by part: (G, T, K) float64.

    g_i is the gradient that the client sent (`slope`), or else u_i - theta_i^+.
    """
    if "slope" in sent[0].sent:
        slopes = torch.stack([u.sent["slope"] for u in sent])
        return torch.stack([loss_matrix(slopes, theta, cut) for cut in cuts])
    u, trained = torch.stack(list(starts)), torch.stack([u.w for u in sent])
    return torch.stack([surrogate(u, trained, theta, cut) for cut in cuts])


def taught(
    server: Mapping[str, Tensor],
    makers: Sequence[Maker],
    g: Tensor,
    rows: Tensor,
    *,
    held_out: Tensor | None,
    rate: float,
    entropy: float,
) -> dict[str, Tensor]:
    """What a server holds after one step of its scorer. makers: of G parts.  g: (G, T, K).  The rest as in `learn`."""

    def maps(scorer: Scorer) -> Tensor:
        return torch.stack([make(scorer).map for make in makers])

    learner = Learner.from_tensors(server)
    return {**server, **learn(learner, maps, g, rows, held_out=held_out, rate=rate, entropy=entropy).tensors()}


def told(server: Mapping[str, Tensor]) -> dict[str, float]:
    """The scorer's width, and its held-out loss against the start: of the last judged scorer, and of the best."""
    learner = Learner.from_tensors(server)
    width = float(learner.scorer.log_tau.exp().mean())
    return {"tau": width, "held_out": float(learner.held[0]), "held_out_best": float(learner.held[1])}


def learned_shares(
    scorer: Scorer,
    rows: Sequence[Tensor],
    tables: Sequence[Tensor],
    maps: Tensor,
    others: Others,
    options: Sequence[Options],
) -> tuple[Tensor, list[int]]:
    """Weights of the bank's models in what a newcomer gets, and the parts in which it is lone in every head.

    rows: unit tokens (K + 1, d) of each of G parts, the newcomer's last.  The rest as in `newcomer.shares`, whose
    answer for the similarities and the width of each head is averaged: (G, K) float64.
    """
    s = [scored(scorer, z, layer=g) + (s - z @ z.t()) for g, (z, s) in enumerate(zip(rows, tables, strict=True))]
    heads = [
        shares([part[h] for part in s], maps, others, [replace(o, tau=tau) for o in options])
        for h, tau in enumerate(scorer.log_tau.exp().tolist())
    ]
    lone = set.intersection(*(set(alone) for _, alone in heads))
    return torch.stack([found for found, _ in heads]).mean(0), sorted(lone)
