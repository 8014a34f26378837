"""All clients' data as one tensor, of which each client's splits are views.

One copy of the used samples exists, however many clients and engines look at it. Transforms of a partition
(quarter turns, label permutations) are applied here, once, to every split of a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fltk.data.dataset import Dataset, Ints
from fltk.errors import FltkError
from fltk.objectives import Objective
from fltk.partition.record import Partition, Scaling

Key = tuple[int, tuple[int, ...]]  # quarter turns and label map: what a client does to its samples


@dataclass(frozen=True)
class Split:
    """Samples of one client for one purpose: views, never copies."""

    x: Tensor  # (n, C, H, W) or (n, C, T) float32
    y: Tensor  # (n,) int64 labels, or float32 numbers to be predicted

    def __len__(self) -> int:
        return self.y.shape[0]  # several times faster than len(y), and asked for often


@dataclass(frozen=True)
class ClientData:
    """What one client holds."""

    id: int
    train: Split
    val: Split
    test: Split
    group: int | None = None  # the true group, where the partition knows it; for references that may look


@dataclass(frozen=True)
class _Facts:
    """Everything about a federation but its samples; small, and pickled as it is."""

    bounds: Ints  # (N_all, 3, 2) first and last + 1 sample of train, val and test
    n_newcomers: int
    held_out: Ints  # (M, 2) first and last + 1 training sample of those whom the partition has as newcomers
    groups: Tensor | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    label_counts: Ints
    fingerprint: str
    objective: Objective
    public: tuple[int, int] = (0, 0)  # first and last + 1 of the public samples


class Federation:
    """Clients and newcomers over two shared tensors.

    `x` (n, ...) float32 and `y` (n,), what the `objective` is to predict, hold all samples; `clients` and `newcomers`
    are views into them, with ids 0..N-1 and N..N_all-1. `held_out` are the training parts of all newcomers of the
    partition, also of those who have entered since: what a server may take clean samples of its own from. `public` are
    the samples of `--public`, which no client holds. `groups` (N_all,) int64 are the known groups, or None. `names`
    (N_all) are natural owners or "client 0", ...; `classes` the class names, or the ranges of a target; `shape` that of
    one sample; `label_counts` (N_all, C) counts the training parts, after label permutations; `fingerprint` is the
    partition's, which covers the data set's.

    Pickling keeps `x`, `y` and the bounds and makes the views anew, so that torch.multiprocessing sends both tensors as
    shared memory, and each once.
    """

    def __init__(self, x: Tensor, y: Tensor, facts: _Facts) -> None:
        self.x = x
        self.y = y
        self._facts = facts
        everyone = [self._client(client) for client in range(len(facts.bounds))]
        n_clients = len(everyone) - facts.n_newcomers
        self.clients = tuple(everyone[:n_clients])
        self.newcomers = tuple(everyone[n_clients:])
        self.held_out = tuple(Split(x[a:b], y[a:b]) for a, b in facts.held_out.tolist())
        first, last = facts.public
        self.public = Split(x[first:last], y[first:last])
        self.groups = facts.groups
        self.classes = facts.classes
        self.n_classes = len(facts.classes)
        self.objective = facts.objective
        self.shape = tuple(x.shape[1:])
        self.names = facts.names
        self.label_counts = facts.label_counts
        self.fingerprint = facts.fingerprint

    def _client(self, client: int) -> ClientData:
        train, val, test = (Split(self.x[a:b], self.y[a:b]) for a, b in self._facts.bounds[client].tolist())
        group = None if self._facts.groups is None else int(self._facts.groups[client])
        return ClientData(client, train, val, test, group)

    def grown(self, newcomers: Sequence[ClientData]) -> Federation:
        """The federation that some of the newcomers have entered: its last clients, with ids from N on in this order.

        Who brings a part of its training samples only (few shots) has no others in the new federation, which holds no
        newcomers.
        """
        n, facts = len(self.clients), self._facts
        order = [*range(n), *(client.id for client in newcomers)]
        bounds, counts = facts.bounds[order], self.label_counts[order]  # copies
        brought: list[Split] = []
        end = len(self.y)
        for row, client in enumerate(newcomers, start=n):
            if len(client.train) < bounds[row, 0, 1] - bounds[row, 0, 0]:
                bounds[row, 0] = end, end + len(client.train)
                counts[row] = np.bincount(client.train.y.numpy(), minlength=self.n_classes)
                brought.append(client.train)
                end += len(client.train)
        return Federation(
            torch.cat([self.x, *(split.x for split in brought)]) if brought else self.x,
            torch.cat([self.y, *(split.y for split in brought)]) if brought else self.y,
            replace(
                facts,
                bounds=bounds,
                n_newcomers=0,
                groups=None if facts.groups is None else facts.groups[order],
                names=tuple(facts.names[client] for client in order),
                label_counts=counts,
            ),
        )

    def share_memory(self) -> Federation:
        """Moves the samples into shared memory, where other processes see them without a copy; returns itself."""
        tensors: tuple[Any, ...] = (self.x, self.y)  # torch leaves share_memory_ untyped
        for tensor in tensors:
            tensor.share_memory_()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Federation, (self.x, self.y, self._facts)


def build(dataset: Dataset, partition: Partition) -> Federation:
    """The federation of a partition of `dataset`. Raises FltkError when the partition is of other data.

    A test set that all share is stored once for each distinct transform, so once where there is none.
    """
    if dataset.fingerprint != partition.data_fingerprint:
        raise FltkError(
            f"the data of {dataset.name} changed since the partition was created: give the same --dataset, --subset "
            f"and seed, or create the partition again"
        )
    blocks, bounds = _layout(partition, _keys(partition))
    public = (0, 0)
    if partition.public is not None:
        end = sum(len(part) for part, _ in blocks)
        public = (end, end + len(partition.public))
        blocks.append((partition.public, (0, ())))
    _check(blocks, len(dataset))
    x = torch.empty((sum(len(part) for part, _ in blocks), *dataset.shape), dtype=torch.float32)
    y = torch.empty(len(x), dtype=torch.int64 if dataset.targets is None else torch.float32)
    start = 0
    for part, key in blocks:
        _fill(dataset, part, key, partition.scaling, x[start : start + len(part)], y[start : start + len(part)])
        start += len(part)
    facts = replace(_facts(dataset, partition, bounds, y.numpy()), public=public)
    return Federation(x, y, facts)


def _keys(partition: Partition) -> list[Key]:
    """What each client does to its samples."""
    n = partition.n_clients
    turns = partition.transform.get("quarter_turns", [0] * n)
    maps = partition.transform.get("labels", [()] * n)
    return [(int(turn) % 4, tuple(labels)) for turn, labels in zip(turns, maps, strict=True)]


def _layout(partition: Partition, keys: list[Key]) -> tuple[list[tuple[Ints, Key]], Ints]:
    """Blocks of samples in storage order, and the bounds (N_all, 3, 2) of each client's splits.

    Equal index arrays (the same object) under equal transforms share a block.
    """
    blocks: list[tuple[Ints, Key]] = []
    placed: dict[tuple[int, Key], tuple[int, int]] = {}
    bounds = np.zeros((partition.n_clients, 3, 2), np.int64)
    end = 0
    for client, key in enumerate(keys):
        for kind, parts in enumerate((partition.train, partition.val, partition.test)):
            part = parts[client]
            mark = (id(part), key)
            if mark not in placed:
                placed[mark] = (end, end + len(part))
                blocks.append((part, key))
                end += len(part)
            bounds[client, kind] = placed[mark]
    return blocks, bounds


def _check(blocks: list[tuple[Ints, Key]], n: int) -> None:
    for part, _ in blocks:
        if len(part) and not 0 <= part.min() <= part.max() < n:
            raise FltkError("the partition points outside the data set; create it again")


def _fill(dataset: Dataset, part: Ints, key: Key, scaling: Scaling | None, x: Tensor, y: Tensor) -> None:
    """Writes one block, transformed, into its place."""
    turns, labels = key
    target: npt.NDArray[np.float32] = x.numpy()
    np.take(dataset.x, part, axis=0, out=target, mode="clip")  # other modes buffer; the bounds are checked
    if scaling is not None:
        around = (1, -1, *(1 for _ in target.shape[2:]))
        target -= scaling.mean.reshape(around)
        target /= scaling.deviation.reshape(around)
    if turns:
        x.copy_(torch.rot90(x, turns, (-2, -1)))
    if dataset.targets is not None:
        y.copy_(torch.from_numpy(dataset.targets[part]))
        return
    mine = dataset.y[part]
    y.copy_(torch.from_numpy(np.asarray(labels, np.int64)[mine] if labels else mine))


def _facts(dataset: Dataset, partition: Partition, bounds: Ints, y: npt.NDArray[Any]) -> _Facts:
    if dataset.targets is None:
        parts = [y[a:b] for (a, b), _, _ in bounds]
    else:  # of numbers, the ranges in which they lie are counted
        parts = [dataset.y[part] for part in partition.train]
    counts = [np.bincount(part, minlength=dataset.n_classes) for part in parts]
    return _Facts(
        bounds,
        partition.n_newcomers,
        bounds[partition.n_clients - partition.n_newcomers :, 0],
        None if partition.group is None else torch.from_numpy(partition.group.astype(np.int64)),
        dataset.classes,
        _names(dataset, partition),
        np.stack(counts).astype(np.int64),
        partition.fingerprint,
        dataset.objective,
    )


def _names(dataset: Dataset, partition: Partition) -> tuple[str, ...]:
    """The owner's name where a client is one owner, else its number."""
    if partition.config.scheme != "natural" or dataset.owner is None:
        return tuple(f"client {client}" for client in range(partition.n_clients))
    return tuple(dataset.owner_names[int(dataset.owner[part[0]])] for part in partition.train)
