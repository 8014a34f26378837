"""A database of every past version is upgraded and keeps all it had; a newer one can be read.

`data/schema-NNNN.db`, with its artifacts, was written by the fltk of that schema and is never made anew.
"""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from stored import DATA, contents, copy_stored, verified

from fltk.errors import FltkError
from fltk.registry import Store
from fltk.registry.database import upgrade_database
from fltk.registry.info import info
from fltk.registry.query import query
from fltk.registry.schema import HEAD_REVISION, REVISIONS
from fltk.registry.views import VIEWS

ROOT = Path(__file__).resolve().parents[2]
STORED = sorted(path.stem for path in DATA.glob("schema-*.db"))


@pytest.fixture(params=STORED)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a stored database."""
    return copy_stored(request.param, tmp_path / "old.db")


def revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM fltk_schema_version").fetchone()[0])


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_the_released_schema_is_among_the_stored_ones() -> None:
    assert "schema-0001" in STORED and {name.removeprefix("schema-") for name in STORED} < set(REVISIONS)


def test_an_old_database_is_saved_upgraded_and_sound(old: Path) -> None:
    before = dump(old)
    with Store(old) as store:
        copy = old.with_name(f"old.db.before-{HEAD_REVISION}")
        assert store.notice is not None and f"upgraded to schema {HEAD_REVISION}; its previous state is in {copy}" in (
            store.notice
        )
        assert verified(store).problems == []
        assert all(query(store, f"SELECT * FROM {view.name}").columns == tuple(view.columns) for view in VIEWS)
    assert dump(copy) == before and revision(old) == HEAD_REVISION
    with Store(old) as store:
        assert store.notice is None
    assert not list(old.parent.glob("*backup*"))


def test_the_content_of_version_1(tmp_path: Path) -> None:
    with Store(copy_stored("schema-0001", tmp_path / "old.db")) as store:
        first, second, third, fourth = store.runs()
        assert [row.name for row in store.runs()] == ["größe", None, None, "unfinished"]
        assert (first.method, first.rounds_done, first.status, first.seed) == ("attn", 11, "done", 0)
        assert first.tags == {"keep": "", "paper": "icml"} and first.note == "ø" * 100 + "\nsecond line"
        assert store.git_diff(1) == b"--- a\n+++ b\n\xff\x00"
        assert [c.round for c in store.checkpoints(1)] == [10, 11]
        assert len(store.digests(1)) == len(store.maps(1)) == 11
        assert store.client_values(1, "personal_test_acc")[1].shape == (11, 4)
        assert store.evaluations(second.id)[0].summary["rows"][0]["model"] == "deployed"
        assert third.note == "plain" and third.removed is None
        assert (fourth.kind, fourth.parent, fourth.seed, fourth.status) == ("join", 1, 2**62, "stale")
        values = {key: float(series[1][0]) for key, series in store.scalars(4).items()}
        assert math.isnan(values["loss"]) and (values["up"], values["down"]) == (math.inf, -math.inf)
        assert math.copysign(1, values["zero"]) == -1
        (drawn,) = store.maps(4)
        assert drawn.ids == (4, 7, 9) and np.array_equal(drawn.array, np.arange(18).reshape(2, 3, 3))
        assert [(a.host, a.pid, a.changes) for a in store.attempts(4)] == [("lab-1", 4242, ())]


def test_processes_that_upgrade_at_once_make_one_copy(old: Path) -> None:
    before = dump(old)
    program = "import sys\nfrom fltk.registry import Store\nStore(sys.argv[1]).close()"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    several = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(old)],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    told = [process.communicate(timeout=120)[1] for process in several]
    assert [process.returncode for process in several] == [0] * 4, told
    (copy,) = old.parent.glob("old.db.before-*")
    assert dump(copy) == before and sum("previous state is in" in text for text in told) == 1


def test_reading_without_an_upgrade_leaves_the_file_as_it_is(old: Path) -> None:
    before, names = old.read_bytes(), sorted(path.name for path in old.parent.iterdir())
    with Store(old, readonly=True, upgrade=False) as store:
        assert "an upgraded copy is read" in str(store.notice) and len(contents(store)) == len(store.runs()) > 0
        with pytest.raises(FltkError, match="upgraded copy is read"):
            store.set_note(1, "x")
    assert info(old).schema == revision(old) != HEAD_REVISION
    assert old.read_bytes() == before and sorted(path.name for path in old.parent.iterdir()) == names


def test_an_old_database_in_a_read_only_folder_can_be_read(unprivileged: Path) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    copy_stored("schema-0001", unprivileged / "old.db").chmod(0o444)
    unprivileged.chmod(0o555)
    os.seteuid(user)
    with Store(unprivileged / "old.db", readonly=True) as store:
        assert len(store.runs()) == 4 and store.latest_checkpoint(1)[0] == 11
    with pytest.raises(FltkError, match="cannot be written"):
        Store(unprivileged / "old.db")
    assert sorted(path.name for path in unprivileged.iterdir()) == ["old.artifacts", "old.db"]


def test_without_room_for_the_copy_nothing_changes(small_disk: Path) -> None:
    old = copy_stored("schema-0001", small_disk / "old.db")
    before = old.read_bytes()
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 64 * 1024))
    with pytest.raises(FltkError, match=r"needs an upgrade, and its backup failed .*full"):
        Store(old)
    assert old.read_bytes() == before
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "old.artifacts", "old.db"]
    (small_disk / "filler").unlink()
    with Store(old) as store:
        assert len(store.runs()) == 4


def test_a_newer_database_can_be_read_and_says_so(lab: Path) -> None:
    with closing(sqlite3.connect(lab)) as connection:
        connection.execute("UPDATE fltk_schema_version SET version_num = '9999'")
        connection.execute("ALTER TABLE run ADD COLUMN colour TEXT")
        connection.commit()
    before = lab.read_bytes()
    for readonly in (True, False):
        with Store(lab, readonly=readonly) as store:
            assert store.readonly and len(contents(store)) == 4
            with pytest.raises(FltkError, match=r"was written by a newer fltk .* is open for reading only") as caught:
                store.set_note(1, "x")
            assert "\n" not in str(caught.value)
    with pytest.raises(FltkError, match="was written by a newer fltk"):
        upgrade_database(lab)
    assert lab.read_bytes() == before and info(lab).schema == "9999"


def test_upgrading_on_request(old: Path, tmp_path: Path) -> None:
    before = revision(old)
    done = upgrade_database(old)
    assert (done.before, done.after) == (before, HEAD_REVISION) and done.backup is not None and done.backup.exists()
    assert upgrade_database(old).backup is None
    with pytest.raises(FltkError, match="no registry at"):
        upgrade_database(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_stored_view_is_as_defined(lab: Path, store: Store) -> None:
    """Upgraded and new databases have the same views: those of the code."""

    def views(path: Path) -> dict[str, str]:
        with closing(sqlite3.connect(path)) as connection:
            return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'").fetchall())

    expected = {view.name: f"CREATE VIEW {view.name} AS {view.sqlite}" for view in VIEWS}
    assert views(lab) == views(Path(store.shown)) == expected


def test_a_network_file_system_is_named(
    database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "mounts"
    monkeypatch.setattr("fltk.registry.location.MOUNTS", table)
    local = "/dev/sda / ext4 rw 0 0\n"
    for kind, warned in (("nfs4", True), ("cifs", True), ("ext4", False)):
        table.write_text(f"{local}server:/x {tmp_path} {kind} rw 0 0\nother /elsewhere nfs rw 0 0\n")
        database.unlink(missing_ok=True)
        with Store(database, create=True) as store:
            assert (store.notice is not None) == warned
            assert not warned or f"lies on a network file system ({kind})" in str(store.notice)
    table.write_text(f"{local}server:/x {tmp_path}/elsewhere nfs rw 0 0\n")
    with Store(database) as store:
        assert store.notice is None
