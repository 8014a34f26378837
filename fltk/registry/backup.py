"""A copy of a registry that is complete in itself, made while others write to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from fltk.errors import FltkError, UsageError
from fltk.registry import migrate
from fltk.registry.artifacts import ArtifactFolder
from fltk.registry.database import advice
from fltk.registry.location import locate
from fltk.registry.schema import artifact
from fltk.registry.store import Store


@dataclass(frozen=True)
class Backup:
    """What was copied; `size` in bytes. `missing`: files that the registry itself has lost."""

    database: Path
    artifacts: Path
    files: int
    size: int
    missing: int


def backup(source: str | Path, target: Path) -> Backup:
    """Copy an SQLite registry with its files to a new file. FltkError where there is one already, or no room.

    The database is copied first, as it is at one moment: its write-ahead log, which holds the newest rounds, is part
    of the copy. Files of artifacts never change, so that copying them afterwards is safe.
    """
    location = locate(source)
    if location.path is None:
        raise UsageError(f"{location.shown} is kept by a server: save it with pg_dump, and copy {location.artifacts}")
    if os.path.lexists(target):
        raise FltkError(f"{target} is there already; name another file")
    with Store(source, readonly=True, upgrade=False):
        pass  # says what is wrong with it

    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    folder = locate(target).artifacts
    try:
        migrate.copy_to(location.path, unfinished)
        files, missing = _copy_files(unfinished, location.artifacts, folder)
        unfinished.rename(target)  # it gets its name when all is there
        size = target.stat().st_size + sum(path.stat().st_size for path in files)
    except (sqlite3.Error, OSError) as error:
        reason = advice(error) or getattr(error, "strerror", None) or error
        raise FltkError(f"cannot copy {location.shown} to {target}: {reason}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
    return Backup(target, folder, len(files), size, missing)


def _copy_files(database: Path, source: Path, folder: Path) -> tuple[list[Path], int]:
    """Copy the files that a database names; returns the copies, and how many files are missing."""
    with Store(database, readonly=True, upgrade=False) as store, store._db.read() as connection:
        hashes = connection.execute(select(artifact.c.sha256).order_by(artifact.c.sha256)).scalars().all()

    there, copied = ArtifactFolder(source), ArtifactFolder(folder)
    files: list[Path] = []
    missing = 0
    for sha256 in hashes:
        path = there.path(sha256)
        if not path.is_file():
            missing += 1
            continue
        copy = copied.path(sha256)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        files.append(copy)
    return files, missing
