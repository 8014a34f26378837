"""Data of the user's own as a Dataset: from a table, from a folder of images, or from a function of theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk import catalogue, ledger, own_data
from fltk.config import PartitionConfig
from fltk.data import image_folder, tables
from fltk.data.dataset import Dataset, Ints, create
from fltk.data.labels import class_labels, numbered
from fltk.errors import FltkError, UsageError
from fltk.names import canonical
from fltk.own_code import blame
from fltk.own_data import Files

Array = npt.NDArray[Any]
SPLIT = "split"  # the column that says train, val or test
PARTS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Read:
    """What was read, before labels and names are turned into numbers; all arrays have one entry per sample."""

    x: npt.NDArray[np.float32]
    labels: Array
    classes: tuple[str, ...] = ()  # names of the labels 0.., where the source has them
    clients: Array | None = None
    groups: Array | None = None
    split: Array | None = None


def settled(config: PartitionConfig) -> PartitionConfig:
    """The configuration with the columns that `fltk data add` gave to a name; options that are given stay."""
    known = ledger.data_names().get(config.dataset, {})
    label = config.label or known.get("label", "")
    client = config.client or known.get("client", "")
    group = config.group or known.get("group", "")
    return replace(config, label=label, client=client, group=group)


def add(name: str, path: Path, *, label: str = "", client: str = "", group: str = "") -> Dataset:
    """Give files a name, for all later runs of this user; returns the data. UsageError for a name that is taken."""
    if not re.fullmatch(r"[A-Za-z][\w.-]{0,50}", name) or name.lower().endswith(own_data.TABLES):
        raise UsageError(
            f"NAME: a name begins with a letter and consists of letters, digits, points, - and _: {name!r}"
        )
    taken = canonical(name, catalogue.names("dataset"))
    if taken in catalogue.names("dataset"):
        raise UsageError(f"NAME: {taken} is a data set of its own already; choose another name than {name!r}")
    made = load(PartitionConfig(dataset=f"{path.resolve()}", label=label, client=client, group=group), path)
    ledger.add_data_name(name, {"path": str(path.resolve()), "label": label, "client": client, "group": group})
    return made


def load(config: PartitionConfig, data_dir: Path) -> Dataset:
    """The whole data set that a configuration names as files or as code of the user's own.

    Its name is the stored one, with the hash of the files or of the source.
    """
    if not own_data.is_data(config.dataset):
        return _from_code(config)
    files = own_data.locate(config.dataset, data_dir)
    return _from_files(files, config.label, config.client, config.group)


@lru_cache(maxsize=2)  # a sweep asks for the same data for each of its cells
def _from_files(files: Files, label: str, client: str, group: str) -> Dataset:
    shown = own_data.split(files.name)[0]
    if files.path.is_dir():
        for option, value in (("--label", label), ("--client", client), ("--group", group)):
            if value:
                raise UsageError(f"{option} does not go with a folder, whose folders name classes and clients")
        found = image_folder.read(files.path, shown)
        read = Read(found.x, found.labels, clients=found.clients, split=found.split)
    else:
        read = _of_table(tables.read(files.path, shown), label, client, group)
    return made(files.name, read, f"--dataset {shown}")


def _of_table(table: tables.Table, label: str, client: str, group: str) -> Read:
    """Samples, labels and what the named columns say."""
    if not label:
        label = "y" if "y" in table.columns and "x" in table.columns else ""
    if not label:
        there = ", ".join(list(table.columns)[:20])
        raise UsageError(f"{table.where}: name the column of labels with --label; there are {there}")
    labels = table.column(label, "--label")
    clients = table.column(client, "--client") if client else None
    groups = table.column(group, "--group") if group else None
    apart = {name for name in (label, client, group, SPLIT) if name}
    return Read(tables.features(table, apart), labels, (), clients, groups, table.columns.get(SPLIT))


def made(name: str, read: Read, where: str) -> Dataset:
    """The Dataset of what was read, to be standardised by the training data of a partition."""
    if read.x.ndim not in (2, 3, 4) or not len(read.x) or 0 in read.x.shape:
        raise UsageError(f"{where}: samples are (n, F), (n, C, T) or (n, C, H, W), not {read.x.shape}")
    for what, values in (("labels", read.labels), ("clients", read.clients), ("groups", read.groups)):
        if values is not None and np.shape(values) != read.x.shape[:1]:
            raise UsageError(f"{where}: {len(read.x)} samples, but {what} of shape {np.shape(values)}")

    labels = class_labels(np.asarray(read.labels), where)
    y, classes = labels.y, labels.classes
    if read.classes:
        y, classes = _with_names(np.asarray(read.labels), read.classes, where)
    split = None if read.split is None else _split(np.asarray(read.split), where)
    owner, owner_names = (None, ()) if read.clients is None else numbered(np.asarray(read.clients))
    group, group_names = (None, ()) if read.groups is None else numbered(np.asarray(read.groups))
    kind = "owner"
    if owner is None and group is not None:  # groups without clients: clients are dealt from the groups
        owner, owner_names, kind, group = group, group_names, "domain", None
    return create(
        name,
        np.ascontiguousarray(read.x, np.float32),
        y,
        classes,
        is_test=None if split is None else split == PARTS["test"],
        owner=owner,
        owner_kind=None if owner is None else kind,
        owner_names=owner_names,
        group=group,
        split=split,
        raw=True,
    )


def _with_names(labels: Array, classes: Sequence[str], where: str) -> tuple[Ints, tuple[str, ...]]:
    """Labels that count the names of classes from 0."""
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
        raise UsageError(f"{where}: labels must count its {len(classes)} classes from 0")
    return labels.astype(np.int64), tuple(str(name) for name in classes)


def _split(values: Array, where: str) -> Ints:
    """0, 1, 2 for train, val and test; UsageError for other words."""
    if values.dtype.kind != "U":
        raise UsageError(f"{where}: the column {SPLIT} says train, val or test for each sample")
    words = set(values.tolist())
    if not words <= PARTS.keys():
        raise UsageError(
            f"{where}: the column {SPLIT} says train, val or test, not {sorted(words - PARTS.keys())[0]!r}"
        )
    if "train" not in words:
        raise UsageError(f"{where}: the column {SPLIT} has no training sample")
    numbers: Ints = np.array([PARTS[word] for word in values.tolist()], np.int64)
    return numbers


def _from_code(config: PartitionConfig) -> Dataset:
    """What a function of the user's own, or of an installed package, gives."""
    found = catalogue.resolve("dataset", config.dataset)
    return _called(found.name)


