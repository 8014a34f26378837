"""Bringing a database to the newest schema. Alembic is imported only when there is something to do."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import Connection, Engine

from fltk.errors import FltkError
from fltk.registry import views
from fltk.registry.location import reading_mode, uri
from fltk.registry.schema import HEAD_REVISION, VERSION_TABLE, ledger
from fltk.registry.sealing import seal_everything

SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine, before: Callable[[], object] | None = None) -> None:
    """Run the missing migrations in one write transaction; a new database gets all of them.

    Two processes may try at once: the second waits for the lock, then finds nothing left to do. `before` is
    called where there is something to do, with the lock held: what it reads, no other process changes.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with engine.connect().execution_options(fltk_write=True) as connection, connection.begin():
        if revision(connection) == HEAD_REVISION:
            return
        if before is not None:
            before()
        config.attributes["connection"] = connection
        views.drop(connection)
        command.upgrade(config, "head")
        if connection.execute(select(ledger.c.id)).first() is None:
            seal_everything(connection, time.time())
        views.create(connection)


def revision(connection: Connection) -> str | None:
    """The schema of an open database; None for an empty one."""
    if not connection.dialect.has_table(connection, VERSION_TABLE):
        return None
    found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
    return None if found is None else str(found)


def backup(path: Path, shown: str) -> Path:
    """Copy the database beside itself before an upgrade; SQLite's own backup includes the log.

    The copy gets its name when it is complete. Other processes may read meanwhile, and wait to write.
    """
    unfinished = path.with_name(f"{path.name}.backup-{os.getpid()}")
    try:
        copy_to(path, unfinished)
        copy = _free_name(path)
        unfinished.rename(copy)
    except (sqlite3.Error, OSError) as error:
        raise FltkError(f"--db: {shown} needs an upgrade, and its backup failed ({error}); free some space") from error
    finally:
        with suppress(OSError):  # a read-only system refuses it even where there is nothing
            unfinished.unlink()
    return copy


def copy_to(path: Path, target: Path) -> None:
    """A consistent copy of a database in use, as one file."""
    address = uri(path, reading_mode(path))
    with (
        closing(sqlite3.connect(address, uri=True, timeout=30)) as source,
        closing(sqlite3.connect(target)) as connection,
    ):
        source.backup(connection)
        connection.execute("PRAGMA journal_mode = DELETE")


def _free_name(path: Path) -> Path:
    stem = f"{path.name}.before-{HEAD_REVISION}"
    copy, number = path.with_name(stem), 1
    while copy.exists():
        number += 1
        copy = path.with_name(f"{stem}.{number}")
    return copy
