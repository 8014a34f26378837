"""A data set in memory, its fingerprint, and the named random streams of data and partitions."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk.objectives import CLASSIFICATION, Objective

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Dataset:
    """Samples, labels, and what is known about where each sample comes from."""

    name: str
    x: Floats  # (n, C, H, W) images, standardised once, or (n, C, T) time series
    y: Ints  # (n,) labels 0..n_classes-1; of a regression the range in which the target lies
    classes: tuple[str, ...]
    is_test: Bools | None  # (n,) member of the official test set; None where there is no official split
    owner: Ints | None  # (n,) natural client
    owner_kind: str | None  # "writer", "person" or "domain"
    owner_names: tuple[str, ...]
    session: Ints | None  # (n,) recording; samples of one recording lie in time order and may overlap
    fingerprint: str  # SHA-256 of the shapes and bytes of all arrays
    group: Ints | None = None  # (n,) known group of the client that a sample belongs to
    split: Ints | None = None  # (n,) 0, 1, 2 for train, val and test, where the data say so themselves
    raw: bool = False  # to be standardised by the training data of a partition
    objective: Objective = CLASSIFICATION
    targets: Floats | None = None  # (n,) numbers to be predicted, in their unit, where labels are not what is learned

    def __len__(self) -> int:
        return len(self.y)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        return tuple(self.x.shape[1:])


def create(
    name: str,
    x: Floats,
    y: Ints,
    classes: tuple[str, ...],
    *,
    is_test: Bools | None = None,
    owner: Ints | None = None,
    owner_kind: str | None = None,
    owner_names: tuple[str, ...] = (),
    session: Ints | None = None,
    group: Ints | None = None,
    split: Ints | None = None,
    raw: bool = False,
    objective: Objective = CLASSIFICATION,
    targets: Floats | None = None,
) -> Dataset:
    """A Dataset with its fingerprint; every array has one entry per sample."""
    arrays: dict[str, npt.NDArray[Any] | None] = {
        "x": x,
        "y": y,
        "is_test": is_test,
        "owner": owner,
        "session": session,
    }
    further = {"group": group, "split": split, "targets": targets}  # in the fingerprint only of data that have them
    arrays |= {key: array for key, array in further.items() if array is not None}
    return Dataset(
        *(name, x, y, classes, is_test, owner, owner_kind, owner_names, session, digest(arrays)),
        group=group,
        split=split,
        raw=raw,
        objective=objective,
        targets=targets,
    )


def digest(arrays: Mapping[str, npt.NDArray[Any] | None]) -> str:
    """SHA-256 (hex) over names, types, shapes and little-endian bytes: the same on every machine."""
    state = hashlib.sha256()
    for name, array in arrays.items():
        if array is None:
            state.update(f"{name}:none;".encode())
            continue
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        state.update(f"{name}:{little.dtype.str}:{array.shape};".encode())
        state.update(little.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def stream(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """A generator of its own for each purpose, so that a change in one draw moves no other."""
    entropy = [seed, zlib.crc32(purpose.encode()), *ids]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
