"""A partition in numbers that are stored with it."""

from __future__ import annotations

from typing import Any

from fltk.data.dataset import Dataset, Ints
from fltk.partition import stats
from fltk.partition.record import Partition


def label_counts(dataset: Dataset, made: Partition) -> Ints:
    """(N_all, C) training samples per client and class, as the client sees its labels (after a permutation)."""
    counts = stats.label_counts(made.train, dataset.y, dataset.n_classes)
    if made.transform.get("kind") == "permute":
        for k, labels in enumerate(made.transform["labels"]):
            counts[k, labels] = counts[k].copy()
    return counts


def partition_summary(dataset: Dataset, made: Partition) -> dict[str, Any]:
    """What tables and plots need of a partition without loading the data: counts per client and class, groups, skew."""
    counts = label_counts(dataset, made)
    return {
        "clients": len(made.train) - made.n_newcomers,
        "newcomers": made.n_newcomers,
        "classes": list(dataset.classes),
        "label_counts": counts.tolist(),
        "groups": None if made.group is None else made.group.tolist(),
        **({} if made.public is None else {"public": len(made.public)}),
        "sizes": {part: [len(ids) for ids in getattr(made, part)] for part in ("train", "val", "test")},
        "attempts": made.attempts,
        "skew": stats.summary(counts[: len(counts) - made.n_newcomers]),
    }
