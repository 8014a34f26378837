"""Arrays of clients as measures take them: checked shapes, and means that leave out NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[Any]


def vector(values: Array) -> Floats:
    result = np.asarray(values, dtype=np.float64)
    if result.ndim != 1:
        raise ValueError(f"expected one value per client, not an array of shape {result.shape}")
    return result


def square(values: Array) -> Floats:
    result = np.asarray(values, dtype=np.float64)
    if result.ndim != 2 or result.shape[0] != result.shape[1]:
        raise ValueError(f"expected a map of shape (N, N), not {result.shape}")
    return result


def same_shape(left: Array, right: Array, left_name: str, right_name: str) -> None:
    if left.shape != right.shape:
        raise ValueError(f"{left_name} {left.shape} and {right_name} {right.shape} differ in shape")


def known(values: Array) -> Floats:
    result = vector(values)
    return result[~np.isnan(result)]


def mean(values: Floats) -> float:
    return float(values.mean()) if values.size else math.nan
