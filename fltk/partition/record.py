"""A partition as index lists, its fingerprint, and its form for storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk.config import PartitionConfig
from fltk.data.dataset import Floats, Ints, digest
from fltk.errors import FltkError

Parts = tuple[Ints, ...]
Arrays = Mapping[str, npt.NDArray[Any]]
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of the clients' training samples: (C,) by channel, (F,) by feature of a table."""

    mean: Floats
    deviation: Floats

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """By the names under which they are stored."""
        return {"scale_mean": self.mean, "scale_deviation": self.deviation}


@dataclass(frozen=True)
class Partition:
    """Per-client index lists into a Dataset; clients first, then newcomers."""

    config: PartitionConfig
    data_fingerprint: str
    train: Parts  # sorted, disjoint positions, one array a client
    val: Parts
    test: Parts  # one and the same array for every client where the test split is global
    group: Ints | None  # (N_all,) known group of each client
    transform: dict[
        str, Any
    ]  # {}, {"kind": "rotate", "quarter_turns": [..]} or {"kind": "permute", "labels": [[..]..]}
    attempts: int  # draws until the smallest client was large enough
    fingerprint: str
    n_newcomers: int  # the last ids
    public: Ints | None = None  # sorted positions of the samples that the server has in public
    scaling: Scaling | None = None  # by which samples are standardised; None where the data set has done it

    @property
    def n_clients(self) -> int:
        """All clients, newcomers included."""
        return len(self.train)


def create(
    config: PartitionConfig,
    data_fingerprint: str,
    splits: tuple[Sequence[Ints], Sequence[Ints], Sequence[Ints]],
    *,
    group: Ints | None = None,
    transform: dict[str, Any] | None = None,
    attempts: int = 1,
    n_newcomers: int = 0,
    public: Ints | None = None,
    scaling: Scaling | None = None,
) -> Partition:
    """A Partition with its fingerprint; `splits` are the index lists of train, val and test."""
    train, val, test = (tuple(parts) for parts in splits)
    transform = transform or {}
    mark = _fingerprint(data_fingerprint, (train, val, test), group, transform, n_newcomers, public, scaling)
    return Partition(
        config,
        data_fingerprint,
        train,
        val,
        test,
        group,
        transform,
        attempts,
        mark,
        n_newcomers,
        public=public,
        scaling=scaling,
    )


def _fingerprint(
    data: str,
    splits: tuple[Parts, ...],
    group: Ints | None,
    transform: dict[str, Any],
    n_newcomers: int,
    public: Ints | None,
    scaling: Scaling | None,
) -> str:
    """SHA-256 of what the clients hold, whatever the configuration that led to it."""
    arrays: dict[str, npt.NDArray[Any] | None] = {f"data:{data}": None, "newcomers": np.array([n_newcomers])}
    for name, parts in zip(_SPLITS, splits, strict=True):
        arrays |= {f"{name}{client}": part for client, part in enumerate(parts)}
    arrays["group"] = group
    arrays |= _transform_arrays(transform)
    if public is not None:
        arrays["public"] = public
    if scaling is not None:  # the bits of the numbers, since everything here is hashed as integers
        arrays |= {name: array.view(np.int32) for name, array in scaling.arrays().items()}
    return digest({name: None if a is None else a.astype(np.int64) for name, a in arrays.items()})


def to_arrays(p: Partition) -> dict[str, npt.NDArray[Any]]:
    """Flat arrays for an npz file without pickle; a test set that all share is stored once."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "data_fingerprint": np.array(p.data_fingerprint),
        "fingerprint": np.array(p.fingerprint),
        "attempts": np.array(p.attempts, np.int64),
        "n_newcomers": np.array(p.n_newcomers, np.int64),
    }
    for name in _SPLITS:
        parts: Parts = getattr(p, name)
        if len(parts) > 1 and all(part is parts[0] for part in parts):
            arrays[f"{name}_shared"] = np.array(len(parts), np.int64)
            parts = parts[:1]
        arrays[name] = np.concatenate(parts)
        arrays[f"{name}_offsets"] = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    if p.group is not None:
        arrays["group"] = p.group
    if p.public is not None:
        arrays["public"] = p.public
    if p.scaling is not None:
        arrays |= p.scaling.arrays()
    return arrays | _transform_arrays(p.transform)


def from_arrays(config: PartitionConfig, arrays: Arrays) -> Partition:
    """The inverse of `to_arrays`. Raises FltkError when the arrays are not what their fingerprint says."""
    try:
        group = arrays["group"].astype(np.int64) if "group" in arrays else None
        p = create(
            config,
            str(arrays["data_fingerprint"]),
            (_parts(arrays, "train"), _parts(arrays, "val"), _parts(arrays, "test")),
            group=group,
            transform=_transform(arrays),
            attempts=int(arrays["attempts"]),
            n_newcomers=int(arrays["n_newcomers"]),
            public=arrays["public"].astype(np.int64) if "public" in arrays else None,
            scaling=_scaling(arrays),
        )
        stored = str(arrays["fingerprint"])
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise FltkError(f"stored partition is damaged ({error}); create it again") from error
    if p.fingerprint != stored:
        raise FltkError(
            f"stored partition {stored[:12]} is damaged: its content has another fingerprint; create it again"
        )
    return p


def _scaling(arrays: Arrays) -> Scaling | None:
    if "scale_mean" not in arrays:
        return None
    mean, deviation = (np.ascontiguousarray(arrays[name], np.float32) for name in ("scale_mean", "scale_deviation"))
    return Scaling(mean, deviation)


def _parts(arrays: Arrays, name: str) -> list[Ints]:
    offsets = arrays[f"{name}_offsets"]
    flat = arrays[name].astype(np.int64)
    parts = [flat[a:b] for a, b in pairwise(offsets)]
    return parts * int(arrays.get(f"{name}_shared", np.array(1)))


def _transform_arrays(transform: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    keys = [key for key in transform if key != "kind"]
    return {f"transform_{key}": np.asarray(transform[key], np.int64) for key in keys}


def _transform(arrays: Arrays) -> dict[str, Any]:
    for kind, key in (("rotate", "quarter_turns"), ("permute", "labels")):
        if f"transform_{key}" in arrays:
            return {"kind": kind, key: arrays[f"transform_{key}"].tolist()}
    return {}
