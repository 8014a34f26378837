"""One open database: connections, transactions, and the place where SQLAlchemy's errors become fltk's."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from fltk.errors import FltkError, UsageError
from fltk.registry import migrate
from fltk.registry.location import (
    Location,
    check_creatable,
    check_writable,
    has_wal,
    is_writable,
    locate,
    probe,
    uri,
)
from fltk.registry.schema import HEAD_REVISION, REVISIONS, VERSION_TABLE, metadata

BUSY_SECONDS = 30.0

# What SQLite says -> what a user can do about it.
_ADVICE = (
    ("disk is full", "the disk is full; free space or name a file on another disk"),
    ("readonly database", "the file or its folder is read-only; copy it or name another file"),
    ("malformed", "the file is damaged; restore a copy or name another file"),
    ("not a database", "the file is damaged; restore a copy or name another file"),
    ("disk i/o error", "the disk reports an error; check the disk, or name a file elsewhere"),
    ("unable to open", "the file cannot be opened; check the folder's permissions or name another file"),
    ("is locked", f"another process kept it locked for {BUSY_SECONDS:.0f} s; wait for it and try again"),
)


def explain(error: Exception, shown: str) -> FltkError:
    """The one line for a failed statement."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    reason = " ".join(str(cause).split()) or type(cause).__name__
    for sign, advice in _ADVICE:
        if sign in reason.lower():
            return FltkError(f"--db: {shown}: {advice}")
    return FltkError(f"--db: {shown}: {reason}")


@contextmanager
def guard(shown: str) -> Iterator[None]:
    """Turn database errors into FltkError."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise explain(error, shown) from error
    except UnicodeEncodeError as error:
        raise FltkError(f"--db: {shown}: {error.object!r} is no text that can be stored") from error


@dataclass(frozen=True)
class Database:
    """An open registry database. `notice` is a line the user should see once (upgraded, or too new)."""

    location: Location
    engine: Engine
    readonly: bool
    notice: str | None = None

    @property
    def shown(self) -> str:
        """How messages call this database."""
        return self.location.shown

    def require_writable(self) -> None:
        """FltkError when the database is open for reading only."""
        if self.readonly:
            raise FltkError(self.notice or f"--db: {self.shown} is open for reading only")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent snapshot."""
        with guard(self.shown), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its start; keep it short."""
        self.require_writable()
        with (
            guard(self.shown),
            self.engine.connect().execution_options(fltk_write=True) as connection,
            connection.begin(),
        ):
            yield connection


def open_database(target: str | Path, *, readonly: bool, create: bool) -> Database:
    """Open a registry, creating (`create`) or upgrading it first where needed.

    A database of a newer fltk opens for reading only. Raises FltkError, one line that says what to do.
    """
    location = locate(target)
    if location.path is None:
        return _open_server(location, readonly=readonly, create=create)
    return _open_file(location, location.path, readonly=readonly, create=create)


def _open_file(location: Location, path: Path, *, readonly: bool, create: bool) -> Database:
    revision = probe(location)
    if revision is None:
        _refuse_missing(location, may_create=create and not readonly)
        check_creatable(location)
        engine = _file_engine(path, "mode=rwc", write=True)
        with guard(location.shown):
            migrate.upgrade(engine)
        return Database(location, engine, readonly=False)
    notice = None
    if revision not in REVISIONS:
        readonly, notice = True, _newer(location, revision)
    elif revision != HEAD_REVISION:
        notice = _upgrade_file(location, path)
    if not readonly:
        check_writable(location)
        return Database(location, _file_engine(path, "mode=rw", write=True), False, notice)
    # Readers of a writable file use it like writers: SQLite then removes its log files when they close.
    if is_writable(path):
        return Database(location, _file_engine(path, "mode=rw", write=False), True, notice)
    mode = "mode=ro" if has_wal(path) else "mode=ro&immutable=1"
    return Database(location, _file_engine(path, mode, write=False), True, notice)


def _open_server(location: Location, *, readonly: bool, create: bool) -> Database:
    engine = _server_engine(location)
    with guard(location.shown):
        inspector = inspect(engine)
        revision = None
        if inspector.has_table(VERSION_TABLE):
            with engine.connect() as connection:
                revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        elif taken := sorted(set(metadata.tables) & set(inspector.get_table_names())):
            raise FltkError(
                f"--db: {location.shown} holds tables of another program ({taken[0]}); name another database"
            )
        if revision is not None and revision not in REVISIONS:
            return Database(location, engine, True, _newer(location, str(revision)))
        if revision is None:
            _refuse_missing(location, may_create=create and not readonly)
        if revision != HEAD_REVISION:
            migrate.upgrade(engine)
    return Database(location, engine, readonly)


def _refuse_missing(location: Location, *, may_create: bool) -> None:
    if not may_create:
        raise FltkError(f"no registry at {location.shown} yet: run `fltk train` first or name one with --db")


def _newer(location: Location, revision: str) -> str:
    return (
        f"--db: {location.shown} was written by a newer fltk (schema {revision}, here {HEAD_REVISION}) and "
        "is open for reading only; update fltk or name another file"
    )


def _upgrade_file(location: Location, path: Path) -> str:
    check_writable(location)
    copy = migrate.backup(path, location.shown)
    engine = _file_engine(path, "mode=rw", write=True)
    with guard(location.shown):
        migrate.upgrade(engine)
    engine.dispose()
    return f"{location.shown} was upgraded to schema {HEAD_REVISION}; its previous state is in {copy}"


def _file_engine(path: Path, mode: str, *, write: bool) -> Engine:
    engine = create_engine("sqlite://", creator=_connector(path, mode, write=write), poolclass=QueuePool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that goes from reading to writing can fail at once under contention; IMMEDIATE waits.
        locked = connection.get_execution_options().get("fltk_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if locked else "BEGIN")

    return engine


def _connector(path: Path, mode: str, *, write: bool) -> Callable[[], sqlite3.Connection]:
    def connect() -> sqlite3.Connection:
        # isolation_level None: the driver must not open transactions of its own.
        connection = sqlite3.connect(
            uri(path, mode), uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA foreign_keys = ON")
        if write:
            _use_wal(connection)
            connection.execute("PRAGMA synchronous = NORMAL")
        else:
            connection.execute("PRAGMA query_only = ON")
        return connection

    return connect


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite does not apply the busy timeout to this, so wait here."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _server_engine(location: Location) -> Engine:
    assert location.url is not None
    try:
        return create_engine(location.url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise UsageError(f"--db: {location.shown} needs a driver: pip install {error.name}") from error
    except NoSuchModuleError as error:
        raise UsageError(f"--db: {location.shown}: unknown kind of database") from error
