"""Opening: what cannot be a registry is refused in one line and left as it was."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import StatementError
from stored import copy_stored

from fltk.errors import FltkError, UsageError
from fltk.files import replacing
from fltk.registry import Store, migrate
from fltk.registry.database import explain

Begin = Callable[..., int]


def refused(target: str | Path, pattern: str, *, create: bool = True, readonly: bool = False) -> None:
    with pytest.raises(FltkError, match=pattern) as caught:
        Store(target, create=create, readonly=readonly)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("readonly", [False, True])
def test_reading_creates_nothing(database: Path, readonly: bool) -> None:
    refused(database, "no registry at .*results.db yet: run `fltk train` first", create=False, readonly=readonly)
    assert list(database.parent.iterdir()) == []


def test_an_empty_file_is_no_registry_yet(database: Path) -> None:
    database.touch()
    refused(database, "no registry at", create=False)
    with Store(database, create=True) as store:
        assert store.runs() == []


@pytest.mark.parametrize("content", [b"hello", b"x" * 10_000, b"SQLite", b"\0" * 512])
def test_a_file_that_is_no_database(database: Path, content: bytes) -> None:
    database.write_bytes(content)
    refused(database, "is not an fltk database")
    assert database.read_bytes() == content and len(list(database.parent.iterdir())) == 1


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("readonly", [False, True])
def test_the_database_of_another_program_is_not_touched(database: Path, journal: str, readonly: bool) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.commit()
    before = database.read_bytes(), database.stat().st_mtime_ns
    refused(database, "one of another program", readonly=readonly)
    assert (database.read_bytes(), database.stat().st_mtime_ns) == before
    assert list(database.parent.iterdir()) == [database]


def test_another_program_may_have_it_open(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE theirs (a)")
        connection.commit()
        refused(database, "one of another program")


def test_folders_and_missing_folders(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder; name a file in it")
    refused(tmp_path / "no" / "results.db", "there is no folder .*no; create it first")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "results.db", "its folder is a file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    refused(tmp_path / ("x" * 300), "cannot be opened")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


@pytest.mark.parametrize("target", ["", "  ", "a\0b", "://", "nosuch://host/db", "sqlite://", "sqlite:///:memory:"])
def test_targets_that_mean_nothing(target: str) -> None:
    with pytest.raises(UsageError, match="--db"):
        Store(target, create=True)


def test_a_server_without_driver_or_answer_is_one_line() -> None:
    refused("mysql+pymysql://user:secret@127.0.0.1:1/db", r"--db: mysql\+pymysql://user:\*\*\*@127\.0\.0\.1:1/db")
    refused("postgresql+psycopg://user:secret@127.0.0.1:1/db", r"--db: postgresql\+psycopg://user:\*\*\*@127")


@pytest.mark.parametrize("target", [".", "./", "..", "/"])
def test_a_folder_in_place_of_a_file(target: str) -> None:
    refused(target, "is a folder; name a file in it")


SECRETS = (
    "postgresql://u@127.0.0.1:1/db?password=hunter2",
    "postgresql+psycopg://127.0.0.1:1/db?user=u&sslpassword=hunter2&password=hunter2",
    "postgresql://u:hunter2@127.0.0.1:1/db",
    "mysql://u:x@127.0.0.1/db?passwd=hunter2",
    "postgresql://u:hunter2@host:port/db",
    "postgresql://u:hunter2@[host/db",
)


@pytest.mark.parametrize("target", SECRETS)
def test_passwords_are_not_printed(target: str) -> None:
    with pytest.raises(FltkError, match="--db") as caught:
        Store(target, create=True)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_port_that_is_no_number() -> None:
    refused("postgresql://host:many/db", "the port is no number")


def test_statements_are_not_quoted() -> None:
    error = StatementError("failed", "INSERT INTO run VALUES (:secret)", {"secret": "mine"}, TypeError("no text"))
    assert str(explain(error, "results.db")) == "--db: results.db: no text"


def test_a_read_only_system_names_the_file_that_was_asked_for(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There even the removal of a temporary file that was never made is refused."""

    def refuse(path: Path, *args: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        for name in ("open", "unlink", "rename"):
            patch.setattr(Path, name, refuse)
        figure = tmp_path / "figure.png"
        with pytest.raises(FltkError, match=r"cannot write '.*figure\.png': Read-only"), replacing(figure):
            pass
        with pytest.raises(FltkError, match=r"lab\.db needs an upgrade, and its backup failed .*Read-only"):
            migrate.backup(lab, str(lab))


def test_an_older_registry_without_a_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = copy_stored("schema-0001", tmp_path / "old.db")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(FltkError, match="let TMPDIR name one that can be written"):
        Store(old, readonly=True, upgrade=False)


def test_a_url_means_the_same_file(tmp_path: Path, begin: Begin) -> None:
    with Store(f"sqlite:///{tmp_path}/a b%c?.db", create=True) as store:
        begin(store)
    with Store(tmp_path / "plain.db", create=True) as store:
        begin(store)
    with Store(f"sqlite:///{tmp_path}/plain.db") as store:
        assert len(store.runs()) == 1
        assert store.artifact_folder == tmp_path / "plain.artifacts"


@pytest.mark.parametrize("name", ["a b.db", "50%?#.db", "ünï 試.db", "results.db.example", "-x", "~"])
def test_any_file_name_works(tmp_path: Path, begin: Begin, name: str) -> None:
    with Store(str(tmp_path / name), create=True) as store:
        begin(store)
    with Store(str(tmp_path / name), readonly=True) as store:
        assert len(store.runs()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_closed_database_is_one_file(database: Path, begin: Begin) -> None:
    with Store(database, create=True) as store:
        begin(store)
    with Store(database, readonly=True) as store:
        store.runs()
    assert list(database.parent.iterdir()) == [database]


def test_reading_only_refuses_to_write(database: Path, begin: Begin) -> None:
    with Store(database, create=True) as store:
        run = begin(store)
    with Store(database, readonly=True) as store:
        for change in (
            lambda: begin(store),
            lambda: store.finish(run, "done"),
            lambda: store.set_note(run, ""),
        ):
            with pytest.raises(FltkError, match="open for reading only"):
                change()
        with pytest.raises(FltkError, match="open for reading only"):
            store.add_checkpoint(run, 1, {}, {}, keep=1)
        with pytest.raises(FltkError, match="open for reading only"):
            store.save_partition({}, {}, "f", "d", {})
    assert list(database.parent.iterdir()) == [database]


@pytest.mark.parametrize("size", [100, 4096, 20_000, 70_000])
def test_a_truncated_database(database: Path, begin: Begin, size: int) -> None:
    with Store(database, create=True) as store:
        run = begin(store)
        for number in range(30):
            store.record_round(run, number, {"a": 1.0}, {"b": np.zeros(500, np.float32)}, None, "d")
    os.truncate(database, size)
    with pytest.raises(FltkError, match="damaged") as caught, Store(database) as store:
        store.client_values(store.find_run("latest").id, "b")
    assert "\n" not in str(caught.value)


def test_overwritten_pages_are_one_line(database: Path, begin: Begin) -> None:
    with Store(database, create=True) as store:
        begin(store)
    data = bytearray(database.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    database.write_bytes(data)
    with pytest.raises(FltkError, match="damaged"), Store(database) as store:
        store.runs()


def test_a_full_disk_is_one_line_and_loses_nothing(store: Store, begin: Begin) -> None:
    run = begin(store)
    store.record_round(run, 1, {"a": 1.0}, {}, None, "x")
    with store._db.engine.connect() as connection:  # the pool hands the same connection to the next transaction
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(FltkError, match="the disk is full; free space"):
        store.record_round(run, 1, {"a": 2.0}, {"b": np.zeros(100_000)}, None, "y")
    assert store.scalars(run)["a"][1].tolist() == [1.0] and store.digests(run) == {1: "x"}


def test_a_read_only_folder(unprivileged: Path, begin: Begin) -> None:
    database = unprivileged / "results.db"
    _as_owner(lambda: _make(database, begin))
    with Store(database, readonly=True) as store:
        assert store.find_run("a").id == 1
    refused(database, "cannot be written")
    refused(unprivileged / "new.db", "read-only")
    assert [path.name for path in unprivileged.iterdir()] == ["results.db"]


def test_a_read_only_and_an_unreadable_file(unprivileged: Path, begin: Begin) -> None:
    database = unprivileged / "results.db"
    _as_owner(lambda: _make(database, begin))
    _as_owner(lambda: unprivileged.chmod(0o777))
    refused(database, "the file is read-only")
    with Store(database, readonly=True) as store:
        assert len(store.runs()) == 1
    _as_owner(lambda: database.chmod(0o000))
    refused(database, "cannot be read")


def _make(database: Path, begin: Begin) -> None:
    with Store(database, create=True) as store:
        begin(store, name="a")
    database.chmod(0o444)
    database.parent.chmod(0o555)


def _as_owner(action: Callable[[], None]) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    try:
        action()
    finally:
        os.seteuid(user)