@lru_cache(maxsize=2)
def _called(name: str) -> Dataset:
    where = f"--dataset {catalogue.split(name)[0]}"
    function = catalogue.find("dataset", name)
    try:
        given = function()
        if isinstance(given, Dataset):
            return replace(given, name=name)
        return made(name, _read(given, where), where)
    except FltkError:
        raise
    except Exception as error:
        raise blame(error) or UsageError(f"{where}: {type(error).__name__}: {error}") from None


def _read(given: Any, where: str) -> Read:
    """Arrays by name, (x, y) or (x, y, clients), or an object of samples like those of torchvision."""
    if isinstance(given, Mapping):
        return _read_arrays(given, where)
    if isinstance(given, tuple) and len(given) in (2, 3):
        clients = np.asarray(given[2]) if len(given) == 3 else None
        return Read(_samples(given[0], where), np.asarray(given[1]), clients=clients)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return _read_pairs(given, where)
    raise UsageError(f"{where}: it gave {type(given).__name__}; give (x, y), a mapping with x and y, or a data set")


def _read_arrays(given: Mapping[str, Any], where: str) -> Read:
    """Arrays by name: x and y, and perhaps clients, groups, splits and the names of the classes."""
    known = {"x", "y", "client", "group", "split", "classes"}
    if not {"x", "y"} <= given.keys() <= known:
        more = ", ".join(sorted(known - {"x", "y"}))
        raise UsageError(f"{where}: arrays are given as x and y, and perhaps {more}")
    further = []
    for key in ("client", "group", "split"):
        further.append(None if given.get(key) is None else np.asarray(given[key]))
    return Read(_samples(given["x"], where), np.asarray(given["y"]), tuple(given.get("classes", ())), *further)


def _read_pairs(given: Any, where: str) -> Read:
    """An object of (sample, label) pairs, in its order."""
    pairs = [given[place] for place in range(len(given))]
    x = np.stack([_samples(sample, where) for sample, _ in pairs])
    if x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):  # Pillow's images: channels last
        x = x.transpose(0, 3, 1, 2)
    if x.ndim == 3 and not hasattr(pairs[0][0], "detach"):  # grey images of Pillow
        x = x[:, None]
    labels = np.asarray([int(label) for _, label in pairs])
    return Read(x, labels, tuple(getattr(given, "classes", ())))


def _samples(values: Any, where: str) -> npt.NDArray[np.float32]:
    """Finite float32 of an array, a tensor or an image."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{where}: samples must be numbers, not {array.dtype}")
    samples = array.astype(np.float32)
    if not np.isfinite(samples).all():
        raise UsageError(f"{where}: samples hold values that are no finite numbers")
    return samples
