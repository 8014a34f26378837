"""What a defence is: a frozen dataclass of hyper-parameters whose rules judge uploads or take the place of the mean.

A round of n uploads w_k (rows) that started from references r_k, with updates g_k = w_k - r_k:

    screen    once a round: a trust t_k in [0, 1] for every client, and a row w^_k = r_k + g^_k, perhaps clipped
    combine   once a target: one row from rows w^_k and weights a_k; without one, the weighted mean

Methods differ in what they average, and a defence says for each kind which of its rules it uses (`forms`):

    one        one global model (or its shared layers)
    clusters   one model per cluster
    mixed      one mixed row per client; the client's own row is exempt from trust and clipping

Updates and everything measured on them (norms, cosines, distances) hold parameter columns only. Rows are whole: the
columns [0, facts.parameters) are the parameters of the shared part, those behind them its float buffers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from fltk.hyper import hyper
from fltk.memory.products import Gram
from fltk.protocol.averaging import ONE, weighted_sum


@dataclass(frozen=True)
class Facts:
    """What a rule may know of the K rows that it receives, in ascending order of client id.

    generator: the stream of this one call in this round; draw from it in a fixed order.  f: assumed number of malicious
    clients among the K, never more than `Defence.most(K)`.  weights: (K,) float64, sum 1: the method's weights p_k in
    `screen`.  references, rows: r_k (K, P) and w_k, K of (P,), in `screen` only, where the updates come from.  origin:
    (P,) the target's current model, in `combine` only: what a rule that is not translation equivariant measures from.
    gram: of the updates given to `screen`, or of the parameter columns of rows - gram.origin in `combine`, where
    targets with origins of their own share one.  root: (K, d) the updates that the server's own training on its root
    set makes of each reference (equal rows for equal references), where the defence asks for it (`needs_root`).
    """

    ids: tuple[int, ...]
    weights: Tensor
    f: int
    generator: torch.Generator
    parameters: int
    round: int
    gram: Gram
    kind: str = ONE
    n_clients: int = 0  # N, of the run
    participation: float = 1.0  # share of the clients sampled in a round
    rounds: int = 1  # of the run
    references: Tensor | None = None
    rows: Sequence[Tensor] | None = None
    origin: Tensor | None = None
    root: Tensor | None = None


@dataclass(frozen=True)
class Screened:
    """Trust per client, rows (the given objects where nothing was clipped), the rule's next state, and what to tell.

    rows: K rows (P,), None for "all as they came".  notes: one line each, told once a run.  numbers: scalars of the
    round, stored under their names.
    """

    trust: Tensor  # (K,) float64 in [0, 1]
    rows: Sequence[Tensor] | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Combined:
    """One row, the weights (K,) float64 with which clients really entered it, next state, and what to tell."""

    row: Tensor  # (P,)
    used: Tensor
    state: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Defence:
    """Screens nothing and averages. Fields of a subclass are its hyper-parameters, made with `hyper`.

    A subclass sets `forms`: kind of method -> which of {"screen", "combine"} it uses there; a kind that is missing is
    refused with the reason in `refusals`.
    """

    title: ClassVar[str] = ""
    forms: ClassVar[Mapping[str, frozenset[str]]] = {}
    refusals: ClassVar[Mapping[str, str]] = {}  # kind of method -> why the defence cannot be used there
    weighted: ClassVar[bool] = False  # uses the method's weights by default; otherwise published for equal ones
    condition: ClassVar[str] = "n >= 1"  # on n rows of which f are malicious, as users read it
    needs_root: ClassVar[bool] = False  # wants `Facts.root`
    private: ClassVar[bool] = False  # promises that what clients send tells little of each
    rejects: ClassVar[bool] = True  # trust below 0.5 means rejected, so that true and false positives can be counted

    def most(self, n: int) -> int:
        """The largest f for which the condition holds with n rows; -1 where it holds for none."""
        return (n - 1) // 2 if n >= 1 else -1

    def check(self, kind: str, participation: float, clients: int) -> None:
        """Refuse, with the option's name, a set-up that this defence cannot serve (beyond `forms` and `most`)."""

    def screen(self, updates: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Screened:
        """Judge the updates (K, d) of a round, each as its sender's own.

        state: what the last call returned, {} at first; records of clients are tensors (N, ...) by client id, zero
        for clients that were never judged, and nothing else has a first dimension of N.
        """
        return Screened(torch.ones(len(updates), dtype=torch.float64), state=state)

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        """One target's row from K rows (P,) and weights (K,) float64, which sum to 1 and are positive.

        state: what the last call for the same target returned, {} at first.  A rule that selects returns the selected
        row itself.
        """
        return Combined(weighted_sum(rows, weights), weights, state)


def clipped(row: Tensor, reference: Tensor, factor: float, parameters: int) -> Tensor:
    """r + factor g on the parameter columns, (P,): the row itself where factor is 1. Buffers stay as they came."""
    if factor >= 1:
        return row
    out = row.clone()
    moved = row[:parameters].double() - reference[:parameters].double()
    out[:parameters] = (reference[:parameters].double() + factor * moved).to(row.dtype)
    return out


def assumed(share: float, n: int) -> int:
    """f = floor(share n), in exact arithmetic for shares such as 0.2 that a float only approximates."""
    return math.floor(share * n + 1e-9)


__all__ = ["Combined", "Defence", "Facts", "Screened", "assumed", "clipped", "hyper"]
