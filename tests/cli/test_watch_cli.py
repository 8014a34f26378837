"""`fltk watch`: follows a run from outside, and ends when the run does."""

from __future__ import annotations

import json
import time
from pathlib import Path

from calls import TINY, done, fltk, kill, start, wait_for

from fltk.registry import Store

LONG = ("train", "--method", "fedavg", *TINY[:-1], "400")
OFTEN = ("--every", "0.05")


def test_watching_a_run_to_its_end(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    player = start(db, *LONG)
    wait_for(player, "round 40/400")
    watcher = start(db, "watch", *OFTEN, "--json")
    out, err = watcher.communicate(timeout=300)
    player.communicate(timeout=300)
    assert (player.returncode, watcher.returncode) == (0, 0), err
    lines = err.splitlines()
    assert 1 <= len(lines) <= 10 and all(line.startswith("run1 (fedavg): round ") for line in lines), err
    assert lines[-1].startswith("run1 (fedavg): round 400/400  loss ")
    (row,) = json.loads(out)["rows"]
    with Store(db, readonly=True) as store:
        run = store.find_run(1)
    assert (row["run"], row["rounds"], row["status"]) == ("run1", 400, "done")
    assert row["personal_test_acc"] == run.last["personal_test_acc"]


def test_a_run_whose_process_is_killed(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    player = start(db, *LONG)
    wait_for(player, "round 40/400")
    watcher = start(db, "watch", "run1", *OFTEN)
    time.sleep(0.1)
    kill(player)
    out, err = watcher.communicate(timeout=300)
    assert watcher.returncode == 0 and "stale" in out
    assert err.splitlines()[-1] == "run1: its process is gone; continue it with fltk resume run1"


def test_a_run_that_has_ended_is_shown_at_once(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "local")
    assert done(db, "watch").splitlines()[1].split()[:2] == ["run1", "local"]
    with Store(db) as store:
        store.finish(1, "failed", "client 3 is gone")
    assert fltk(db, "watch", "run1", quiet=False).err == "run1 failed: client 3 is gone\n"
    assert "no run 'run9'" in fltk(db, "watch", "run9").line
    for every in ("0", "nan", "inf", "1e10"):
        called = fltk(db, "watch", "run1", "--every", every)
        assert called.code == 2 and "--every" in called.line
    assert "no registry" in fltk(tmp_path / "none.db", "watch").line
