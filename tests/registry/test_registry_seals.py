"""`fltk verify` tells every stored value that changed: edits by SQL, and flips of bits in the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from edits import EDITS, edit, make, told, unseen_flips, values

SAMPLE = (
    "a round is deleted from the middle",
    "a scalar is improved",
    "maps of two rounds are exchanged",
    "a view is replaced",
    "a run is lost",
    "a partition's summary is changed",
    "two evaluations change their order",
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of this fltk."""
    return make(tmp_path_factory.mktemp("sealed") / "sealed.db")


@pytest.fixture
def sealed(stored: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(stored.with_suffix(".artifacts"), tmp_path / "sealed.artifacts")
    return Path(shutil.copyfile(stored, tmp_path / "sealed.db"))


def test_a_registry_that_was_not_touched_is_sound(sealed: Path) -> None:
    assert told(sealed) == []


def check(path: Path, name: str) -> None:
    before = values(path)
    edit(path, EDITS[name])
    assert values(path) != before, "the edit changes something"
    problems = told(path)
    assert problems and all("\n" not in text for text in problems)


@pytest.mark.parametrize("name", SAMPLE)
def test_an_edit_is_told(sealed: Path, name: str) -> None:
    check(sealed, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(EDITS) - set(SAMPLE)))
def test_every_edit_is_told(sealed: Path, name: str) -> None:
    check(sealed, name)


def test_flips_are_told(sealed: Path) -> None:
    tried, unseen = unseen_flips(sealed, 5, seed=0)
    assert tried >= 5 and unseen == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_flips_are_told(sealed: Path, seed: int) -> None:
    tried, unseen = unseen_flips(sealed, 130, seed)
    assert tried >= 130 and unseen == []
