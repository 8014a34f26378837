"""Removal hides and restores; collecting garbage deletes what was removed and never what a kept run needs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stored import contents, verified

from fltk.errors import FltkError, UsageError
from fltk.registry import Store

Begin = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]


def files(store: Store) -> set[str]:
    return {path.name for path in store.artifact_folder.rglob("*") if path.is_file()}


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))}


def test_a_removed_run_is_hidden_everywhere_and_comes_back(lab: Path) -> None:
    with Store(lab) as store:
        before = contents(store)
        store.remove_runs([1, 4])
        assert [row.id for row in store.runs()] == [2, 3] and store.find_run("latest").id == 3
        assert [row.id for row in store.runs(removed=True)] == [1, 4]
        assert store.runs(tag="paper") == [] and store.runs(where=["seed=0"], removed=True)[0].removed is not None
        uuid = store.runs(removed=True)[0].uuid
        for ref in ("run1", "1", 1, "größe", uuid[:12]):
            with pytest.raises(UsageError, match=r"was removed; `fltk runs restore run1` brings it back"):
                store.find_run(ref)
            assert store.find_removed(ref).id == 1
        with pytest.raises(UsageError, match="was removed"):
            store.find_runs(["run2", "run1"])
        with pytest.raises(UsageError, match="was removed"):
            store.start_attempt(1)
        with pytest.raises(UsageError, match="'größe' is taken by run1, which is removed"):
            store.rename(2, "größe")
        store.restore_runs([1, 4])
        assert contents(store) == before
        with pytest.raises(UsageError, match="'run1' is not removed"):
            store.find_removed("run1")
        with pytest.raises(UsageError, match="no run 'run9'"):
            store.find_removed("run9")


def test_an_empty_registry_of_removed_runs_says_so(store: Store, begin: Begin) -> None:
    store.finish(begin(store), "done")
    store.remove_runs([1])
    with pytest.raises(UsageError, match="'latest' was removed"):
        store.find_run("latest")
    with pytest.raises(UsageError, match="has no runs yet"):
        store.find_run("run9")


def test_a_running_run_is_not_removed_and_then_none_is(store: Store, begin: Begin) -> None:
    first, second = begin(store), begin(store, name="busy")
    store.finish(first, "done")
    store.start_attempt(second)
    with pytest.raises(UsageError, match=r"run2 \(busy\) is running; stop it first"):
        store.remove_runs([first, second])
    assert len(store.runs()) == 2


def test_what_was_removed_goes_and_the_rest_stays_bit_for_bit(lab: Path) -> None:
    with Store(lab) as store:
        before, there = contents(store), files(store)
        store.remove_runs([2, 3])
        planned = store.garbage()
        assert [row.id for row in planned.runs] == [2, 3]
        assert files(store) == there and len(store.runs(removed=True)) == 2, "looking deletes nothing"
        done = store.collect_garbage()
        assert (set(done.files), done.size) == (set(planned.files), planned.size) and len(done.files) == 2
        assert files(store) == there - {path.name for path in done.files}
        assert contents(store) == {uuid: before[uuid] for uuid in (store.find_run(i).uuid for i in (1, 4))}
        assert verified(store).problems == [] and store.runs(removed=True) == []
        assert store.collect_garbage().runs == () and store.garbage().files == {}
        with store._db.read() as connection:
            for table in ("scalar", "client_vector", "map", "round", "attempt", "checkpoint", "evaluation", "tag"):
                left = connection.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE run_id IN (2, 3)").scalar()
                assert left == 0, table


def test_numbers_of_deleted_runs_are_not_given_again(store: Store, begin: Begin) -> None:
    store.finish(begin(store), "done")
    store.remove_runs([1])
    store.collect_garbage()
    assert begin(store) == 2


def test_a_removed_run_that_a_kept_one_was_made_of_stays(lab: Path) -> None:
    with Store(lab) as store:
        before = contents(store)
        store.remove_runs([1])
        assert [(held.run.id, held.reason) for held in store.garbage().held] == [
            (1, "run4, which is kept, was made of it")
        ]
        done = store.collect_garbage()
        assert done.runs == () and done.files == {}
        store.restore_runs([1])
        assert contents(store) == before
        store.remove_runs([1, 4])
        assert [row.id for row in store.collect_garbage().runs] == [4, 1], "those made of others go first"
        assert len(store.runs()) == 2 and verified(store).problems == []


def test_a_grandchild_keeps_its_line(store: Store, begin: Begin) -> None:
    first = begin(store)
    second = begin(store, parent=first)
    third = begin(store, parent=second)
    for number in (first, second, third):
        store.finish(number, "done")
    store.remove_runs([first, second])
    assert [held.run.id for held in store.garbage().held] == [first, second]
    store.remove_runs([third])
    assert [row.id for row in store.collect_garbage().runs] == [third, second, first]


def test_shared_files_stay_while_somebody_needs_them(store: Store, begin: Begin) -> None:
    diff = {"present": True, "diff": b"the same change"}
    first, second = begin(store, git=diff), begin(store, git=diff)
    for number in (first, second):
        store.add_checkpoint(number, 1, weights(0), {}, keep=1)
        store.finish(number, "done")
    store.remove_runs([first])
    assert store.collect_garbage().files == {}
    assert store.latest_checkpoint(second) is not None and store.git_diff(second) == b"the same change"
    store.remove_runs([second])
    assert len(store.collect_garbage().files) == 2 and files(store) == set()


def test_a_run_taken_up_again_is_not_deleted(store: Store, begin: Begin) -> None:
    """A process that slept while its run was removed writes its next round before the garbage is collected."""
    number = begin(store)
    store.finish(number, "interrupted")
    store.remove_runs([number])
    with store._db.write() as connection:
        connection.exec_driver_sql("UPDATE run SET status = 'running'")
    store.record_round(number, 1, {}, {}, None, "d")
    assert [held.reason for held in store.garbage().held] == ["a process works on it"]
    assert store.collect_garbage().runs == () and len(store.runs(removed=True)) == 1


def test_a_run_restored_in_the_meantime_stays(store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    store.finish(begin(store), "done")
    store.remove_runs([1])
    plan = store._removed

    def restored(connection: object) -> object:
        found = plan(connection)
        store.restore_runs([1])
        return found

    monkeypatch.setattr(store, "_removed", restored)
    assert store.collect_garbage().runs == () and len(store.runs()) == 1


def test_leftovers_go_and_strange_files_stay(store: Store, begin: Begin) -> None:
    number = begin(store)
    kept = store.add_checkpoint(number, 1, weights(0), {}, keep=1)
    folder = store.artifact_folder
    orphan = folder / "ab" / ("ab" + "0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    strange = [folder / "notes.txt", folder / "ab" / "readme", folder / "cd" / ("ab" + "0" * 62)]
    strange[2].parent.mkdir(exist_ok=True)
    old, new, mine = (folder / "staging" / name for name in (f"7-{'0' * 32}", f"8-{'0' * 32}", "mine"))
    for path in (orphan, *strange, old, new, mine):
        path.write_bytes(b"12345")
    past = time.time() - 25 * 3600
    for path in (old, mine):
        os.utime(path, (past, past))
    done = store.collect_garbage()
    assert set(done.files) == {orphan, old} and done.size == 10
    assert files(store) == {kept, new.name, "mine", *(path.name for path in strange)}


def test_a_folder_shared_with_another_database_is_left_alone(store: Store, begin: Begin, tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite", create=True) as other:
        number = begin(other)
        other.add_checkpoint(number, 1, weights(0), {}, keep=1)
        for look in (store.garbage, store.collect_garbage):
            with pytest.raises(FltkError, match=r"results\.sqlite keeps its artifacts in .*results\.artifacts as well"):
                look()
        assert other.latest_checkpoint(number) is not None


def test_killed_between_rows_and_files_the_next_call_goes_on(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(lab) as store:
        store.remove_runs([2])

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("fltk.registry.cleanup._unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                store.collect_garbage()
        found = verified(store)
        assert found.sound and [problem.what for problem in found.problems] == ["file"]
        assert len(store.collect_garbage().files) == 1 and verified(store).problems == []


def test_a_file_that_is_just_being_stored_is_not_taken(store: Store, begin: Begin) -> None:
    """Its name is there before its row can be seen; the lock keeps the two together."""
    number = begin(store)
    second = Store(store.shown)
    published, go_on = threading.Event(), threading.Event()
    publish = store._publish

    def slowly(*arguments: object) -> None:
        publish(*arguments)  # type: ignore[arg-type]
        published.set()
        go_on.wait(30)

    store._publish = slowly  # type: ignore[method-assign]
    writer = threading.Thread(target=store.add_checkpoint, args=(number, 1, weights(0), {}, 1))
    writer.start()
    assert published.wait(30)
    cleaner = threading.Thread(target=second.collect_garbage)
    cleaner.start()
    time.sleep(0.2)
    go_on.set()
    writer.join(30)
    cleaner.join(30)
    assert store.latest_checkpoint(number) is not None
    second.close()


WRITER = """
import sys
import numpy as np, torch
from fltk.config import RunConfig
from fltk.registry import Store
with Store(sys.argv[1]) as store:
    for index in range(int(sys.argv[2])):
        run = store.begin_run(RunConfig().to_dict(), "c", seed=0, data_fingerprint="d", environment={"n": index % 7},
                              git={"diff": b"change %d" % (index % 5)})
        store.start_attempt(run)
        for number in range(1, 6):
            store.record_round(run, number, {"a": 1.0}, {"b": np.zeros(9)}, None, "d")
            # The same few contents again and again: a file goes and comes back in the same moment.
            store.add_checkpoint(run, number, {"w": torch.full((50,), float(number % 3))}, {}, keep=1)
        store.finish(run, "done")
        if index % 2:
            store.remove_runs([run])
        print(run, flush=True)
