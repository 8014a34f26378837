"""Collaboration maps and what is known of their clients, as figures draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from fltk.metrics import group_share
from fltk.plots.style import Array, Row


@dataclass(frozen=True)
class MapPanel:
    """The map of one round: weights (N, N), row = receiving client, column = contributing client.

    `part` names the layer or part of the model that the map is of; empty for the whole model. `alignment` is its
    row-wise Spearman correlation with label similarity and `p_value` the permutation test of it
    (`fltk.metrics.attention_alignment`); NaN where unknown.
    """

    round: int
    weights: Array
    alignment: float = math.nan
    p_value: float = math.nan
    part: str = ""


@dataclass(frozen=True)
class Clients:
    """What is known of N clients: similarity (N, N) in [0, 1], groups, malicious (bool) and ids, all (N,)."""

    similarity: Array | None = None
    groups: Array | None = None
    malicious: Array | None = None
    ids: Array | None = None

    def inside(self, weights: Array) -> float:
        """Share of the weight (N, N) on other clients that stays inside the true groups; NaN where it is unknown."""
        return math.nan if self.groups is None else group_share(weights, self.groups)

    def inside_uniform(self, n: int) -> float:
        """The same of a map with equal weights for n clients."""
        return self.inside(np.ones((n, n)))

    def same(self, other: Clients) -> bool:
        """Whether as much, and the same, is known of the other clients."""
        mine = (self.similarity, self.groups, self.malicious, self.ids)
        theirs = (other.similarity, other.groups, other.malicious, other.ids)
        return all(_equal(a, b) for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
class MapSet:
    """The maps of one run, with its label, which is empty where the figure has no other run, and its seed."""

    panels: Sequence[MapPanel]
    clients: Clients
    label: str = ""
    seed: int | None = None


def _equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(np.asarray(one), np.asarray(other))


def spread_rounds(available: Sequence[int], count: int = 4) -> tuple[int, ...]:
    """At most `count` of the rounds, evenly spread, with the first and the last."""
    rounds = sorted(set(available))
    places = np.linspace(0, len(rounds) - 1, min(count, len(rounds))).round().astype(int)
    return tuple(rounds[place] for place in places)


def order_clients(clients: Clients, n: int) -> Array:
    """The order in which clients are drawn: (n,) indices.

    By group and then id; without groups so that similar clients are neighbours (average linkage, optimal leaf
    order), clients without samples last; without either by index.
    """
    if clients.groups is not None:
        return np.lexsort((np.arange(n), np.asarray(clients.groups)))
    if clients.similarity is None:
        return np.arange(n)

    similarity = np.asarray(clients.similarity, dtype=np.float64)
    known = np.isfinite(np.diagonal(similarity))
    inside, outside = np.flatnonzero(known), np.flatnonzero(~known)
    if len(inside) < 3:
        return np.concatenate([inside, outside])

    distance = squareform(1.0 - similarity[np.ix_(inside, inside)], checks=False)
    leaves = leaves_list(linkage(distance, method="average", optimal_ordering=True))
    # A tree may be read from either end; the smaller index first makes the figure stable.
    leaves = leaves if leaves[0] <= leaves[-1] else leaves[::-1]
    return np.concatenate([inside[leaves], outside])


def colour_limit(panels: Sequence[MapPanel]) -> float:
    """The top of the common colour scale: the largest off-diagonal weight of all panels.

    The diagonal often holds most of the weight; a scale that reached it would leave everything else dark.
    """
    largest = 0.0
    for panel in panels:
        off = np.array(panel.weights, dtype=np.float64)
        np.fill_diagonal(off, np.nan)
        if np.isfinite(off).any():
            largest = max(largest, float(np.nanmax(off)))
    return largest if largest > 0 else 1.0


def map_rows(panels: Sequence[MapPanel], clients: Clients, order: Array, label: str = "") -> list[Row]:
    """One row per drawn cell, in drawing order; `label` is that of the run, where there are several."""
    run: Row = {"run": label} if label else {}
    made: list[Row] = []
    for panel in panels:
        head: Row = {"panel": "weight"} | run | {"round": panel.round}
        if panel.part:
            head["part"] = panel.part
        tail: Row = {"alignment": panel.alignment, "p_value": panel.p_value}
        if clients.groups is not None:
            tail |= {"inside": clients.inside(panel.weights), "inside_uniform": clients.inside_uniform(len(order))}
        made += [head | cell | tail for cell in _cells(np.asarray(panel.weights), clients, order)]
    if clients.similarity is not None:
        head = {"panel": "label-similarity"} | run | {"round": None}
        made += [head | cell for cell in _cells(np.asarray(clients.similarity), clients, order)]
    return made


def _cells(table: Array, clients: Clients, order: Array) -> list[Row]:
    described = [_description(clients, int(client)) for client in order]
    made: list[Row] = []
    for row, receiver in enumerate(described):
        for column, contributor in enumerate(described):
            cell: Row = {f"receiver{key}": value for key, value in receiver.items()}
            cell |= {f"contributor{key}": value for key, value in contributor.items()}
            made.append(cell | {"value": float(table[order[row], order[column]])})
    return made


def _description(clients: Clients, client: int) -> Row:
    row: Row = {"": client if clients.ids is None else int(clients.ids[client])}
    if clients.groups is not None:
        row["_group"] = int(clients.groups[client])
    if clients.malicious is not None:
        row["_malicious"] = bool(clients.malicious[client])
    return row
