"""`fltk watch`: follows a run from outside, and ends when the run does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from calls import PATIENCE, TINY, Called, done, fltk, kill, start, wait_until_held

from fltk.registry import Store

LONG = ("train", "--method", "fedavg", *TINY[:-1], "400")
OFTEN = ("--every", "0.05")


def watched(
    db: Path, meanwhile: Callable[[subprocess.Popen[str]], None], monkeypatch: pytest.MonkeyPatch
) -> tuple[Called, subprocess.Popen[str]]:
    """`fltk watch` of a run that stands at round 40 until the watcher has looked at it once; then `meanwhile`."""
    player = start(db, *LONG, hold=41)
    wait_until_held(player)
    sleep, looks = time.sleep, [0]

    def waiting(seconds: float) -> None:
        looks[0] += 1
        if looks[0] == 1:
            meanwhile(player)
        sleep(seconds)

    with monkeypatch.context() as patch:
        patch.setattr("fltk.cli.watch.time.sleep", waiting)
        called = fltk(db, "watch", "run1", *OFTEN, "--json", quiet=False)
    return called, player


def test_watching_a_run_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = tmp_path / "r.db"
    called, player = watched(db, lambda process: os.kill(process.pid, signal.SIGCONT), monkeypatch)
    player.communicate(timeout=PATIENCE)
    assert (player.returncode, called.code) == (0, 0), called.err
    lines = called.err.splitlines()
    assert 1 <= len(lines) <= 10 and all(line.startswith("run1 (fedavg): round ") for line in lines), lines
    assert lines[-1].startswith("run1 (fedavg): round 400/400  loss ")
    (row,) = json.loads(called.out)["rows"]
    with Store(db, readonly=True) as store:
        run = store.find_run(1)
    assert (row["run"], row["rounds"], row["status"]) == ("run1", 400, "done")
    assert row["personal_test_acc"] == run.last["personal_test_acc"]


def test_a_run_whose_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called, _ = watched(tmp_path / "r.db", kill, monkeypatch)
    assert called.code == 0 and json.loads(called.out)["rows"][0]["status"] == "stale"
    assert called.err == "run1: its process is gone; continue it with fltk resume run1\n"


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
