"""Where a registry lives, and what is found there before anything is opened for writing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import stat
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from fltk.errors import FltkError, UsageError
from fltk.registry.schema import VERSION_TABLE

# File systems on which computers see each other's locks late or never.
NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "fuse.sshfs", "orangefs")
_SECRET = re.compile("pass|secret|token|key", re.IGNORECASE)  # in names of parameters of a URL
MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Location:
    """A registry's place: an SQLite file (`path`) or a server (`url`), and the folder of its artifacts.

    `shown` is how messages call it; a password is hidden there.
    """

    shown: str
    path: Path | None
    url: str | None
    artifacts: Path


def locate(target: str | Path) -> Location:
    """Read `--db`: a plain path is an SQLite file, anything with :// is an SQLAlchemy URL."""
    text = str(target)
    if not text.strip() or "\0" in text:
        raise UsageError("--db: name a database file or URL")
    if "://" not in text:
        return _file(text, Path(text).expanduser())
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        kind = text.partition("://")[0]  # what follows may hold a password
        reason = "the port is no number" if isinstance(error, ValueError) else "it cannot be read"
        raise UsageError(
            f"--db: '{kind}://...' is not a database URL such as postgresql+psycopg://host/name: {reason}"
        ) from error
    if url.get_backend_name() != "sqlite":
        return _server(url)
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise UsageError(f"--db: {text} keeps nothing; name a database file")
    return _file(url.database, Path(url.database))


def _server(url: URL) -> Location:
    """A PostgreSQL database. Its artifacts lie in `?artifacts=FOLDER`, or in a folder named after it."""
    folder = url.query.get("artifacts")
    address = url.difference_update_query(["artifacts"])
    if url.get_backend_name() != "postgresql":
        raise UsageError(
            f"--db: {_without_secrets(address)}: a registry is an SQLite file or a PostgreSQL database "
            "(postgresql+psycopg://host/name)"
        )
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    artifacts = Path(str(folder)).expanduser() if folder else Path(f"{url.database or 'fltk'}.artifacts")
    return Location(_without_secrets(address), None, address.render_as_string(hide_password=False), artifacts)


def _without_secrets(url: URL) -> str:
    """A URL as messages show it: passwords are hidden, also those that stand behind the question mark."""
    query: dict[str, str | Sequence[str]] = {}
    for key, value in url.query.items():
        query[key] = "***" if _SECRET.search(key) else value
    return url.set(query=query).render_as_string().replace("%2A%2A%2A", "***")


def _file(shown: str, path: Path) -> Location:
    if not path.name:
        raise FltkError(f"--db: {shown} is a folder; name a file in it, such as {path / 'results.db'}")
    return Location(shown, path, None, path.with_name(f"{path.stem}.artifacts"))


def uri(path: Path, options: str) -> str:
    """The SQLite URI of a file, any character in its name escaped."""
    return f"{path.absolute().as_uri()}?{options}"


def has_wal(path: Path) -> bool:
    """Whether a write-ahead log beside the file holds changes: the file alone is not the whole database."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except OSError:
        return False


def _may(path: Path, mode: int) -> bool:
    """os.access for the user that files are opened as: not the caller in a set-user-id process."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def is_writable(path: Path) -> bool:
    """Whether SQLite can write: the file, and the folder, where it keeps the write-ahead log."""
    return _may(path, os.W_OK) and _may(path.absolute().parent, os.W_OK)


def reading_mode(path: Path) -> str:
    """The options by which a file is opened for reading.

    Readers of a writable file open it like writers: SQLite then removes its log files when they close.
    """
    if is_writable(path):
        return "mode=rw"
    return "mode=ro" if has_wal(path) else "mode=ro&immutable=1"


def network_of(path: Path) -> str | None:
    """The kind of network file system that a file lies on; None for a local disk or where that is unknown."""
    found, length = "", 0
    with contextlib.suppress(OSError, IndexError):
        place = str(path.resolve())
        for line in MOUNTS.read_text(errors="replace").splitlines():
            folder, kind = line.split()[1:3]
            folder = folder.encode().decode("unicode_escape").rstrip("/") + "/"  # a space is \040 there
            if place.startswith(folder) and len(folder) >= length:
                found, length = kind, len(folder)
    return found if found.startswith(NETWORK) else None


def probe(location: Location) -> str | None:
    """The schema revision stored in an SQLite file; None where there is nothing yet.

    Never changes, creates or locks anything, and reads through SQLite alone: closing any other handle of the file
    would take away the locks that this process holds on it through other connections. Raises FltkError for a
    folder, for a file that is no database, and for the database of another program.
    """
    path, shown = location.path, location.shown
    assert path is not None
    if not _readable_file(path, shown):
        return None
    tables, revision = _contents(path, shown)
    if revision is None and tables:
        raise FltkError(f"--db: {shown} is not an fltk database but one of another program; name another file")
    return revision


def _readable_file(path: Path, shown: str) -> bool:
    """False where there is no file or an empty one; FltkError for what can never be a database."""
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise FltkError(f"--db: {shown} is a folder; name a file in it, such as {path / 'results.db'}")
        if not stat.S_ISREG(info.st_mode):
            raise FltkError(f"--db: {shown} is not a regular file; name another")
        if not _may(path, os.R_OK):
            raise FltkError(f"--db: {shown} cannot be read (permission denied)")
    except FileNotFoundError:
        return False
    except OSError as error:
        reason = "its folder is a file" if error.errno == errno.ENOTDIR else str(error.strerror)
        raise FltkError(f"--db: {shown} cannot be opened ({reason})") from error
    return info.st_size > 0


def _contents(path: Path, shown: str) -> tuple[list[str], str | None]:
    """Table names and fltk revision, read without leaving a trace beside the file."""
    for pause in (0.05, 0.2):
        # A writer that comes up at this moment can make an immutable reading inconsistent: look again.
        with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
            return _read_contents(path)
        time.sleep(pause)
    try:
        return _read_contents(path)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise FltkError(f"--db: {shown} is not an fltk database (no SQLite file); name another file") from error
        raise FltkError(
            f"--db: {shown} is no fltk database or is damaged ({error}); restore a copy or name another file"
        ) from error


def _read_contents(path: Path) -> tuple[list[str], str | None]:
    # Even a reader of a WAL database creates files next to it, unless it declares the file immutable.
    mode = "mode=ro" if has_wal(path) else "mode=ro&immutable=1"
    with closing(sqlite3.connect(uri(path, mode), uri=True, timeout=30)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = [str(row[0]) for row in found]
        if VERSION_TABLE not in tables:
            return tables, None
        row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
        return tables, None if row is None else str(row[0])


def check_creatable(location: Location) -> None:
    """FltkError with the reason when a new database file cannot be made there."""
    assert location.path is not None
    parent = location.path.absolute().parent
    if not parent.is_dir():
        raise FltkError(f"--db: cannot create {location.shown}: there is no folder {parent}; create it first")
    if not _may(parent, os.W_OK):
        raise FltkError(f"--db: cannot create {location.shown}: the folder {parent} is read-only")


def check_writable(location: Location) -> None:
    """FltkError with the reason when an existing database file cannot be written."""
    assert location.path is not None
    if is_writable(location.path):
        return
    what = "its folder" if _may(location.path, os.W_OK) else "the file"
    raise FltkError(f"--db: {location.shown} cannot be written: {what} is read-only; copy it or name another file")
