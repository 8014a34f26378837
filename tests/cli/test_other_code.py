"""A method's source changes after its runs: what is finished is told from what the new code would make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import TINY, done, fltk

from fltk.registry import Store, method_code
from fltk.registry.method_code import method_digest

GRID = """
method = ["local", "ditto"]
[partition]
subset = 300
clients = 4
newcomers = 1
[train]
rounds = 2
"""
Edit = Callable[[str], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Hashes are taken of a copy of the package, whose files a test may change."""
    copy = tmp_path / "copy" / "fltk"
    shutil.copytree(method_code.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(method_code, "PACKAGE", copy)

    def change(name: str) -> None:
        path = copy / name
        path.write_text(path.read_text(encoding="utf-8") + "\nCHANGED = 1\n", encoding="utf-8")
        method_code._digest.cache_clear()

    yield change
    method_code._digest.cache_clear()


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("methods/ditto.py", {"ditto"}),
        ("methods/fedamp_family.py", {"fedamp", "heurfedamp"}),
        ("protocol/method.py", {"local", "ditto", "fedamp", "heurfedamp", "attn"}),
        ("attention/scores.py", {"attn"}),
        ("cli/main.py", set()),
    ],
)
def test_a_method_is_its_file_and_what_it_imports(edit: Edit, file: str, changed: set[str]) -> None:
    names = ("local", "ditto", "fedamp", "heurfedamp", "attn")
    before = {name: method_digest(name) for name in names}
    assert len(set(before.values())) == len(names)
    edit(file)
    assert {name for name in names if method_digest(name) != before[name]} == changed
    assert method_digest("none of them") is None


def rows(db: Path, *args: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done(db, "sweep", *args, "--json"))["rows"]
    return found


def test_a_changed_method_is_told_and_played_again_when_asked(edit: Edit, tmp_path: Path) -> None:
    db, grid = tmp_path / "r.db", tmp_path / "grid.toml"
    grid.write_text(GRID, encoding="utf-8")
    assert [row["state"] for row in rows(db, str(grid))] == ["done", "done"]
    edit("methods/ditto.py")

    for args in (["--dry-run"], ["--status"], []):
        called = fltk(db, "sweep", str(grid), *args, "--json", quiet=False)
        assert [row["state"] for row in json.loads(called.out)["rows"]] == ["done", "done (other code)"]
        assert "finished with other code of their method: run2; --rerun-changed" in called.err
    assert [row["next"] for row in rows(db, str(grid), "--dry-run")] == ["skip", "skip"]
    assert [row["next"] for row in rows(db, str(grid), "--dry-run", "--rerun-changed")] == ["skip", "start"]

    assert "trained with other code of ditto than this fltk has: run2" in done(db, "compare")
    skipped = fltk(db, "train", "--method", "local,ditto", *TINY, "--skip-done", quiet=False)
    assert "run2 is finished with the same configuration, done with other code of ditto; leave out" in skipped.err
    assert "run1 is finished with the same configuration: skipped\n" in skipped.err
    with Store(db) as store:
        assert len(store.runs()) == 2

    again = rows(db, str(grid), "--rerun-changed")
    assert [(row["state"], row["run"]) for row in again] == [("done", "run1"), ("done", "run3")]
    assert [row["run"] for row in rows(db, str(grid), "--rerun-changed")] == ["run1", "run3"]


def test_a_comparison_of_mixed_code_says_so(edit: Edit, tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "ditto", "--seed", "0", *TINY)
    edit("methods/ditto.py")
    done(db, "train", "--method", "ditto", "--seed", "1", *TINY)
    text = done(db, "compare")
    assert "mixed code of ditto: run1 against run2" in text
    assert "mixed code" not in done(db, "compare", "run2")


def test_a_search_keeps_its_values(tmp_path: Path) -> None:
    grid = tmp_path / "search.toml"
    grid.write_text(
        "method = 'local'\n[train]\nlr = { uniform = [0.1, 0.2] }\n[search]\ntrials = 1\n", encoding="utf-8"
    )
    assert "is a search" in fltk(tmp_path / "r.db", "sweep", str(grid), "--rerun-changed").line


def test_train_says_that_a_configuration_is_done(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    command = ("train", "--method", "local", *TINY)
    assert "already" not in fltk(db, *command, quiet=False).err
    again = fltk(db, *command, quiet=False).err
    assert "run1 is finished with the same configuration (fltk runs run1 shows it); training it again" in again
    assert "--skip-done" in again
    with Store(db) as store:
        assert len(store.runs()) == 2
