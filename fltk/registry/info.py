"""What a database is and holds, found out without changing it: an older one is not upgraded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import Connection

from fltk.errors import FltkError
from fltk.registry.database import file_engine, guard, missing, server_engine, server_revision
from fltk.registry.location import Location, locate, network_of, probe, reading_mode
from fltk.registry.schema import HEAD_REVISION, REVISIONS

COUNTED = ("run", "partition", "round", "map", "checkpoint", "evaluation", "artifact")


@dataclass(frozen=True)
class Info:
    """Sizes are in bytes; counts by table. `removed` of the runs wait for `fltk db gc`."""

    shown: str
    software: str
    schema: str
    newest: str
    size: int
    unused: int
    counts: dict[str, int]
    removed: int
    artifact_size: int
    artifacts: Path
    network: str | None

    @property
    def state(self) -> str:
        """The schema beside the one of this fltk."""
        if self.schema == self.newest:
            return f"{self.schema} (the newest)"
        known = self.schema in REVISIONS
        return f"{self.schema} ({'older' if known else 'newer'} than {self.newest} of this fltk)"


def info(target: str | Path) -> Info:
    """Look at a registry. FltkError where there is none."""
    location = locate(target)
    if location.path is None:
        engine = server_engine(location)
        with guard(location.shown):
            schema = server_revision(location, engine)
    else:
        schema = probe(location)
        engine = file_engine(location.path, reading_mode(location.path), write=False)
    if schema is None:
        raise missing(location)
    try:
        with guard(location.shown), engine.connect() as connection:
            return _read(connection, location, schema)
    finally:
        engine.dispose()


def _read(connection: Connection, location: Location, schema: str) -> Info:
    tables = set(inspect(connection).get_table_names())
    counts = {name: _number(connection, f"SELECT count(*) FROM {name}") for name in COUNTED if name in tables}
    columns = {column["name"] for column in inspect(connection).get_columns("run")}
    removed = "SELECT count(*) FROM run WHERE removed IS NOT NULL" if "removed" in columns else "SELECT 0"
    if location.path is None:
        software = "PostgreSQL " + str(connection.exec_driver_sql("SHOW server_version").scalar())
        size, unused = _number(connection, "SELECT pg_database_size(current_database())"), 0
    else:
        software = "SQLite " + str(connection.exec_driver_sql("SELECT sqlite_version()").scalar())
        size = _size(location.path)
        unused = _number(connection, "PRAGMA freelist_count") * _number(connection, "PRAGMA page_size")
    return Info(
        location.shown,
        software,
        schema,
        HEAD_REVISION,
        size,
        unused,
        counts,
        _number(connection, removed),
        _number(connection, "SELECT coalesce(sum(size), 0) FROM artifact"),
        location.artifacts,
        None if location.path is None else network_of(location.path),
    )


def _number(connection: Connection, statement: str) -> int:
    return int(connection.exec_driver_sql(statement).scalar() or 0)


def _size(path: Path) -> int:
    """The file and its log."""
    try:
        return sum(os.path.getsize(part) for part in (path, path.with_name(f"{path.name}-wal")) if part.exists())
    except OSError as error:
        raise FltkError(f"--db: {path}: {error.strerror}") from error
