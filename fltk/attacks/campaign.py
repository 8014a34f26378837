"""An attack at work: who is malicious, in which rounds, and what becomes of a round's uploads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Overrides, Samples, Scene, Sent, poisoned
from fltk.errors import UsageError
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import ONE
from fltk.train.streams import Streams


@dataclass(frozen=True)
class Campaign:
    """An attack in a run. Rounds are counted from 0 here: attacked are those in [start, stop)."""

    attack: Attack
    malicious: tuple[int, ...]  # ascending
    start: int
    stop: float
    size: float  # factor on the number of samples that malicious clients claim
    streams: Streams

    def on(self, round: int) -> bool:
        """Whether anybody is malicious in this round."""
        return bool(self.malicious) and self.start <= round < self.stop

    def hits(self, round: int, client: int) -> bool:
        """Whether this client is malicious in this round."""
        return self.on(round) and client in self.malicious

    def data(self, client: ClientData, samples: Samples) -> ClientData:
        """The malicious client's data as it trains on them: the same in every round."""
        if not self.attack.on_data:
            return client
        rank = self.malicious.index(client.id)
        train, val = (
            self.attack.poison_data(
                part, samples, self.streams.generator(f"attack/data/{name}", client=client.id), rank
            )
            for name, part in (("train", client.train), ("val", client.val))
        )
        return poisoned(client, train, val)

    def overrides(self) -> Overrides | None:
        """How malicious clients train."""
        return self.attack.overrides()

    def poison(self, stage: Stage, memory: Mapping[str, Tensor]) -> Poisoned:
        """What the round's participants really send, and what attackers remember of it beside `memory`."""
        sent = {s.client: s.row for s in stage.sent}
        if not (self.attack.on_upload and stage.parameters and any(s.client in self.malicious for s in stage.sent)):
            return Poisoned(sent, memory, (), {})
        bad = frozenset(self.malicious)
        scene = stage.scene(self.malicious, self.streams)
        everybody = Group(stage.sent, bad, stage.parameters, "all")
        memory = dict(self.attack.prepare(everybody, scene, memory))
        same: list[bool] = []
        for group, members in groups(everybody):
            forged = self.attack.forge(group, scene, memory)
            same += [group.rule == "same-reference"] * len(members)
            for own in members:
                sent[own.client] = self.attack.poison_upload(own, forged, group, scene, memory)
        return Poisoned(sent, memory, tuple(scene.notes), {"attack_same_reference": sum(same) / len(same)})


@dataclass(frozen=True)
class Stage:
    """What a round's uploads are, whatever the attack: in client-id order, each with the row it started from."""

    round: int
    sent: tuple[Sent, ...]
    parameters: int
    weights: Mapping[int, float]
    fresh: Callable[[torch.Generator], Tensor]
    kind: str = ONE
    server_step: float = 1.0
    assumed: float | None = None

    def scene(self, malicious: tuple[int, ...], streams: Streams) -> Scene:
        """The round as attackers see it."""
        return Scene(
            round=self.round,
            streams=streams,
            fresh=self.fresh,
            weights=self.weights,
            malicious=malicious,
            kind=self.kind,
            server_step=self.server_step,
            assumed=self.assumed,
        )


@dataclass(frozen=True)
class Poisoned:
    """Rows by client, the attackers' memory, lines to tell, and scalars of the round."""

    rows: Mapping[int, Tensor]
    memory: Mapping[str, Tensor]
    notes: tuple[str, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)


def groups(everybody: Group) -> list[tuple[Group, list[Sent]]]:
    """The groups of a round, each with its malicious members in ascending order."""
    found: list[tuple[Group, list[Sent]]] = []
    for own in everybody.members:
        if own.client not in everybody.malicious:
            continue
        known = next((m for g, m in found if g.rule != "all" and equal(m[0].reference, own.reference)), None)
        if known is not None:
            known.append(own)
            continue
        same = tuple(s for s in everybody.members if equal(s.reference, own.reference))
        group = Group(same, everybody.malicious, everybody.parameters, "same-reference")
        if len(group.honest) >= 2:
            found.append((group, [own]))
            continue
        rest = next((m for g, m in found if g.rule == "all"), None)
        if rest is None:
            found.append((everybody, [own]))
        else:
            rest.append(own)
    return found


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two rows have the same bits."""
    return a is b or a.data_ptr() == b.data_ptr() or torch.equal(a, b)


def choose(share: float, ids: Sequence[int], n: int, streams: Streams) -> tuple[int, ...]:
    """The malicious clients: those named, or a share of all N, drawn once; ascending. UsageError if nobody is left."""
    for k in ids:
        if not 0 <= k < n:
            raise UsageError(f"--attackers: there is no client {k}; the clients are 0 to {n - 1}")
    named = tuple(sorted(set(ids)))
    m = len(named) or math.floor(share * n + 0.5)
    if m >= n:
        option = "--attackers" if ids else f"--malicious {share:g}"
        raise UsageError(f"{option}: all {n} clients would be malicious, and no benign client would be left to attack")
    if named:
        return named
    return tuple(sorted(torch.randperm(n, generator=streams.generator("attackers"))[:m].tolist()))
