"""Merging registries: everything comes, once, and nothing here is lost or replaced."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stored import Content, contents, copy_stored, verified

from fltk.errors import FltkError, UsageError
from fltk.registry import MapBlob, Store
from fltk.registry.merge import DIFFERENT, EXTENDED, NEW, PRESENT, Merged, merge

Begin = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]


def merged(store: Store, other: Path) -> list[Merged]:
    with Store(other, readonly=True, upgrade=False) as source:
        return merge(store, source)


def read(path: Path) -> Content:
    with Store(path, readonly=True) as store:
        return contents(store)


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))}


def play(store: Store, run: int, rounds: range, seed: int = 0) -> None:
    """Rounds whose numbers follow from the seed and the round."""
    for number in rounds:
        vector = np.full(3, seed + number, np.float32)
        blob = MapBlob("k", ("s",), np.full((1, 3, 3), seed + number))
        store.record_round(run, number, {"a": float(seed + number)}, {"b": vector}, blob, f"{seed}-{number}")
        store.add_checkpoint(run, number, weights(seed + number), {"n": str(number)}, keep=2)


def raw(path: Path) -> bytes:
    return path.read_bytes()


def test_two_machines_merged_twice_without_duplicates(lab: Path, tmp_path: Path, begin: Begin) -> None:
    """Everything arrives bit for bit, under new numbers; the second time nothing happens."""
    laptop = tmp_path / "laptop.db"
    with Store(laptop, create=True) as store:
        first = begin(store, name="mine", git={"diff": b"\xff local change"})
        play(store, first, range(1, 4))
        store.record_round(first, 4, {"a": math.nan, "c": -math.inf}, {"b": np.array([np.nan])}, None, "d4")
        store.set_note(first, "試" * 10_000)
        store.set_tag(first, "größe", "ü=1")
        store.finish(first, "failed", "diverged")
        store.save_evaluation(first, 3, {"x": math.nan}, {"y": np.arange(3)})
    here, there = read(laptop), read(lab)
    before = raw(lab)
    with Store(laptop) as store:
        told = merged(store, lab)
        assert [(m.there, m.here, m.state) for m in told] == [(i, i + 1, NEW) for i in (1, 2, 3, 4)]
        assert all(not m.notes for m in told)
        assert contents(store) == here | there
        assert [row.parent for row in store.runs()] == [None, None, None, None, 2]
        again = merged(store, lab)
        assert [(m.here, m.state) for m in again] == [(i, PRESENT) for i in (2, 3, 4, 5)]
        assert contents(store) == here | there and len(store.partitions()) == 1
        assert verified(store, 2, 3, 4, 5).problems == []
    assert raw(lab) == before
    with Store(lab) as store:
        back = merged(store, laptop)
        assert [(m.here, m.state) for m in back if m.state == NEW] == [(5, NEW)]
        assert contents(store) == here | there


def test_merging_makes_a_registry_where_there_is_none(lab: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "new.db", create=True) as store:
        merged(store, lab)
        assert contents(store) == read(lab) and verified(store).problems == []


def test_an_older_database_is_merged_and_stays_as_it_is(tmp_path: Path) -> None:
    old = copy_stored("schema-0001", tmp_path / "old.db")
    before = raw(old)
    with Store(tmp_path / "new.db", create=True) as store:
        assert {m.state for m in merged(store, old)} == {NEW}
        assert verified(store).problems == []
        assert {m.state for m in merged(store, old)} == {PRESENT}
    assert raw(old) == before and {p.name for p in tmp_path.glob("old*")} == {"old.db", "old.artifacts"}


def test_names_that_clash_are_told(lab: Path, tmp_path: Path, begin: Begin) -> None:
    with Store(lab, readonly=True) as source:
        uuid, mark = source.find_run("größe").uuid, source.find_partition(1).fingerprint
    with Store(lab) as source:
        arrays, known = source.partition_arrays(1), source.find_partition(1)
        source.save_partition({}, arrays, known.fingerprint, known.data_fingerprint, {}, name="split")
    with Store(tmp_path / "here.db", create=True) as store:
        begin(store, name="größe")
        store.save_partition({}, {"a": np.arange(3)}, "f" * 64, "d" * 64, {}, name="split")
        first = merged(store, lab)[0]
        assert first.name == f"größe-{uuid[:8]}" == store.find_run(2).name
        assert first.notes == (
            f"the partition name 'split' is taken here; it is called split-{mark[:8]}",
            f"the name 'größe' is taken here; it is called größe-{uuid[:8]}",
        )
        assert store.find_run("größe").id == 1 and store.find_partition(f"split-{mark[:8]}").id == 2
        assert {m.state for m in merged(store, lab)} == {PRESENT} and len(store.runs()) == 5


def pair(tmp_path: Path, begin: Begin, rounds: int) -> tuple[Path, Path]:
    """A database with an unfinished run, and another one that has merged it."""
    there, here = tmp_path / "there.db", tmp_path / "here.db"
    with Store(there, create=True) as store:
        play(store, begin(store, name="long"), range(1, rounds + 1))
        store.finish(1, "interrupted", "Ctrl-C")
        store.set_tag(1, "a", "1")
    with Store(here, create=True) as store:
        begin(store)
        assert [m.state for m in merged(store, there)] == [NEW]
    return there, here


def test_a_run_that_went_on_brings_its_later_rounds(tmp_path: Path, begin: Begin) -> None:
    there, here = pair(tmp_path, begin, 3)
    with Store(there) as store:
        store.start_attempt(1)
        play(store, 1, range(4, 8))
        store.finish(1, "done")
        store.save_evaluation(1, 7, {"x": 1.0}, {"y": np.arange(3)})
        store.set_tag(1, "b")
        store.set_note(1, "finished")
        expected = contents(store)
    with Store(here) as store:
        (told,) = merged(store, there)
        assert (told.here, told.state, told.notes) == (2, EXTENDED, ())
        found = contents(store)
        ours = found[store.find_run(2).uuid]
        assert [c[0] for c in ours["checkpoints"]] == [2, 3, 6, 7], "checkpoints that are here stay"
        wanted = expected[store.find_run(2).uuid]
        for key in wanted.keys() - {"checkpoints", "weights"}:
            assert ours[key] == wanted[key], key
        assert store.latest_checkpoint(2)[0] == 7 and store.find_run(2).status == "done"
        assert [m.state for m in merged(store, there)] == [PRESENT] and contents(store) == found


def test_what_is_behind_changes_nothing(tmp_path: Path, begin: Begin) -> None:
    there, here = pair(tmp_path, begin, 3)
    with Store(here) as store:
        store.start_attempt(2)
        play(store, 2, range(4, 6))
        store.finish(2, "done")
        before = contents(store)
        (told,) = merged(store, there)
        assert told.state == PRESENT and contents(store) == before


def test_a_run_that_went_on_differently_is_told_and_kept(tmp_path: Path, begin: Begin) -> None:
    there, here = pair(tmp_path, begin, 3)
    with Store(there) as store:
        play(store, 1, range(4, 9), seed=100)
        store.finish(1, "done")
    with Store(here) as store:
        store.start_attempt(2)
        play(store, 2, range(4, 6))
        store.finish(2, "done")
        before = contents(store)
        (told,) = merged(store, there)
        assert told.state == DIFFERENT and told.notes == ("other numbers from round 4 on; kept as it is here",)
        assert contents(store) == before


def test_labels_that_differ_are_told_and_kept(tmp_path: Path, begin: Begin) -> None:
    there, here = pair(tmp_path, begin, 1)
    with Store(there) as store:
        store.set_note(1, "their words")
        store.set_tag(1, "a", "3")
    with Store(here) as store:
        store.set_note(2, "my words")
        store.set_tag(2, "a", "2")
        store.rename(2, "other")
        (told,) = merged(store, there)
        assert told.state == PRESENT and told.name == "other"
        assert told.notes == ("tag a is '2' here and '3' there; kept", "another note; kept as it is here")
        row = store.find_run(2)
        assert (row.note, row.tags) == ("my words", {"a": "2"})


def test_a_run_that_is_running_here_is_left_alone(tmp_path: Path, begin: Begin) -> None:
    there, here = pair(tmp_path, begin, 2)
    with Store(there) as store:
        play(store, 1, range(3, 5))
        store.finish(1, "done")
    with Store(here) as store:
        store.start_attempt(2)
        (told,) = merged(store, there)
        assert told.state == PRESENT and told.notes == ("is running here; merge again when it has ended",)
        assert list(store.digests(2)) == [1, 2]


def test_removed_runs_stay_behind_and_stay_removed(lab: Path, tmp_path: Path) -> None:
    with Store(tmp_path / "here.db", create=True) as store:
        with Store(lab) as source:
            source.remove_runs([1, 2])
        told = merged(store, lab)
        assert [m.there for m in told] == [1, 3, 4], "run4 was made of run1, which comes along"
        assert [row.id for row in store.runs()] == [2, 3] and [row.id for row in store.runs(removed=True)] == [1]
        store.remove_runs([2])
        told = merged(store, lab)
        assert told[1].notes == ("removed here; `fltk runs restore` brings it back",)
        assert [row.id for row in store.runs()] == [3]


def test_lost_and_damaged_files_are_told_and_come_with_a_later_merge(lab: Path, tmp_path: Path) -> None:
    shutil.copytree(lab.with_name("lab.artifacts"), tmp_path / "backup")
    with Store(lab) as source:
        lost, damaged = [source._files.path(c.sha256) for c in source.checkpoints(1)]
    lost.unlink()
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    with Store(tmp_path / "here.db", create=True) as store:
        first, *others = merged(store, lab)
        assert len(first.notes) == 2
        assert f"{lost} is missing" in first.notes[0] and f"{damaged} is damaged" in first.notes[1]
        assert all(not m.notes for m in others)
        assert len(store.digests(1)) == 11 and not verified(store).sound
        shutil.copytree(tmp_path / "backup", lab.with_name("lab.artifacts"), dirs_exist_ok=True)
        assert merged(store, lab)[0].state == EXTENDED
        assert verified(store).problems == [] and contents(store) == read(lab)
        assert merged(store, lab)[0].state == PRESENT


def test_a_registry_is_not_merged_into_itself_nor_a_newer_one(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(lab)
    with Store(lab) as store:
        for other in (lab, tmp_path / "link.db"):
            with pytest.raises(UsageError, match="is the registry itself"):
                merged(store, other)
    with Store(tmp_path / "here.db", create=True) as store:
        with pytest.raises(FltkError, match="no registry at"):
            merged(store, tmp_path / "none.db")
        with Store(lab) as source, source._db.write() as connection:
            connection.exec_driver_sql("UPDATE fltk_schema_version SET version_num = '9999'")
        with pytest.raises(FltkError, match="was written by a newer fltk; update fltk to merge it"):
            merged(store, lab)
        assert store.runs() == []


def test_a_full_disk_leaves_whole_runs_and_the_merge_goes_on(lab: Path, small_disk: Path) -> None:
    with Store(small_disk / "here.db", create=True) as store:
        (small_disk / "filler").write_bytes(bytes(600 * 1024 - 200 * 1024 - 60 * 1024))
        with pytest.raises(FltkError, match=r"disk is full|No space left"):
            merged(store, lab)
        there = read(lab)
        assert all(there[uuid] == found for uuid, found in contents(store).items())
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    with Store(small_disk / "here.db") as store:
        merged(store, lab)
        assert contents(store) == there and verified(store).sound


MERGE = """
import sys
from fltk.registry import Store
from fltk.registry.merge import merge
with Store(sys.argv[1], create=True) as store, Store(sys.argv[2], readonly=True, upgrade=False) as other:
    print("ready", flush=True)
    print(len(merge(store, other)), flush=True)
"""


def test_a_merge_that_is_killed_goes_on(lab: Path, tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    here, there = tmp_path / "here.db", read(lab)
    for wait in (0.0, 0.01, 0.03, 0.06):
        process = subprocess.Popen(
            [sys.executable, "-c", MERGE, str(here), str(lab)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        with Store(here, readonly=True) as store:
            assert all(there[uuid] == found for uuid, found in contents(store).items()), "no run is half"
    with Store(here) as store:
        merged(store, lab)
        assert contents(store) == there and verified(store).sound
