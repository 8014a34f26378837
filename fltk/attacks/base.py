"""What an attack is: a frozen dataclass of options that touches malicious clients' data, training or uploads.

A round, for client k with reference r_k (the row that its training of the shared part starts from), row w_k and
update g_k = w_k - r_k:

    poison_data      once a run: the training data of a malicious client
    overrides        how malicious clients train, instead of the run's settings
    prepare          once a round, before any upload is poisoned: what colluders find out and remember
    forge            once a group of colluders: g*, which all of them send relative to their own reference
    poison_upload    once a malicious client, after all local training: the row that it sends; here r_k + g*

The group of an attacker: all participants whose reference equals its own bit for bit, if two or more of them are
benign; otherwise all participants. Statistics, n and f are those of the group. Attacks see parameter columns of the
shared part; float buffers of an upload are those of the attacker's own training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fltk.hyper import hyper
from fltk.partition.federation import ClientData, Split
from fltk.protocol.averaging import ONE
from fltk.train.streams import Streams
from fltk.train.trainer import Overrides

PURPOSE = "attack"


@dataclass(frozen=True)
class Sent:
    """A participant's honest upload: the shared row and where its training started, (P,) each."""

    client: int
    row: Tensor
    reference: Tensor


@dataclass(frozen=True)
class Group:
    """The participants among whom an attacker hides, in ascending order, and what can be known of them."""

    members: tuple[Sent, ...]
    malicious: frozenset[int]
    parameters: int  # columns that are no buffers; they come first
    rule: str  # same-reference or all

    @property
    def n(self) -> int:
        return len(self.members)

    @cached_property
    def f(self) -> int:
        return sum(s.client in self.malicious for s in self.members)

    @cached_property
    def honest(self) -> tuple[Sent, ...]:
        """The benign members."""
        return tuple(s for s in self.members if s.client not in self.malicious)

    @cached_property
    def benign(self) -> Tensor:
        """(n - f, d) updates of the benign members."""
        return self.updates(self.honest)

    @cached_property
    def own(self) -> Tensor:
        """(f, d) the colluders' own updates, before any poisoning."""
        return self.updates([s for s in self.members if s.client in self.malicious])

    def updates(self, sent: Sequence[Sent]) -> Tensor:
        """(K, d) float32 updates."""
        d = self.parameters
        rows = [s.row[:d] - s.reference[:d] for s in sent]
        return torch.stack(rows) if rows else torch.zeros(0, d)

    def seen(self, whose: str) -> Tensor:
        """(m, d): the benign members' updates, or only the colluders' own; these also where nobody is benign."""
        return self.own if whose == "own" or not self.honest else self.benign


@dataclass(frozen=True)
class Scene:
    """The round as colluders see it."""

    round: int
    streams: Streams
    fresh: Callable[[torch.Generator], Tensor]  # a model that was never trained, shared columns with buffers
    weights: Mapping[int, float]  # participant -> its weight p_k among all participants
    malicious: tuple[int, ...]  # all malicious clients of the run, ascending
    kind: str = ONE  # what the method averages, as defences call it
    server_step: float = 1.0  # eta_g: how far the server goes towards the mean
    assumed: float | None = None  # the malicious share that the server's defence assumes; None without a defence
    notes: list[str] = field(default_factory=list)  # what the run should tell; see `say`

    def say(self, text: str) -> None:
        """A line that the run tells once."""
        if text not in self.notes:
            self.notes.append(text)

    def shared(self) -> torch.Generator:
        """A fresh generator of what colluders share in this round."""
        return self.streams.generator(f"{PURPOSE}/shared", self.round)

    def of(self, client: int) -> torch.Generator:
        """A fresh generator of what one attacker keeps to itself in this round."""
        return self.streams.generator(PURPOSE, self.round, client)

    def lasting(self, client: int) -> torch.Generator:
        """A fresh generator of what one attacker draws once, the same in every round."""
        return self.streams.generator(f"{PURPOSE}/lasting", client=client)


Memory = Mapping[str, Tensor]  # what attackers remember from round to round, never changed in place


