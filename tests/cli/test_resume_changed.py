"""Resuming under other conditions than the run began with, and from other checkpoints than the last."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from calls import done, fltk, played

from fltk.registry import Store

ROUNDS = 24
SMALL = ("--method", "fedavg", "--subset", "200", "--clients", "3", "--newcomers", "0", "--rounds", str(ROUNDS))


def interrupted(db: Path, monkeypatch: pytest.MonkeyPatch, at: int = 16) -> None:
    """run1, stopped while round `at` was stored: its last checkpoint is of the round before."""
    record = Store.record_round

    def stopping(self: Store, run: int, round: int, *more: Any) -> None:
        if round == at:
            raise KeyboardInterrupt
        record(self, run, round, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", stopping)
        assert fltk(db, "train", *SMALL).code == 130


def edit(db: Path, table: str, column: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON column of the first row, as another machine would have written it."""
    with closing(sqlite3.connect(db)) as connection:
        (text,) = connection.execute(f"SELECT {column} FROM {table} ORDER BY id LIMIT 1").fetchone()
        connection.execute(f"UPDATE {table} SET {column} = ?", (json.dumps(change(json.loads(text))),))
        connection.commit()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    db = tmp_path_factory.mktemp("whole") / "r.db"
    done(db, "train", *SMALL)
    with Store(db) as store:
        return played(store, 1)


OTHER_TORCH = ("environment", "content", lambda e: {**e, "torch": {**e["torch"], "version": "1.0"}}, "torch: 1.0 then")
OTHER_CODE = ("run", "git", lambda g: {**g, "core_sha256": "f" * 64}, "fltk code: ffffffffffff then")


@pytest.mark.parametrize(("table", "column", "change", "told"), [OTHER_TORCH, OTHER_CODE], ids=["torch", "code"])
def test_other_conditions_are_refused_or_recorded(
    tmp_path: Path,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    column: str,
    change: Callable[[Any], Any],
    told: str,
) -> None:
    db = tmp_path / "r.db"
    interrupted(db, monkeypatch)
    edit(db, table, column, change)
    line = fltk(db, "resume", "run1").line
    assert told in line and "--allow-changed" in line
    with Store(db) as store:
        assert store.find_run(1).status == "interrupted" and len(store.attempts(1)) == 1
    called = fltk(db, "resume", "run1", "--allow-changed", quiet=False)
    assert called.code == 0 and f"continued after round 15 with another {told}" in called.err
    with Store(db) as store:
        name, then, now = store.attempts(1)[-1].changes[0]
        assert told.startswith(f"{name}: {then}") and now != then
        assert played(store, 1) == undisturbed


def test_a_commit_or_another_package_hinders_nobody(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "r.db"
    interrupted(db, monkeypatch)
    edit(db, "run", "git", lambda git: {**git, "commit": "f" * 40, "fltk_sha256": "f" * 64, "diff_hash": "f" * 64})
    edit(db, "environment", "content", lambda e: {**e, "packages": {**e["packages"], "rich": "1.0"}})
    done(db, "resume", "run1")
    with Store(db) as store:
        assert played(store, 1) == undisturbed and store.attempts(1)[-1].changes == ()


def test_a_finished_run_is_played_again_from_any_checkpoint(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *SMALL, "--keep-checkpoints", "9")
    with Store(db) as store:
        assert [c.round for c in store.checkpoints(1)] == [10, 20, ROUNDS]
    for start in ("0", "10", "20"):
        called = fltk(db, "resume", "run1", "--from-round", start, "--keep-checkpoints", "9", quiet=False)
        assert called.code == 0 and "otherwise" not in called.err
        with Store(db) as store:
            row = store.find_run(1)
            assert (row.status, row.rounds_done) == ("done", ROUNDS) and played(store, 1) == undisturbed
            assert store.latest_checkpoint(1)[0] == ROUNDS
    for start, part in (("7", "kept: 10, 20, 24"), (str(ROUNDS), "0..23"), ("-1", "0..23"), ("x", "--from-round")):
        assert part in fltk(db, "resume", "run1", "--from-round", start).line
    assert "--from-round" in fltk(db, "resume", "run1").line
    with Store(db) as store:
        assert played(store, 1) == undisturbed and len(store.attempts(1)) == 4


def test_rounds_that_come_out_otherwise_are_told(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *SMALL)
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE round SET digest = 'x' WHERE round IN (17, 19)")
        connection.commit()
    assert "run1: from round 17 on" in fltk(db, "resume", "run1", "--from-round", "0", quiet=False).err
    with Store(db) as store:
        assert played(store, 1) == undisturbed


def test_a_damaged_checkpoint_names_the_one_before(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *SMALL)
    with Store(db) as store:
        last = store.checkpoints(1)[-1]
        path = store.artifact_folder / last.sha256[:2] / last.sha256
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE run SET status = 'interrupted'")
        connection.commit()
    line = fltk(db, "resume", "run1").line
    assert str(path) in line and "damaged" in line and "--from-round 20" in line
    done(db, "resume", "run1", "--from-round", "20")
    with Store(db) as store:
        assert played(store, 1) == undisturbed and store.latest_checkpoint(1)[0] == ROUNDS