"""


@pytest.mark.parametrize("runs", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_collecting_beside_writers_takes_nothing_they_need(store: Store, runs: int) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store.shown, str(runs)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    deleted = 0
    while any(writer.poll() is None for writer in writers):
        deleted += len(store.collect_garbage().runs)
    assert [writer.returncode for writer in writers] == [0, 0]
    deleted += len(store.collect_garbage().runs)
    assert deleted == 2 * (runs // 2) and len(store.runs()) == 2 * (runs - runs // 2)
    for row in store.runs():
        number, tensors, _ = store.latest_checkpoint(row.id) or (0, {}, {})
        assert number == 5 and torch.equal(tensors["w"], torch.full((50,), 2.0))
        assert store.git_diff(row.id) is not None
        assert np.array_equal(store.client_values(row.id, "b")[0], np.arange(1, 6))
    assert len(files(store)) <= 1 + 5, "one content of a checkpoint is left, and five changes"


def test_collecting_in_a_read_only_registry_is_refused(lab: Path) -> None:
    with Store(lab, readonly=True) as store:
        assert store.garbage().runs == ()
        with pytest.raises(FltkError, match="open for reading only"):
            store.collect_garbage()
        with pytest.raises(FltkError, match="open for reading only"):
            store.remove_runs([1])


def test_the_file_shrinks(store: Store, begin: Begin, database: Path) -> None:
    number = begin(store)
    for index in range(50):
        store.record_round(number, index, {}, {"a": np.random.default_rng(index).random(5000)}, None, "d")
    store.finish(number, "done")
    store.remove_runs([number])
    store.collect_garbage()
    store.close()
    assert database.stat().st_size < 50 * 5000 * 4 / 2
