"""Bringing a database to the newest schema. Alembic is imported only when there is something to do."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import Engine

from fltk.errors import FltkError
from fltk.registry.schema import HEAD_REVISION

SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Run the missing migrations in one write transaction; a new database gets all of them.

    Two processes may try at once: the second waits for the lock, then finds nothing left to do.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with engine.connect().execution_options(fltk_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def backup(path: Path, shown: str) -> Path:
    """Copy the database beside itself before an upgrade; SQLite's own backup includes the log."""
    copy = _free_name(path)
    try:
        with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except sqlite3.Error as error:
        copy.unlink(missing_ok=True)
        raise FltkError(f"--db: {shown} needs an upgrade, and its backup {copy} failed ({error})") from error
    return copy


def _free_name(path: Path) -> Path:
    stem = f"{path.name}.before-{HEAD_REVISION}"
    copy, number = path.with_name(stem), 1
    while copy.exists():
        number += 1
        copy = path.with_name(f"{stem}.{number}")
    return copy
