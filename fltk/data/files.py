"""Reading idx and npz files: whatever is wrong with a file becomes one line that names it."""

from __future__ import annotations

import gzip
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fltk.bounded import ARRAYS, check_unpacked
from fltk.errors import FltkError

Bytes = npt.NDArray[np.uint8]
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    MemoryError,
    NotImplementedError,  # zipfile: a compression it does not know
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    RecursionError,
    AttributeError,
    SyntaxError,  # NumPy parses the header of an array as Python text
    tokenize.TokenError,
)


@contextmanager
def reading(what: Path | str) -> Iterator[None]:
    """Turns what a missing, truncated or corrupted file raises into an FltkError that names it."""
    try:
        yield
    except FltkError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FltkError(f"{what}: cannot be read ({reason}); replace it") from error


def find(path: Path) -> Path | None:
    """`path`, or `path`.gz, or None."""
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def read_idx(path: Path) -> Bytes:
    """Unsigned bytes of an idx file, plain or gzipped, in the shape that its header states."""
    with reading(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        zero, kind, n_axes = struct.unpack(">HBB", file.read(4))
        if zero != 0 or kind != 8:
            raise ValueError("not an idx file of unsigned bytes")
        shape = struct.unpack(f">{n_axes}I", file.read(4 * n_axes))

        size = math.prod(shape)
        if size > ARRAYS:
            raise ValueError(f"its header says {size:,} bytes, more than the {ARRAYS:,} that are admitted")
        data = file.read(size + 1)  # one more, since a small file may unpack to a very long one
        if len(data) != size:
            raise ValueError(f"its header says {size:,} bytes, and it holds {'fewer' if len(data) < size else 'more'}")
        return np.frombuffer(data, np.uint8).reshape(shape)


def read_npz(path: Path, *keys: str) -> tuple[npt.NDArray[np.generic], ...]:
    """The named arrays of an npz file; never unpickles."""
    with reading(path), np.load(path, allow_pickle=False) as archive:
        check_unpacked(archive.zip.infolist())
        return tuple(archive[key] for key in keys)
