"""Cutting each client's samples into train, validation and test."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from fltk.data.dataset import Ints
from fltk.partition.schemes import apportion, deal

Cut = tuple[Ints, Ints]  # (what is left, what was cut off), both sorted
_MANY_RECORDINGS = 12


def stratified(indices: Ints, labels: Ints, share: float, rng: np.random.Generator) -> Cut:
    """Cuts off `share` of `indices`, at least one, in equal proportion from every label; at least one stays.

    `labels` are those of the whole data set. The total is rounded; labels get their part by largest
    remainders.
    """
    size = _size(len(indices), share)
    names, counts = np.unique(labels[indices], return_counts=True)
    if size == 0:
        return indices, indices[:0]
    taken = apportion(counts, size, rng)
    pieces = [
        rng.permutation(indices[labels[indices] == name])[:number] for name, number in zip(names, taken, strict=True)
    ]
    cut = np.sort(np.concatenate(pieces))
    return np.setdiff1d(indices, cut, assume_unique=True), cut


def matched(train: list[Ints], official: Ints, labels: Ints, rng: np.random.Generator) -> list[Ints]:
    """Deals the official test samples: each class is spread over the clients as its training samples are.

    Every test sample is used at most once. A class that no client trains on goes to nobody, and a client
    with a very small training part may get none.
    """
    n_classes = int(labels.max()) + 1
    holds = np.stack([np.bincount(labels[part], minlength=n_classes) for part in train], axis=1)  # (C, N)
    sizes = np.bincount(labels[official], minlength=n_classes)
    counts = np.zeros_like(holds)
    for label in np.flatnonzero(holds.sum(1) > 0):
        counts[label] = apportion(holds[label], int(sizes[label]), rng)
    return [official[part] for part in deal(labels[official], counts, rng)]


def recordings(indices: Ints, labels: Ints, session: Ints, share: float) -> Cut:
    """Cuts off whole recordings, as close to `share` of the windows as they allow, of ties the latest.

    Somebody with one recording gives the end of each of its activities instead (`tails`).
    """
    names, counts = np.unique(session[indices], return_counts=True)
    if share == 0 or len(names) < 2:
        return tails(indices, labels, session, share)
    if len(names) > _MANY_RECORDINGS:
        choices = [tuple(range(first, len(names))) for first in range(1, len(names))]
    else:
        choices = [c for r in range(1, len(names)) for c in combinations(range(len(names)), r)]
    target = share * len(indices)
    best = min(reversed(choices), key=lambda chosen: abs(counts[list(chosen)].sum() - target))
    cut = np.isin(session[indices], names[list(best)])
    return indices[~cut], indices[cut]


def tails(indices: Ints, labels: Ints, session: Ints, share: float) -> Cut:
    """Cuts off the end of each run of one label in a recording, and drops the window before it.

    Windows overlap their neighbours of the same run, so that without the gap both parts would hold the same
    measurements. The gap belongs to neither part; a run too short for one window on either side stays whole.
    """
    if share == 0 or len(indices) == 0:
        return indices, indices[:0]
    starts = (np.diff(labels[indices]) != 0) | (np.diff(session[indices]) != 0)
    left, cut, owed = [], [], 0.0
    for run in np.split(indices, np.flatnonzero(starts) + 1):
        owed += share * len(run)
        size = min(int(owed + 0.5), len(run) - 2)
        if size < 1:
            left.append(run)
            continue
        owed -= size
        left.append(run[: len(run) - size - 1])
        cut.append(run[len(run) - size :])
    return np.concatenate(left), np.concatenate([*cut, indices[:0]])


def _size(n: int, share: float) -> int:
    """Rounded share of n: at least one where a share is asked for, and never all."""
    return 0 if share == 0 else min(max(1, int(n * share + 0.5)), n - 1)
