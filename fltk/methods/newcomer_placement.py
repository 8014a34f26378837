"""Where a newcomer belongs among clients that are attended to, and how its own loss corrects that.

The equations are those of `fltk.attention.newcomer` and `fltk.attention.prototypes`, fltk's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fltk.attention.learn import loss_matrix
from fltk.attention.newcomer import Others, fitted
from fltk.attention.prototypes import Evidence, class_table, evidence, sent_counts
from fltk.attention.tokens import TINY
from fltk.methods.heads import head_shape
from fltk.models.layout import Ranges
from fltk.partition.federation import ClientData, Split
from fltk.protocol.averaging import by_trust
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.protocol.verdict import trust_left
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class Placed:
    """Weights (G, N) of the bank's models in what a newcomer gets, part by part, and what finding them out took."""

    rows: Tensor
    trained: Tensor  # (P,) the model whose private columns the newcomer goes on with
    down: int
    up: int
    own: dict[str, Tensor] = field(default_factory=dict)
    note: str = ""  # where it resembles nobody


def believed(others: Others, server: Mapping[str, Tensor]) -> Others:
    """The others as the run's defence left them: who is not trusted is not attended to, who is a little, a little."""
    trust = trust_left(server, len(others.samples))
    if bool((trust == 1).all()):
        return others
    log = trust.clamp_min(TINY).log()
    return replace(others, keys=others.keys & (trust > 0), trust=log if others.trust is None else others.trust + log)


def last_mean(maps: Tensor, state: State, task: Task) -> Tensor:
    """FedAvg's weights in the last round, (G, N), as its defence left them, from the maps (G, N, N) of that round.

    Every row of the maps holds them, but under a defence client i is exempt from trust in row i.
    """
    stored = state.server["stored"]
    ids = torch.nonzero(stored == stored.max()).flatten().tolist()
    trust = trust_left(state.server, task.n_clients)[ids]
    if bool((trust == 1).all()):
        return maps[:, 0]
    p = torch.zeros(task.n_clients, dtype=torch.float64)
    p[ids] = by_trust(task.weights(ids), trust)
    return p.expand(len(maps), -1)


def table_of(start: Tensor, client: ClientData, trainer: Trainer, least: int) -> Tensor:
    """(C, F + 1): a client's class table under theta^0, without classes that have fewer than `least` samples."""
    features = trainer.features(start, client.train)
    return class_table(features, client.train.y, head_shape(trainer.layout)[0], least)


_EVIDENCE: Any = WeakIdKeyDictionary()  # tables -> (known clients, what the tables say of them)


def evidence_of(tables: Tensor, counts: Tensor, known: Tensor, least: int) -> Evidence:
    """What the class tables (N, C, F + 1) say of the clients `known` (K,); counts: (N, C) training samples per class.

    Tables seldom change from round to round, so the last answer about them is kept.
    """
    before, found = cast(tuple[Tensor | None, Evidence | None], _EVIDENCE.get(tables, (None, None)))
    if before is None or found is None or not torch.equal(before, known):
        found = evidence(tables[known], sent_counts(counts[known], least))
        _EVIDENCE[tables] = known, found
    return found


def fit(
    got: Placed,
    model: Callable[[Tensor], Tensor],
    bank: Tensor,
    cuts: Sequence[Ranges],
    shared: str,
    client: ClientData,
    trainer: Trainer,
    steps: int,
) -> Placed:
    """With rows that lower the newcomer's training loss; as it was where its validation loss does not fall too.

    model: from rows (G, N) to the whole model (P,) that the newcomer would get.  bank: (N, P) the `shared` columns of
    the others, `cuts` the columns of each part among them.  A newcomer without validation data keeps its rows.
    """
    if not steps or not len(client.val):
        return got

    def loss(rows: Tensor, data: Split = client.train) -> float:
        return trainer.score(model(rows), data).loss

    def slope(rows: Tensor) -> Tensor:
        g = trainer.layout.take(trainer.gradient(model(rows), client.train), shared)
        return torch.cat([loss_matrix(g[None], bank, cut) for cut in cuts])

    found = fitted(got.rows, loss, slope, steps)
    trainer.taken += trainer.steps(len(client.train), 1) * steps  # whom it is compared with gets as many epochs
    fell = loss(found.rows, client.val) < loss(got.rows, client.val)
    size = 4 * trainer.layout.width(shared)
    rows = found.rows if fell else got.rows
    return replace(got, rows=rows, down=got.down + steps * size, up=got.up + found.slopes * size)
