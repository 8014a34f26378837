"""Reading what somebody else has written, with a limit: no file, pipe or archive fills the memory or never ends."""

from __future__ import annotations

import os
import select
import stat
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fltk.errors import UsageError

TEXT = 1 << 20  # bytes of a file of settings
ARRAYS = 1 << 30  # bytes of the arrays in one file, unpacked
PATIENCE = 10.0  # seconds without a byte from a pipe
_CHUNK = 1 << 16


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file. UsageError that begins with `what` where it cannot be read."""
    try:
        return tomllib.loads(read_text(path, what))
    except RecursionError:
        raise UsageError(f"{what}: not valid TOML: it is nested too deeply") from None
    except ValueError as error:  # wrong TOML, and numbers with too many digits
        raise UsageError(f"{what}: not valid TOML: {error}") from None


def read_text(path: Path, what: str) -> str:
    """The text of a file of settings, or of one that comes through a pipe.

    UsageError that begins with `what` where it cannot be read, or is too long; UnicodeDecodeError where it is no text.
    """
    return read_bytes(path, what).decode("utf-8")


def read_bytes(path: Path, what: str) -> bytes:
    """The bytes of such a file. UsageError that begins with `what` where it cannot be read, or is too long."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}") from None
    except ValueError as error:  # a null byte in the name
        raise UsageError(f"{what}: {error}") from None

    try:
        data = _read(handle, what)
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}") from None
    finally:
        os.close(handle)
    return data


def _read(handle: int, what: str) -> bytes:
    """Everything, but no more than TEXT bytes."""
    waited = stat.S_ISREG(os.fstat(handle).st_mode)  # a pipe has to be waited for
    data = b""
    while True:
        chunk = _chunk(handle)
        if chunk:
            data += chunk
            if len(data) > TEXT:
                raise UsageError(f"{what}: longer than {TEXT:,} bytes, which no file of settings needs")
        elif chunk == b"" and (data or waited):
            return data
        else:  # also a pipe that nobody has opened for writing yet reads as if it had ended
            _wait(handle, what)
            waited = True


def _chunk(handle: int) -> bytes | None:
    """Some bytes; none at the end, None where a pipe has none yet."""
    try:
        return os.read(handle, _CHUNK)
    except BlockingIOError:
        return None


def _wait(handle: int, what: str) -> None:
    """Returns when there is something to read, or the end; UsageError where nothing comes."""
    ready, _, _ = select.select([handle], [], [], PATIENCE)
    if not ready:
        raise UsageError(f"{what}: nothing came through this pipe for {PATIENCE:g} seconds")


def check_unpacked(members: Iterable[zipfile.ZipInfo]) -> None:
    """ValueError where the members of an archive are larger, unpacked, than ARRAYS."""
    size = sum(member.file_size for member in members)
    if size > ARRAYS:
        raise ValueError(f"unpacked it takes {size:,} bytes, more than the {ARRAYS:,} that are admitted")


def memory() -> int | None:
    """Bytes of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
