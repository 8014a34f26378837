"""A registry that somebody else made: whatever it names, nothing outside its folder of artifacts is read or deleted."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from stored import verified

from fltk.errors import FltkError
from fltk.registry import Store
from fltk.registry.merge import NEW, REFUSED, merge

Begin = Callable[..., int]


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the reader's that a hostile registry names."""
    path = tmp_path / "precious.txt"
    path.write_text("mine")
    return path


def names_file(lab: Path, name: str) -> None:
    """Let the newest checkpoint of run1 bear another name."""
    with closing(sqlite3.connect(lab)) as connection:
        (sha256,) = connection.execute("SELECT sha256 FROM checkpoint WHERE run_id = 1 ORDER BY id DESC").fetchone()
        for table in ("artifact", "checkpoint"):
            connection.execute(f"UPDATE {table} SET sha256 = ? WHERE sha256 = ?", (name, sha256))
        connection.commit()


def weights() -> dict[str, torch.Tensor]:
    return {"w": torch.ones(2)}


HOSTILE = ["{file}", "../precious.txt", "..", "", "A" * 64, "0" * 63, "0" * 65, "0" * 62 + "/x", "0" * 63 + "\n"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_no_hash_never_becomes_a_path(lab: Path, precious: Path, name: str) -> None:
    name = name.format(file=precious)
    names_file(lab, name)
    with Store(lab) as store:
        with pytest.raises(FltkError, match="no SHA-256") as caught:
            store.latest_checkpoint(1)
        assert "\n" not in str(caught.value)
        assert any("no SHA-256" in problem.told for problem in verified(store).problems)
        store.add_checkpoint(1, 12, weights(), {}, keep=1)  # drops the others, as a resumed run does
        assert [row.round for row in store.checkpoints(1)] == [12]
        store.remove_runs([1])
        store.collect_garbage()
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("kind", ["checkpoint", "diff", "partition"])
def test_a_merge_refuses_a_run_that_names_a_strange_file(lab: Path, precious: Path, tmp_path: Path, kind: str) -> None:
    statement = {
        "checkpoint": "UPDATE checkpoint SET sha256 = ? WHERE run_id = 2",
        "diff": "UPDATE run SET diff_sha256 = ? WHERE id = 2",
        "partition": "UPDATE partition SET sha256 = ?",
    }[kind]
    with closing(sqlite3.connect(lab)) as connection:
        connection.execute(
            "INSERT INTO artifact (sha256, kind, size, created) VALUES (?, ?, 4, 0)", (str(precious), kind)
        )
        connection.execute(statement, (str(precious),))
        connection.commit()
    with Store(lab, readonly=True) as source, Store(tmp_path / "here.db", create=True) as store:
        told = {entry.there: entry for entry in merge(store, source)}
        refused = {1, 2, 3, 4} if kind == "partition" else {2}
        assert {number for number, entry in told.items() if entry.state == REFUSED} == refused
        assert told[2].here is None and len(told[2].notes) == 1
        assert {entry.state for number, entry in told.items() if number not in refused} <= {NEW}
        assert len(store.runs()) == 4 - len(refused)
        with store._db.read() as connection:
            names = connection.exec_driver_sql("SELECT sha256 FROM artifact").scalars().all()
        assert str(precious) not in names
    assert precious.read_text() == "mine"


def test_what_was_made_of_a_refused_run_is_refused(lab: Path, tmp_path: Path) -> None:
    names_file(lab, "/etc/passwd")
    with Store(lab, readonly=True) as source, Store(tmp_path / "here.db", create=True) as store:
        told = merge(store, source)
    assert [entry.state for entry in told] == [REFUSED, NEW, NEW, REFUSED], "run4 was made of run1"
    assert "made of run1" in told[3].notes[0]


def test_a_folder_that_is_a_link_is_not_followed(store: Store, begin: Begin, tmp_path: Path) -> None:
    """Half-written files are deleted after a day: a link in place of their folder must not lead that elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    past = time.time() - 25 * 3600
    orphan = "ab" + "0" * 62
    for name in ("thesis.tex", f"7-{'0' * 32}", orphan):
        (elsewhere / name).write_text("mine")
        os.utime(elsewhere / name, (past, past))
    number = begin(store)
    folder = store.artifact_folder
    folder.mkdir()
    for link in ("staging", "ab"):
        (folder / link).symlink_to(elsewhere)
    with pytest.raises(FltkError, match="staging is a symbolic link"):
        store.add_checkpoint(number, 1, weights(), {}, keep=1)
    with pytest.raises(FltkError, match="ab is a symbolic link"):
        store._files.verified(orphan)
    assert store.collect_garbage().files == {}
    assert len(list(elsewhere.iterdir())) == 3


CIRCLES = {
    "itself": {1: 1},
    "each other": {1: 2, 2: 1},
    "three": {1: 2, 2: 3, 3: 1},
    "a parent that is not there": {2: 99},
}


@pytest.mark.parametrize("name", CIRCLES)
def test_parents_that_lead_back_have_an_end(lab: Path, tmp_path: Path, name: str) -> None:
    with closing(sqlite3.connect(lab)) as connection:
        for number, parent in CIRCLES[name].items():
            connection.execute("UPDATE run SET parent = ? WHERE id = ?", (parent, number))
        connection.commit()
    damaged = set(CIRCLES[name])
    with Store(lab) as store:
        problems = [problem for problem in verified(store).problems if problem.what == "run"]
        assert damaged <= {number for problem in problems for number in problem.runs}
        with Store(tmp_path / "here.db", create=True) as here:
            told = merge(here, store)
        assert damaged <= {entry.there for entry in told if entry.state == REFUSED}

        store.remove_runs([1, 2, 3, 4])
        store.garbage()
        if name != "a parent that is not there":  # its row breaks a rule of the database, which refuses to touch it
            assert {row.id for row in store.collect_garbage().runs} == {1, 2, 3, 4}
            assert store.runs(removed=True) == []


def test_rows_are_deleted_on_a_full_disk_also_where_the_file_cannot_shrink(
    lab: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(lab) as store:
        store.remove_runs([2])

        def full(_: object) -> None:
            raise FltkError("--db: the disk is full; free space or name a file on another disk")

        monkeypatch.setattr(type(store._db), "vacuum", full)
        assert [row.id for row in store.collect_garbage().runs] == [2]
        assert "all was deleted" in caplog.text and "disk is full" in caplog.text
