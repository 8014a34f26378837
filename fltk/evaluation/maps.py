"""What the last collaboration map of a run says: whom clients learn from, against what is known of them.

map_self, map_entropy   mean self-weight; mean row entropy over log N (1: equal weights)
map_group_share         share of the weight on others that stays inside the known groups
map_group_auc           probability that a client of the own group gets more weight than another
map_alignment           mean row-wise Spearman correlation with the similarity of label distributions
map_neighbours          label similarity of each client and the one it learns from most

Maps of several parts of the model count with the mean of their numbers. The data-size prior of attn is divided out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk import metrics
from fltk.registry import RunRow, Store

MAPS: Mapping[str, str] = {
    "map_self": "last map, mean weight of a client's own model",
    "map_entropy": "last map, mean row entropy, 1 for equal weights",
    "map_group_share": "last map, share of the weight on others inside the known groups",
    "map_group_auc": "last map, probability that the own group gets more weight than others",
    "map_alignment": "last map, Spearman correlation with label similarity, mean over rows",
    "map_neighbours": "last map, label similarity of a client and the one it learns from most",
}

Floats = npt.NDArray[np.floating[Any]]


def of_maps(store: Store, runs: Sequence[RunRow], name: str) -> dict[int, float | None]:
    """The number `name` of each run's last map; None where it has no map, or none of that number."""
    found: dict[int, float | None] = {}
    for run in runs:
        rounds = store.map_rounds(run.id)
        summary = None if run.partition_id is None else store.find_partition(run.partition_id).summary
        if not rounds or summary is None:
            found[run.id] = None
            continue
        (stored,) = store.maps(run.id, rounds[-1:])
        tables = [w for s, w in zip(stored.slices, stored.array, strict=True) if s == "whole"] or list(stored.array)
        values = [_number(name, np.asarray(table, np.float64), run, summary) for table in tables]
        found[run.id] = float(np.mean(values))
    return found


def size_prior(run: RunRow, counts: npt.NDArray[Any]) -> Floats | None:
    """The data-size prior n^gamma (N,) that attn multiplies into its rows; other maps are taken as they are."""
    if run.method != "attn" or run.config["train"]["agg_weights"] == "uniform":
        return None
    prior: Floats = np.asarray(counts, np.float64).sum(1) ** float(run.config["params"]["gamma"])
    return prior


def neighbour_similarity(weights: Floats, similarity: Floats) -> float:
    """Mean similarity (N, N) of each client and the other one with the largest weight; ties are averaged over."""
    table = np.array(weights)
    np.fill_diagonal(table, -np.inf)
    top = table == table.max(1, keepdims=True)
    near = np.where(top, similarity, 0.0).sum(1) / top.sum(1)
    return float(np.nanmean(near)) if np.isfinite(near).any() else math.nan


def _number(name: str, weights: Floats, run: RunRow, summary: Mapping[str, Any]) -> float:
    if name in ("map_self", "map_entropy"):
        return metrics.self_weight(weights) if name == "map_self" else metrics.map_entropy(weights)
    counts = np.array(summary["label_counts"])[: len(weights)]
    prior = size_prior(run, counts)
    if name.startswith("map_group"):
        if summary["groups"] is None:
            return math.nan
        groups = np.array(summary["groups"])[: len(weights)]
        share = name == "map_group_share"
        return metrics.group_share(weights, groups) if share else metrics.group_auc(weights, groups, prior=prior)
    similarity = metrics.label_similarity(counts)
    if name == "map_alignment":
        return metrics.attention_alignment(weights, similarity, prior=prior, permutations=0).spearman
    shown: Floats = weights if prior is None else np.asarray(weights / prior, np.float64)
    return neighbour_similarity(shown, similarity)
