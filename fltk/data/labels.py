"""What a column of labels means: the one place where it is decided. So far labels are classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk.data.dataset import Ints
from fltk.errors import UsageError

CLASSES = 100_000  # at most


@dataclass(frozen=True)
class Labels:
    """Class labels: `y` (n,) in 0..C-1, and the names of the classes."""

    y: Ints
    classes: tuple[str, ...]


def class_labels(values: npt.NDArray[Any], where: str) -> Labels:
    """Classes from whole numbers or texts, in ascending order. UsageError, which begins with `where`, for others."""
    if values.ndim != 1:
        raise UsageError(f"{where}: labels are one value per sample, not {values.shape}")
    if values.dtype.kind == "f":
        values = _whole(values, where)
    elif values.dtype.kind not in "iubU":
        raise UsageError(f"{where}: labels are whole numbers or texts")

    names, y = np.unique(values, return_inverse=True)
    if len(names) < 2:
        raise UsageError(f"{where}: all samples have the same label {names[0] if len(names) else ''}")
    if len(names) > CLASSES:
        raise UsageError(f"{where}: {len(names):,} classes are more than the {CLASSES:,} that are admitted")
    return Labels(y.reshape(-1).astype(np.int64), tuple(str(name) for name in names))


def _whole(values: npt.NDArray[Any], where: str) -> Ints:
    """Numbers that are whole as integers."""
    broken = np.flatnonzero(~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) > 2**53))
    if len(broken):
        first = broken[0]
        raise UsageError(
            f"{where}: sample {first + 1} has the label {values[first]}: classes are whole numbers or texts"
        )
    return values.astype(np.int64)


def numbered(values: npt.NDArray[Any]) -> tuple[Ints, tuple[str, ...]]:
    """Owners or groups by number, and their names in ascending order."""
    names, number = np.unique(values, return_inverse=True)
    return number.reshape(-1).astype(np.int64), tuple(str(name) for name in names)
