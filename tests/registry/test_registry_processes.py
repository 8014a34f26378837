"""Several processes, and processes that die: nothing committed is lost, nothing is half."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fltk.registry import Store

ROOT = Path(__file__).resolve().parents[2]
START = """
import sys
import numpy as np
from fltk.config import RunConfig
from fltk.registry import MapBlob, Store

def begin(store, name=None):
    config = RunConfig().to_dict()
    return store.begin_run(config, "c", name=name, seed=0, data_fingerprint="d", environment={}, git={})
"""
# Every number of a round equals its round number, so that a mixture of two rounds would be seen.
WRITER = (
    START
    + """
store = Store(sys.argv[1], create=True)
run = begin(store)
store.start_attempt(run)
arrays = {"weights": np.zeros(50_000)}
for number in range(1, 100_000):
    vector = np.full(300, number, np.float32)
    blob = MapBlob("k", ("s",), np.full((1, 20, 20), number))
    scalars = {f"k{i}": float(number) for i in range(20)}
    store.record_round(run, number, scalars, {"a": vector, "b": vector}, blob, str(number))
    arrays["weights"][0] = number
    store.save_partition({}, arrays, f"{run}-{number}", "d", {})
    print(run, number, flush=True)
"""
)
MANY = (
    START
    + """
with Store(sys.argv[1], create=True) as store:
    run = begin(store, sys.argv[2])
    store.start_attempt(run)
    for number in range(1, 41):
        store.record_round(run, number, {"a": number}, {"b": np.full(10, number)}, None, str(number))
    store.finish(run, "done")
"""
)


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def check_integrity(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_writer_killed_at_any_moment_leaves_whole_rounds(database: Path, kills: int) -> None:
    moments = random.Random(0)
    reported: dict[int, int] = {}
    for _ in range(kills):
        writer = start(WRITER, database)
        assert writer.stdout is not None
        for _ in range(moments.randint(1, 6)):
            run, number = map(int, writer.stdout.readline().split())
            reported[run] = number
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(moments.random() * 0.02)
        writer.kill()
        for line in writer.stdout:
            run, number = map(int, line.split())
            reported[run] = number
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        check_integrity(database)
    with Store(database) as store:
        assert len(store.runs()) == len(reported) == kills
        for run, number in reported.items():
            check_rounds(store, run, number)
        for row in store.partitions():
            assert store.partition_arrays(row.id)["weights"][0] == int(row.fingerprint.split("-")[1])
        assert {row.status for row in store.runs()} == {"stale"}


def check_rounds(store: Store, run: int, reported: int) -> None:
    digests = store.digests(run)
    assert list(digests) == list(range(1, len(digests) + 1)) and len(digests) >= reported
    assert store.find_run(run).rounds_done == len(digests)
    for values in store.scalars(run).values():
        assert values[0].tolist() == values[1].tolist() == list(digests)
    for key in ("a", "b"):
        assert store.client_values(run, key)[1][:, -1].tolist() == list(digests)
    assert [found.array[0, 0, 0] for found in store.maps(run)] == list(digests)


def test_processes_write_and_create_at_once(database: Path) -> None:
    writers = [start(MANY, database, f"name-{index}") for index in range(4)]
    for writer in writers:
        output, _ = writer.communicate(timeout=120)
        assert (writer.returncode, output) == (0, "")
    check_integrity(database)
    with Store(database, readonly=True) as store:
        rows = store.runs()
        assert {row.name for row in rows} == {f"name-{index}" for index in range(4)}
        assert {row.status for row in rows} == {"done"}
        assert all(list(store.digests(row.id)) == list(range(1, 41)) for row in rows)


def test_opening_a_registry_twice_in_one_process_keeps_the_locks_of_the_first(database: Path) -> None:
    """POSIX locks are lost when a process closes any handle of the file; the first store would then read old data."""
    with Store(database, create=True) as first:
        assert first.runs() == []
        with Store(database, readonly=True) as second:
            assert second.runs() == []
        for count in (1, 2):
            writer = start(MANY, database, f"name-{count}")
            assert writer.wait() == 0
            assert len(first.runs()) == count
    check_integrity(database)


def test_a_reader_is_not_blocked_by_a_writer(database: Path) -> None:
    with (
        Store(database, create=True) as writer,
        Store(database, readonly=True) as reader,
        writer._db.write() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM run")
        assert reader.runs() == []
