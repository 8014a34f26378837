"""Import of a partition that PFLlib made (J. Zhang et al., arXiv:2312.04992).

A PFLlib folder holds train/{i}.npz and test/{i}.npz. Each archive has one member `data`, an object array
around a pickled dict {"x": (n, ...) float, "y": (n,) int}. Unpickling can run any code, so only what such a
file needs is admitted.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from fltk.bounded import memory, read_text
from fltk.config import PartitionConfig
from fltk.data.dataset import Dataset, Floats, Ints, create, stream
from fltk.data.files import reading
from fltk.errors import FltkError, UsageError
from fltk.names import IMPORTED
from fltk.partition import record, split
from fltk.partition.record import Partition

DEFAULT = PartitionConfig(newcomers=0)
CLASSES = 100_000  # at most
COPIES = 3  # of all samples at once: as they are read, put together, and dealt to clients
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2


class _Type:
    """Stands for numpy.dtype: a type code and its byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.code = str(state[1]) + self.code


class _Array:
    """Stands for numpy.ndarray: reads the pickled state without handing it to NumPy's own set-up."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, kind, self.fortran, self.data = state
        self.code: str = kind.code

    def array(self) -> np.ndarray[Any, Any]:
        kind = np.dtype(self.code)
        if kind.kind not in "fiu":
            raise ValueError("an array of other things than numbers")
        return np.frombuffer(self.data, kind).reshape(self.shape, order="F" if self.fortran else "C")


def _empty(*_: object) -> _Array:
    """Stands for the function by which pickled arrays are made, before their state is set."""
    return _Array()


class _ArraysOnly(pickle._Unpickler):  # in Python: the one in C reserves memory that a file merely speaks of
    """Builds dicts, lists, numbers, text and stand-ins of arrays, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Array if name == "ndarray" else _Type
        if module in _MODULES and name == "_reconstruct":
            return _empty
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no PFLlib file needs")


def load(folder: Path, config: PartitionConfig = DEFAULT) -> tuple[Dataset, Partition]:
    """PFLlib's samples as a Dataset and its split as a Partition, with validation cut from train.

    Samples are ordered by client, train before test. `config` supplies what the folder does not say: names,
    val_share, partition_seed, and how many of the last clients are newcomers. Raises FltkError naming the
    file that is damaged.
    """
    n_clients = _count(folder)
    if config.newcomers >= n_clients:
        raise UsageError(f"--newcomers {config.newcomers}: {folder} has {n_clients} clients; lower it")
    _check_size(folder, n_clients)
    parts = [read_client(folder / kind / f"{i}.npz") for i in range(n_clients) for kind in ("train", "test")]
    if len({x.shape[1:] for x, _ in parts}) != 1:
        raise FltkError(f"{folder}: samples of different clients differ in shape")
    x = np.concatenate([x for x, _ in parts])
    y = np.concatenate([y for _, y in parts])
    ends = np.cumsum([0, *(len(y) for _, y in parts)])
    blocks = [np.arange(a, b, dtype=np.int64) for a, b in pairwise(ends)]
    if min(len(block) for block in blocks[::2]) == 0:
        raise FltkError(f"{folder}: a client has no training samples")
    classes = tuple(str(label) for label in range(int(y.max()) + 1))
    dataset = create(IMPORTED, x, y, classes)
    config = replace(
        config,
        dataset=IMPORTED,
        scheme=IMPORTED,
        from_pfllib=str(folder.resolve()),
        clients=n_clients - config.newcomers,
        subset=0,
        test_split="local",
    )
    return dataset, _partition(dataset, blocks[::2], blocks[1::2], config)


def _partition(dataset: Dataset, train: list[Ints], test: list[Ints], config: PartitionConfig) -> Partition:
    streams = [stream(config.partition_seed, "partition/val", client) for client in range(len(train))]
    cuts = [split.stratified(part, dataset.y, config.val_share, rng) for part, rng in zip(train, streams, strict=True)]
    splits = ([left for left, _ in cuts], [cut for _, cut in cuts], test)
    return record.create(config, dataset.fingerprint, splits, n_newcomers=config.newcomers)


def _count(folder: Path) -> int:
    """Number of clients: files 0..N-1 in both folders, as many as config.json says."""
    ids = {kind: sorted(_ids(folder / kind)) for kind in ("train", "test")}
    n = len(ids["train"])
    if n == 0:
        raise FltkError(f"{folder}: no train/0.npz; not a PFLlib data folder")
    if ids["train"] != ids["test"] or ids["train"] != list(range(n)):
        raise FltkError(f"{folder}: train/ and test/ must both hold 0.npz to {n - 1}.npz; a file is missing")
    note = folder / "config.json"
    if note.is_file():
        with reading(note):
            said = json.loads(read_text(note, str(note))).get("num_clients", n)
        if said != n:
            raise FltkError(f"{note}: speaks of {said} clients, the folder has {n}")
    return n


def _ids(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.npz") if path.stem.isdecimal()]


def _check_size(folder: Path, n_clients: int) -> None:
    """FltkError where the samples do not fit into memory: a small file may unpack to a very large one."""
    size, limit = 0, memory()
    for kind in ("train", "test"):
        for client in range(n_clients):
            path = folder / kind / f"{client}.npz"
            with reading(path), zipfile.ZipFile(path) as archive:
                size += archive.getinfo("data.npy").file_size
    if limit is not None and COPIES * size > limit:
        raise FltkError(
            f"{folder}: its samples take {size / 1e9:.1f} GB, and to work with them {COPIES} times as much; "
            f"this machine has {limit / 1e9:.1f} GB"
        )


def read_client(path: Path) -> tuple[Floats, Ints]:
    """x (n, ...) float32 as PFLlib scaled it, and y (n,), of one file."""
    with reading(path):
        try:
            with zipfile.ZipFile(path) as archive, archive.open("data.npy") as member:
                x, y = _unpickle(member)
        except (pickle.UnpicklingError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(str(error)) from error
        if x.dtype.kind != "f" or x.ndim < 2:
            raise ValueError("x must be a float array")
        if y.dtype.kind == "f" or y.shape != x.shape[:1]:
            raise ValueError("y must hold one integer class label per sample")
        if len(y) and y.min() < 0:
            raise ValueError("y has negative labels")
        if len(y) and y.max() >= CLASSES:
            raise ValueError(f"y has the label {y.max()}; labels count the classes from 0")
        return x.astype(np.float32), y.astype(np.int64)


def _unpickle(member: IO[bytes]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """x and y of the dict inside a zero-dimensional object array in npy format."""
    np.lib.format.read_magic(member)
    shape, _, kind = np.lib.format.read_array_header_1_0(member)
    if shape != () or kind != np.dtype(object):
        raise ValueError("`data` is not a single object")
    content = _ArraysOnly(member).load().data[0]
    return content["x"].array(), content["y"].array()
