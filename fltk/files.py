"""Writing files: names are checked before the work, and a file is there whole or not at all."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fltk.errors import FltkError, UsageError

LEFTOVER_SECONDS = 3600.0


def check_path(path: Path, suffixes: Collection[str], option: str = "--output") -> str:
    """The file's suffix in lower case. UsageError or FltkError naming the option when it cannot be used."""
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise UsageError(f"{option}: {path.name!r} must end in {', '.join(suffixes)} to choose the format")
    try:
        missing, folder = not path.parent.is_dir(), path.is_dir()
    except OSError as error:
        raise FltkError(f"{option}: cannot write {str(path)!r}: {error.strerror}") from None
    if missing:
        raise FltkError(f"{option}: the folder {str(path.parent)!r} does not exist")
    if folder:
        raise FltkError(f"{option}: {str(path)!r} is a folder")
    return suffix


@contextmanager
def replacing(path: Path, option: str = "--output") -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well; otherwise the old one stays.

    A symbolic link stays one, and the file that it leads to is replaced. A pipe or device is written to as it is.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".fltk-{uuid.uuid4().hex}.part")
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
        _remove_leftovers(target.parent)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise FltkError(f"{option}: cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Unfinished files of processes that were killed: for a long time nothing was written to them."""
    limit = time.time() - LEFTOVER_SECONDS
    for part in folder.glob(".fltk-*.part"):
        with suppress(OSError):  # another process may be removing the same file
            if part.stat().st_mtime < limit:
                part.unlink()
