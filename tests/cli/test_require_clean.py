"""`--require-clean`: runs begin only where the working tree is exactly that of a commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from calls import TINY, done, fltk

from fltk.registry import Store

GRID = 'method = "local"\n[partition]\nsubset = 300\nclients = 4\nnewcomers = 1\n[train]\nrounds = 1\n'


def git(folder: Path, *args: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


def test_only_a_commit_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, db = tmp_path / "work", tmp_path / "r.db"
    folder.mkdir()
    (folder / "grid.toml").write_text(GRID)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    train, sweep = ("train", "--require-clean", *TINY, "--method", "local"), ("sweep", "grid.toml", "--require-clean")
    assert "--require-clean: not a git repository" in fltk(db, *train).line
    git(folder, "init")
    assert "is not that of a commit" in fltk(db, *train).line
    git(folder, "add", "grid.toml")
    git(folder, "commit", "-m", "a grid")
    done(db, *train)
    with Store(db, readonly=True) as store:
        assert store.find_run(1).git["dirty"] is False
    (folder / "grid.toml").write_text(GRID + "\n")
    for command in (train, sweep):
        assert "is not that of a commit" in fltk(db, *command).line
    done(db, *sweep, "--dry-run")
    git(folder, "commit", "-am", "an empty line")
    done(db, *sweep)
    with Store(db, readonly=True) as store:
        assert len(store.runs()) == 2
