"""Arrays and numbers as database values, and back. Nothing here unpickles.

Vectors are float32 little-endian; maps the same in C order, zlib-compressed; several arrays together are an
npz archive.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fltk.bounded import check_unpacked
from fltk.config import canonical_json
from fltk.errors import FltkError
from fltk.registry.rows import Float32, MapBlob, StoredMap

# What a value that is not as it was stored raises while it is read.
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
LITTLE = np.dtype("<f4")
_SPECIAL = {1: math.nan, 2: math.inf, 3: -math.inf, 4: -0.0}


def pack_scalar(value: float) -> tuple[float | None, int]:
    """(value, kind): SQLite turns NaN into NULL and -0.0 into 0, so a flag tells the special values apart."""
    number = float(value)
    if number == 0 and math.copysign(1, number) < 0:
        return None, 4
    if math.isfinite(number):
        return number, 0
    return None, 1 if math.isnan(number) else (2 if number > 0 else 3)


def unpack_scalar(value: float | None, kind: int) -> float:
    """The inverse of `pack_scalar`."""
    return float(value) if value is not None else _SPECIAL.get(kind, math.nan)


def pack_vector(values: Any) -> bytes:
    """Per-client values (N,) as float32 bytes."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"a client vector has one value per client, not shape {array.shape}")
    return array.astype(LITTLE).tobytes()


def unpack_vector(data: bytes) -> Float32:
    """(N,) float32, a writable copy."""
    return np.frombuffer(data, dtype=LITTLE).astype(np.float32)


def pack_map(blob: MapBlob) -> dict[str, Any]:
    """The column values of one map."""
    array = np.asarray(blob.array)
    if array.ndim != 3 or array.shape[1] != array.shape[2] or array.shape[0] != len(blob.slices):
        raise ValueError(f"a map has shape (slices, N, N); {len(blob.slices)} slices do not fit {array.shape}")
    if blob.ids and len(blob.ids) != array.shape[1]:
        raise ValueError(f"{len(blob.ids)} client ids do not fit a map of {array.shape[1]} clients")
    # Level 1: attention weights hardly compress, block and identity maps compress a hundredfold at any level.
    data = zlib.compress(array.astype(LITTLE).tobytes(), level=1)
    return {
        "kind": blob.kind,
        "slices": to_json(list(blob.slices)),
        "shape": to_json(list(array.shape)),
        "ids": to_json([int(i) for i in blob.ids]),
        "data": data,
    }


def unpack_map(row: Any, where: str) -> StoredMap:
    """The map of one database row; `where` names the database in the error for damaged bytes."""
    shape, ids, slices = (tuple(json.loads(text)) for text in (row.shape, row.ids, row.slices))
    if not _fits(shape, ids, slices):
        raise FltkError(f"{where}: the map of run{row.run_id}, round {row.round} is damaged (shape, clients or slices)")
    size = math.prod(shape) * LITTLE.itemsize
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(row.data, size + 1)
    except zlib.error as error:
        raise FltkError(f"{where}: the map of run{row.run_id}, round {row.round} is damaged ({error})") from error
    if len(raw) != size:
        raise FltkError(f"{where}: the map of run{row.run_id}, round {row.round} is damaged (wrong size)")
    array = np.frombuffer(raw, dtype=LITTLE).astype(np.float32).reshape(shape)
    return StoredMap(row.round, row.kind, slices, array, ids or tuple(range(shape[1])))


def _fits(shape: Sequence[Any], ids: Sequence[Any], slices: Sequence[Any]) -> bool:
    """Whether these describe a map: a square of numbered clients for each named slice."""
    numbers = all(isinstance(number, int) for number in (*shape, *ids))
    names = all(isinstance(name, str) for name in slices)
    if not (numbers and names and len(shape) == 3):
        return False
    return shape[0] == len(slices) and shape[1] == shape[2] and len(ids) in (0, shape[1])


def pack_arrays(arrays: Mapping[str, Any]) -> bytes:
    """Named arrays as npz bytes, equal for equal arrays (zip entries carry a fixed date)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in sorted(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, np.asanyarray(arrays[key]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), part.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def unpack_arrays(data: bytes, where: str, keys: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The inverse of `pack_arrays`, limited to `keys` where given; `where` names the place in the error for damage."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            check_unpacked(archive.zip.infolist())
            return {key: archive[key] for key in archive.files if keys is None or key in keys}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FltkError(f"{where}: stored arrays are damaged ({error})") from error


@lru_cache(maxsize=256)
def shared_json(text: str) -> dict[str, Any]:
    """JSON that many rows have in common, read once; to be copied by who keeps it."""
    found: dict[str, Any] = json.loads(text)
    return found


def to_json(data: Any) -> str:
    """Canonical JSON that also takes NumPy scalars and arrays."""
    return canonical_json(_plain(data))


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, (np.generic, np.ndarray)):
        return _plain(data.tolist())
    return data
