"""One open database: connections, transactions, and the place where SQLAlchemy's errors become fltk's.

An SQLite file has one writer at a time. On a PostgreSQL server an advisory lock puts write transactions into
the same order, so that everything above may rely on it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import create_engine, event, inspect
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError, StatementError
from sqlalchemy.pool import QueuePool

from fltk.errors import FltkError, UsageError
from fltk.registry import migrate
from fltk.registry.location import (
    Location,
    check_creatable,
    check_writable,
    is_writable,
    locate,
    network_of,
    probe,
    reading_mode,
    uri,
)
from fltk.registry.schema import HEAD_REVISION, REVISIONS, metadata

BUSY_SECONDS = 30.0
# Bytes of a damaged file that are no text must not keep the rows around them from being read.
_text = partial(str, encoding="utf-8", errors="replace")
LARGEST = 2**63 - 1  # of the integers
SERVER_LOCK = 0x666C746B  # "fltk": a number that other programs in the same database hardly use

# What the database says -> what a user can do about it.
_ADVICE = (
    ("disk is full", "the disk is full; free space or name a file on another disk"),
    ("readonly database", "the file or its folder is read-only; copy it or name another file"),
    ("malformed", "the file is damaged; restore a copy or name another file"),
    ("not a database", "the file is damaged; restore a copy or name another file"),
    ("disk i/o error", "the disk reports an error; check it and the limit of ulimit -f, or name a file elsewhere"),
    ("unable to open", "the file cannot be opened; check the folder's permissions or name another file"),
    ("is locked", f"another process kept it locked for {BUSY_SECONDS:.0f} s; wait for it and try again"),
    ("lock timeout", f"another process kept it locked for {BUSY_SECONDS:.0f} s; wait for it and try again"),
)


def advice(error: Exception) -> str | None:
    """What a user can do about a failed statement; None where the statement is what is wrong."""
    reason = reason_of(error).lower()
    return next((told for sign, told in _ADVICE if sign in reason), None)


def reason_of(error: Exception) -> str:
    """What the database itself says, on one line."""
    cause: BaseException | None = error
    if isinstance(error, StatementError):  # as text it quotes the statement with its values
        cause = error.orig
    return " ".join(str(cause or "").split()) or type(cause or error).__name__


def explain(error: Exception, shown: str) -> FltkError:
    """The one line for a failed statement."""
    return FltkError(f"--db: {shown}: {advice(error) or reason_of(error)}")


@contextmanager
def guard(shown: str) -> Iterator[None]:
    """Turn database errors into FltkError."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise explain(error, shown) from error
    except UnicodeDecodeError as error:  # in what SQLite itself says of a damaged schema
        raise FltkError(f"--db: {shown}: the file is damaged; restore a copy or name another file") from error
    except UnicodeEncodeError as error:
        raise FltkError(f"--db: {shown}: {error.object!r} is no text that can be stored") from error
    except OverflowError as error:
        raise FltkError(f"--db: {shown}: a whole number lies beyond {LARGEST}, the largest that it holds") from error


