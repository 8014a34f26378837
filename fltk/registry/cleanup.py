"""Deleting for good what was removed, and files that nothing refers to.

Rows go first, then files, each file under the write lock and after another look: a process that stores the same
content at this moment has its row before the lock is free. What a kept run refers to is never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection

from fltk.errors import FltkError
from fltk.registry.attempts import RUNNING
from fltk.registry.location import locate, probe
from fltk.registry.rows import RunRow
from fltk.registry.runs import Runs
from fltk.registry.schema import artifact, checkpoint, environment, partition, run

_LOG = logging.getLogger("fltk.registry")
CHUNK = 500  # files under one lock, so that writers wait for moments only


@dataclass(frozen=True)
class Held:
    """A removed run that stays, and why."""

    run: RunRow
    reason: str


@dataclass(frozen=True)
class Garbage:
    """What can go: removed runs, artifact files by their size in bytes, and removed runs that have to stay."""

    runs: tuple[RunRow, ...]
    held: tuple[Held, ...]
    files: Mapping[Path, int]

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(self.files.values())


class Cleanup(Runs):
    """The part of the store that deletes."""

    def garbage(self) -> Garbage:
        """What `collect_garbage` would delete now."""
        with self._db.read() as connection:
            doomed, held = self._removed(connection)
            kept = _referred(connection, without=[row.id for row in doomed])
        return Garbage(tuple(doomed), tuple(held), dict(self._files_without(kept)))

    def collect_garbage(self) -> Garbage:
        """Delete removed runs, then artifacts that nothing refers to; returns what went.

        A process killed in between leaves files without a row, which the next call deletes.
        """
        with self._db.read() as connection:
            doomed, held = self._removed(connection)
        self._part_circles(doomed)
        gone = [row for row in doomed if self._delete_run(row.id)]
        with self._write() as sealing:
            kept = _referred(sealing.connection)
            for sha256 in sealing.connection.execute(select(artifact.c.sha256)).scalars().all():
                if sha256 not in kept:
                    sealing.delete(artifact, artifact.c.sha256 == sha256)
            used = select(run.c.environment_id)
            sealing.delete(environment, environment.c.id.not_in(used))
        files = self._delete_files(dict(self._files_without(kept)))
        if gone:
            self._shrink()
        return Garbage(tuple(gone), tuple(held), files)

    def _removed(self, connection: Connection) -> tuple[list[RunRow], list[Held]]:
        """Removed runs that can go, those made of others first, and those that cannot."""
        parents: dict[int, int | None] = {}
        kept: list[int] = []
        for number, parent, removed in connection.execute(select(run.c.id, run.c.parent, run.c.removed)):
            parents[number] = parent
            if removed is None:
                kept.append(number)
        needed = {above: number for number in kept for above in ancestors(number, parents)}
        doomed: list[RunRow] = []
        held: list[Held] = []
        for row in self._rows(connection, select(run).where(run.c.removed.is_not(None)).order_by(run.c.id)):
            if row.id in needed:
                held.append(Held(row, f"run{needed[row.id]}, which is kept, was made of it"))
            elif row.status == RUNNING:
                held.append(Held(row, "a process works on it"))
            else:
                doomed.append(row)
        straight = _without_circles(parents)
        doomed.sort(key=lambda row: len(ancestors(row.id, straight)), reverse=True)
        return doomed, held

    def _part_circles(self, doomed: Sequence[RunRow]) -> None:
        """Forget parents that lead back to their run, as only damage can make them: they would keep each other."""
        parents = {row.id: row.parent for row in doomed}
        with self._write() as sealing:
            for row in doomed:
                if row.id in ancestors(row.id, parents):
                    sealing.update_run(row.id, {"parent": None})

    def _delete_run(self, run_id: int) -> bool:
        """Delete one run in one transaction; False where it was restored or used in the meantime."""
        with self._write() as sealing:
            connection = sealing.connection
            rows = self._rows(connection, select(run).where(run.c.id == run_id, run.c.removed.is_not(None)))
            made = connection.execute(select(run.c.id).where(run.c.parent == run_id).limit(1)).first()
            if not rows or rows[0].status == RUNNING or made is not None:
                return False
            sealing.delete_run(run_id)
        return True

    def _files_without(self, kept: set[str]) -> Iterator[tuple[Path, int]]:
        """Artifact files that are not among `kept`, and old half-written ones, with their sizes in bytes."""
        folder = self._files.folder
        for other in self._neighbours():
            raise FltkError(f"{other} keeps its artifacts in {folder} as well: rename this database or that one")
        for path in self._files.unneeded(kept):
            with suppress(OSError):
                yield path, path.lstat().st_size

    def _neighbours(self) -> Iterator[Path]:
        """Other databases that keep their artifacts in the same folder: their files look unused from here."""
        own = self._db.location.path
        for other in [] if own is None else sorted(own.absolute().parent.glob("*")):
            if own is not None and other.stem == own.stem and other.name != own.name and other.is_file():
                with suppress(FltkError):
                    if probe(locate(other)) is not None:
                        yield other

    def _delete_files(self, files: Mapping[Path, int]) -> dict[Path, int]:
        gone: dict[Path, int] = {}
        paths = list(files)
        for start in range(0, len(paths), CHUNK):
            part = paths[start : start + CHUNK]
            with self._db.write() as connection:
                names = [path.name for path in part]
                used = set(connection.execute(select(artifact.c.sha256).where(artifact.c.sha256.in_(names))).scalars())
                for path in part:
                    if path.name not in used:
                        _unlink(path)
                        gone[path] = files[path]
        return gone

    def _shrink(self) -> None:
        """Give the room of deleted rows back to the disk, unless a run is in progress, which would have to wait."""
        if self._db.on_server:
            return
        with self._db.read() as connection:
            if any(row.status == RUNNING for row in self._rows(connection, select(run).where(run.c.status == RUNNING))):
                return
        try:
            self._db.vacuum()
        except FltkError as error:  # what was to be deleted is gone, whatever comes of the room
            _LOG.warning("all was deleted, and the room in the database file is kept for what comes: %s", error)


def ancestors(number: int, parents: Mapping[int, int | None]) -> list[int]:
    """What a run was made of, the nearest first. A damaged registry may lead back to the run: then it is the last."""
    found: list[int] = []
    above = parents.get(number)
    while above is not None and above not in found:
        found.append(above)
        above = parents.get(above)
    return found


def _without_circles(parents: Mapping[int, int | None]) -> dict[int, int | None]:
    """The parents, but for runs that are said to be made of themselves."""
    straight: dict[int, int | None] = {}
    for number, parent in parents.items():
        straight[number] = None if number in ancestors(number, parents) else parent
    return straight


def _referred(connection: Connection, without: Any = ()) -> set[str]:
    """The hashes that rows refer to, not counting those of the runs `without`."""
    gone = set(without)
    found = set(connection.execute(select(partition.c.sha256)).scalars())
    for number, sha256 in connection.execute(select(checkpoint.c.run_id, checkpoint.c.sha256)):
        if number not in gone:
            found.add(sha256)
    for number, sha256 in connection.execute(select(run.c.id, run.c.diff_sha256).where(run.c.diff_sha256.is_not(None))):
        if number not in gone:
            found.add(sha256)
    return found


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FltkError(f"artifact file {path} cannot be removed ({error.strerror})") from error
