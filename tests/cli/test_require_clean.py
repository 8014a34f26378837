"""`--require-clean`: runs begin only where git could bring back fltk's code and the current folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from calls import TINY, done, fltk

from fltk.registry import Store, capture

GRID = 'method = "local"\n[partition]\nsubset = 300\nclients = 4\nnewcomers = 1\n[train]\nrounds = 1\n'


def git(folder: Path, *args: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    git(folder, "add", name)
    git(folder, "commit", "-m", "a file")


def test_only_commits_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, code, db = tmp_path / "work", tmp_path / "code", tmp_path / "r.db"
    for new in (folder, code):
        new.mkdir()
    (folder / "grid.toml").write_text(GRID)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setattr(capture, "PACKAGE", code)  # stands for fltk's own
    train, sweep = ("train", "--require-clean", *TINY, "--method", "local"), ("sweep", "grid.toml", "--require-clean")
    assert "--require-clean: fltk's code: not a git repository; the current folder: " in fltk(db, *train).line
    git(code, "init")
    commit(code, "__init__.py", "")
    done(db, *train)  # all that a run needs from a folder without git is stored with it
    with Store(db, readonly=True) as store:
        found = store.find_run(1).git
        assert found["dirty"] is False and not found["folder"]["present"]
    git(folder, "init")
    git(folder, "add", "grid.toml")
    git(folder, "commit", "-m", "a grid")
    (folder / "grid.toml").write_text(GRID + "\n")
    for command in (train, sweep):
        assert f"{folder}, the repository of the current folder, is not as in a commit" in fltk(db, *command).line
    done(db, *sweep, "--dry-run")
    git(folder, "commit", "-am", "an empty line")
    (code / "__init__.py").write_text("changed = True\n")
    for command in (train, sweep):
        assert f"{code}, the repository of fltk's code, is not as in a commit" in fltk(db, *command).line
    git(code, "commit", "-am", "changed")
    done(db, *sweep)
    with Store(db, readonly=True) as store:
        assert len(store.runs()) == 2