@dataclass(frozen=True)
class Database:
    """An open registry database. `notice` is a line the user should see once (upgraded, or too new)."""

    location: Location
    engine: Engine
    readonly: bool
    notice: str | None = None
    newer: bool = False  # a newer fltk wrote it
    scratch: TemporaryDirectory[str] | None = None  # holds the upgraded copy that is open in place of the file

    @property
    def shown(self) -> str:
        """How messages call this database."""
        return self.location.shown

    @property
    def on_server(self) -> bool:
        """Whether a server keeps it, and not a file."""
        return self.location.path is None

    def close(self) -> None:
        """Close all connections; SQLite then folds its log into the database file."""
        self.engine.dispose()
        if self.scratch is not None:
            self.scratch.cleanup()

    def require_writable(self) -> None:
        """FltkError when the database is open for reading only."""
        if self.readonly:
            raise FltkError(self.notice or f"--db: {self.shown} is open for reading only")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent snapshot."""
        with guard(self.shown), self.engine.connect() as connection:
            if self.on_server:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
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

    def vacuum(self) -> None:
        """Give the unused room of an SQLite file back to the disk, for which it needs room; others wait meanwhile."""
        with guard(self.shown), closing(self.engine.raw_connection()) as connection:
            connection.cursor().execute("VACUUM")


def open_database(target: str | Path, *, readonly: bool, create: bool, upgrade: bool = True) -> Database:
    """Open a registry, creating (`create`) or upgrading it first where needed.

    With `upgrade` false, or where the file cannot be written, an older file is read from an upgraded copy. A
    server's database is upgraded by `upgrade_database` alone, because others work with it. A database of a newer
    fltk opens for reading only. Raises FltkError, one line that says what to do.
    """
    location = locate(target)
    if location.path is None:
        return _open_server(location, readonly=readonly, create=create)
    return _open_file(location, location.path, readonly=readonly, create=create, upgrade=upgrade)


@dataclass(frozen=True)
class Upgrade:
    """What `upgrade_database` did: revisions before and after, and the file with the previous state (or None)."""

    before: str
    after: str
    backup: Path | None


def upgrade_database(target: str | Path) -> Upgrade:
    """Bring an existing registry to the newest schema; FltkError where there is none or it is too new."""
    location = locate(target)
    if location.path is not None:
        revision = probe(location)
    else:
        engine = server_engine(location)
        with guard(location.shown):
            revision = server_revision(location, engine)
    if revision is None:
        raise missing(location)
    if revision not in REVISIONS:
        raise FltkError(_newer(location, revision))
    if revision == HEAD_REVISION:
        return Upgrade(revision, revision, None)
    if location.path is not None:
        return Upgrade(revision, HEAD_REVISION, _upgrade_file(location, location.path))
    with guard(location.shown), _closing(engine):
        migrate.upgrade(engine)
    return Upgrade(revision, HEAD_REVISION, None)


def _open_file(location: Location, path: Path, *, readonly: bool, create: bool, upgrade: bool) -> Database:
    revision = probe(location)
    if revision is None:
        if readonly or not create:
            raise missing(location)
        check_creatable(location)
        with guard(location.shown), _closing(file_engine(path, "mode=rwc", write=True)) as engine:
            migrate.upgrade(engine)
        revision = HEAD_REVISION
    notice, newer = None, revision not in REVISIONS
    if newer:
        readonly, notice = True, _newer(location, revision)
    elif revision != HEAD_REVISION:
        if readonly and not (upgrade and is_writable(path)):
            return _open_copy(location, path, revision)
        copy = _upgrade_file(location, path)
        kept = f"; its previous state is in {copy}" if copy else ""
        notice = f"{location.shown} was upgraded to schema {HEAD_REVISION}{kept}"
    if not readonly:
        check_writable(location)
        warning = notice or _network_warning(location, path)
        return Database(location, file_engine(path, "mode=rw", write=True), False, warning)
    return Database(location, file_engine(path, reading_mode(path), write=False), True, notice, newer)


def _open_copy(location: Location, path: Path, revision: str) -> Database:
    """An older file that must stay as it is: read from a copy with the newest schema, which goes when it is closed."""
    try:
        scratch = TemporaryDirectory(prefix="fltk-")
    except OSError as error:
        raise FltkError(
            f"--db: {location.shown} has the older schema {revision} and is read from a copy, for which there is no "
            f"folder ({error.strerror}): let TMPDIR name one that can be written"
        ) from error
    copy = Path(scratch.name, "copy.db")
    with guard(location.shown):
        migrate.copy_to(path, copy)
        with _closing(file_engine(copy, "mode=rw", write=True)) as engine:
            migrate.upgrade(engine)
    notice = f"--db: {location.shown} has the older schema {revision}; an upgraded copy is read, and it stays as it is"
    return Database(location, file_engine(copy, "mode=rw", write=False), True, notice, scratch=scratch)


def _open_server(location: Location, *, readonly: bool, create: bool) -> Database:
    engine = server_engine(location)
    with guard(location.shown):
        revision = server_revision(location, engine)
        if revision is None:
            if readonly or not create:
                raise missing(location)
            migrate.upgrade(engine)
        elif revision not in REVISIONS:
            return Database(location, engine, True, _newer(location, revision), newer=True)
        elif revision != HEAD_REVISION:
            raise FltkError(
                f"--db: {location.shown} has the older schema {revision}: save it with pg_dump, then run "
                f"`fltk db upgrade` once for everybody who uses it"
            )
    return Database(location, engine, readonly)


def server_revision(location: Location, engine: Engine) -> str | None:
    """The schema of a server's database; FltkError where another program's tables are in the way."""
    with engine.connect() as connection:
        revision = migrate.revision(connection)
        if revision is None and (taken := sorted(set(metadata.tables) & set(inspect(connection).get_table_names()))):
            raise FltkError(
                f"--db: {location.shown} holds tables of another program ({taken[0]}); name another database"
            )
        return revision


def missing(location: Location) -> FltkError:
    """Where nothing is yet."""
    return FltkError(f"no registry at {location.shown} yet: run `fltk train` first or name one with --db")


def _newer(location: Location, revision: str) -> str:
    return (
        f"--db: {location.shown} was written by a newer fltk (schema {revision}, here {HEAD_REVISION}) and "
        "is open for reading only; update fltk or name another file"
    )


def _network_warning(location: Location, path: Path) -> str | None:
    kind = network_of(path)
    if kind is None:
        return None
    return (
        f"--db: {location.shown} lies on a network file system ({kind}), where several computers that write at "
        "once can damage it; use one computer at a time, or files of their own and `fltk db merge`"
    )


def _upgrade_file(location: Location, path: Path) -> Path | None:
    """Upgrade in place; returns the copy of the previous state, None when another process was faster."""
    check_writable(location)
    copies: list[Path] = []
    with guard(location.shown), _closing(file_engine(path, "mode=rw", write=True)) as engine:
        migrate.upgrade(engine, before=lambda: copies.append(migrate.backup(path, location.shown)))
    return copies[0] if copies else None


@contextmanager
def _closing(engine: Engine) -> Iterator[Engine]:
    """Also after an error no connection stays, whose log would lie beside the file."""
    try:
        yield engine
    finally:
        engine.dispose()


def file_engine(path: Path, mode: str, *, write: bool) -> Engine:
    """Connections to an SQLite file, set up for many processes."""
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
        connection.text_factory = _text
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


def server_engine(location: Location) -> Engine:
    assert location.url is not None
    try:
        engine = create_engine(location.url, pool_pre_ping=True, connect_args={"connect_timeout": 15})
    except ModuleNotFoundError as error:
        raise UsageError(f"--db: {location.shown} needs a driver: pip install 'fltk[postgres]'") from error
    except NoSuchModuleError as error:
        raise UsageError(f"--db: {location.shown}: unknown kind of database") from error

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("fltk_write"):
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS:.0f}s'")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({SERVER_LOCK})")

    return engine