@dataclass(frozen=True)
class Samples:
    """What an attack on data knows of them: number of classes, and the brightest value of each channel (C,)."""

    n_classes: int
    brightest: Tensor


@dataclass(frozen=True)
class Attack:
    """Does nothing. Fields of a subclass are its options, made with `hyper`."""

    title: ClassVar[str] = ""
    knows: ClassVar[frozenset[str]] = frozenset()  # of {"benign", "defence"}: what beyond its own data and training
    colludes: ClassVar[bool] = False  # attackers send the same vector
    on_data: ClassVar[bool] = False
    on_upload: ClassVar[bool] = False
    labels: ClassVar[bool] = False  # it reads or changes class labels

    def check(self, shape: tuple[int, ...], n_classes: int, participants: int, malicious: int) -> tuple[str, ...]:
        """Refuse, with the option's name, data or numbers of clients that it cannot be made with; gives lines to tell.

        shape: of one sample.  participants: clients in a round.  malicious: how many of them may be, at most.
        """
        return ()

    def poison_data(self, data: Split, samples: Samples, generator: torch.Generator, rank: int) -> Split:
        """Training data of a malicious client, of the same length; `rank` is its place among the malicious ids."""
        return data

    def overrides(self) -> Overrides | None:
        """How malicious clients train; None for the run's own settings."""
        return None

    def prepare(self, everybody: Group, scene: Scene, memory: Memory) -> Memory:
        """What is remembered after the honest uploads of this round are known; `everybody` are all participants."""
        return memory

    def forge(self, group: Group, scene: Scene, memory: Memory) -> Tensor | None:
        """g* (d,) of all colluders of a group; None where each makes its own."""
        return None

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        """The row (P,) that one malicious client sends. Buffers, where it writes none, are its own."""
        return own.row if forged is None else sent_update(own, forged)

    def trigger(self, x: Tensor, samples: Samples) -> Tensor | None:
        """Images (n, C, H, W) with the whole backdoor trigger; None for attacks without one."""
        return None

    @property
    def goal(self) -> int | None:
        """The class that a backdoor aims at."""
        return None

    @property
    def sees(self) -> frozenset[str]:
        """What of `knows` it uses with these options."""
        return self.knows


def sent_update(own: Sent, update: Tensor) -> Tensor:
    """r_k + g on the parameter columns, the attacker's own buffers behind them: (d,) -> (P,)."""
    row = own.row.clone()
    d = len(update)
    row[:d] = (own.reference[:d].double() + update.double()).to(row.dtype)
    return row


def sent_model(own: Sent, values: Tensor) -> Tensor:
    """A row whose leading columns are `values` (d,): parameters alone, or the buffers as well."""
    row = own.row.clone()
    row[: len(values)] = values
    return row


def mean_of(updates: Tensor) -> Tensor:
    """mu (d,) float64 of updates (m, d)."""
    total = torch.zeros(updates.shape[1], dtype=torch.float64)
    for g in updates:
        total += g
    return total / max(1, len(updates))


def deviation_of(updates: Tensor, mu: Tensor, sample: bool = True) -> Tensor:
    """s (d,) float64, the standard deviation of each coordinate; zero for a single update."""
    total = torch.zeros_like(mu)
    for g in updates:
        total += (g - mu).square()
    count = len(updates) - 1 if sample else len(updates)
    return (total / count).sqrt() if count > 0 else total


def claimed(n: Tensor, malicious: Sequence[int], factor: float) -> Tensor:
    """Training samples (N,) int64 as clients tell them: malicious ones say `factor` times theirs, at least one."""
    told = n.clone()
    for k in malicious:
        told[k] = max(1, math.floor(factor * int(n[k]) + 0.5))
    return told


def poisoned(client: ClientData, train: Split, val: Split) -> ClientData:
    """The client with other training and validation data; test data stay clean."""
    return ClientData(client.id, train, val, client.test, client.group)


__all__ = [
    "Attack",
    "Group",
    "Memory",
    "Overrides",
    "Samples",
    "Scene",
    "Sent",
    "claimed",
    "deviation_of",
    "hyper",
    "mean_of",
    "poisoned",
    "sent_model",
    "sent_update",
]
