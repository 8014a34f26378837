"""Single values as text formats hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Data as JSON can hold it: numpy values unpacked, NaN and infinities null, paths and times as text."""
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors; numpy itself stays unimported
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    return value


def to_json(data: Any, indent: int | None = None) -> str:
    """Strict JSON of anything that `plain` takes."""
    return json.dumps(plain(data), indent=indent, allow_nan=False, ensure_ascii=False)


def field(value: Any) -> Any:
    """A value in a CSV file: nothing is rounded, NaN and infinities by name, unknown empty, lists as JSON."""
    if type(value) in (str, int, float):  # most values, and there may be very many
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | Mapping):
        return to_json(value)
    return value
