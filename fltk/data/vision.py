"""torchvision's data sets as plain arrays; the only module that imports torchvision, and that lazily."""

from __future__ import annotations

import bz2
import http.client
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk.errors import FltkError

_MISSING_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
USPS_BYTES = 64 << 20  # of text; the published files have a third of it
_libraries: list[Any] = []  # an operator lives as long as its Library object
_FAILURES = (
    RuntimeError,  # torchvision: not found or corrupted
    OSError,
    EOFError,
    ValueError,
    LookupError,
    pickle.UnpicklingError,
    tarfile.TarError,
    zipfile.BadZipFile,
    http.client.HTTPException,
)


@dataclass(frozen=True)
class Pixels:
    """Official training images, then official test images."""

    x: npt.NDArray[np.uint8]  # (n, H, W) or (n, H, W, 3)
    y: npt.NDArray[np.int64]  # (n,)
    classes: tuple[str, ...]
    n_train: int


def fetch(name: str, root: Path, *, download: bool) -> Pixels:
    """A torchvision data set under `root`. Raises FltkError when it is absent or damaged."""
    try:
        return _READERS[name](_datasets(), str(root), download)
    except _FAILURES as error:
        doing = "download it" if download else "read it"
        reason = " ".join(str(error).split())
        raise FltkError(f"--dataset {name}: torchvision could not {doing} under {root} ({reason})") from error


def download_idx(name: str, root: Path) -> None:
    """Lets torchvision put the idx files of an MNIST-like set under `root`."""
    try:
        datasets = _datasets()
        root.mkdir(parents=True, exist_ok=True)
        if name == "emnist":
            datasets.EMNIST(str(root), split="balanced", download=True)
        else:
            cls = {"mnist": datasets.MNIST, "fmnist": datasets.FashionMNIST, "kmnist": datasets.KMNIST}[name]
            cls(str(root), download=True)
    except _FAILURES as error:
        reason = " ".join(str(error).split())
        raise FltkError(f"--dataset {name}: download to {root} failed ({reason})") from error


def _datasets() -> ModuleType:
    try:
        return _import()
    except ImportError as error:
        raise FltkError("this data set is read by torchvision: install it (pip install torchvision)") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    # A torchvision whose compiled half cannot load beside this torch (CUDA build, CPU torch) fails while it
    # registers shapes for these operators. Reading data sets needs neither, so declaring them is enough; and
    # only now, since a compiled half that does load would refuse to declare them a second time.
    _declare_operators()
    for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[module]
    return _import()


def _import() -> ModuleType:
    import torchvision.datasets

    module: ModuleType = torchvision.datasets
    return module


def _declare_operators() -> None:
    import torch

    make: Any = torch.library.Library  # untyped in torch
    library = make("torchvision", "FRAGMENT")
    for name in _MISSING_OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SIGNATURE)
    _libraries.append(library)


Reader = Callable[[ModuleType, str, bool], Pixels]


def _cifar(cls_name: str) -> Reader:
    def read(datasets: ModuleType, root: str, download: bool) -> Pixels:
        cls = getattr(datasets, cls_name)
        return _join(cls(root, True, download=download), cls(root, False, download=download), "targets")

    return read


def _svhn(datasets: ModuleType, root: str, download: bool) -> Pixels:
    parts = [datasets.SVHN(root, split, download=download) for split in ("train", "test")]
    for part in parts:
        part.data = part.data.transpose(0, 2, 3, 1)
    return _join(parts[0], parts[1], "labels")


def _usps(datasets: ModuleType, root: str, download: bool) -> Pixels:
    for _, name, _ in datasets.USPS.split_list.values():
        _check_usps(Path(root, name))
    train, test = (datasets.USPS(root, part, download=download) for part in (True, False))
    return _join(train, test, "targets")


def _check_usps(path: Path) -> None:
    """ValueError where a file unpacks to more than it should: torchvision reads whatever lies there."""
    if not path.is_file():
        return
    size = 0
    with bz2.open(path) as file:
        while chunk := file.read(1 << 20):
            size += len(chunk)
            if size > USPS_BYTES:
                raise ValueError(f"{path.name} unpacks to more than {USPS_BYTES:,} bytes")


def _join(train: Any, test: Any, labels: str) -> Pixels:
    y = np.concatenate([np.asarray(getattr(part, labels), np.int64) for part in (train, test)])
    classes = tuple(getattr(train, "classes", None) or (str(digit) for digit in range(10)))
    return Pixels(np.concatenate([train.data, test.data]), y, classes, len(train.data))


_READERS: dict[str, Reader] = {
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "svhn": _svhn,
    "usps": _usps,
}
