"""A backup is a whole registry, also of one that is being written to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from stored import contents, copy_stored, verified

from fltk.errors import FltkError
from fltk.registry import Store
from fltk.registry.backup import backup

Begin = Callable[..., int]


def test_what_stands_in_the_log_is_copied(database: Path, begin: Begin, tmp_path: Path) -> None:
    """The file alone, as somebody would copy it by hand, lacks it."""
    with Store(database, create=True) as store:
        number = begin(store)
        store.record_round(number, 1, {"a": 1.0}, {}, None, "d")
        done = backup(database, tmp_path / "copy.db")
        by_hand = Path(shutil.copyfile(database, tmp_path / "by-hand.db"))
        before = contents(store)
    with Store(done.database, readonly=True) as copy:
        assert contents(copy) == before and verified(copy).problems == []
    with pytest.raises(FltkError), Store(by_hand, readonly=True) as copy:
        assert copy.digests(1)


def test_files_come_along(lab: Path, tmp_path: Path) -> None:
    done = backup(lab, tmp_path / "copy.db")
    assert (done.files, done.missing) == (6, 0)
    with Store(done.database, readonly=True) as copy, Store(lab, readonly=True) as store:
        assert contents(copy) == contents(store) and verified(copy).problems == []
    assert not list(tmp_path.glob(".copy*"))


def test_an_older_registry_is_copied_as_it_is(tmp_path: Path) -> None:
    old = copy_stored("schema-0001", tmp_path / "old.db")
    before = old.read_bytes()
    done = backup(old, tmp_path / "copy.db")
    assert old.read_bytes() == before and done.files == 6
    with Store(done.database) as copy:
        assert len(copy.runs()) == 4


def test_nothing_is_overwritten(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    for target in (tmp_path / "copy.db", lab):
        with pytest.raises(FltkError, match="is there already"):
            backup(lab, target)
    with pytest.raises(FltkError, match="no registry at"):
        backup(tmp_path / "none.db", tmp_path / "other.db")
    with pytest.raises(FltkError, match=r"cannot copy .* to .*no/copy\.db"):
        backup(lab, tmp_path / "no" / "copy.db")
    with pytest.raises(FltkError, match="is kept by a server: save it with pg_dump"):
        backup("postgresql://host/db", tmp_path / "other.db")
    assert (tmp_path / "copy.db").read_text() == "mine" and not list(tmp_path.glob("*other*"))
