"""Many processes on one file: no transaction fails or is lost, and readers go on all the time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from storm import check_integrity

from fltk.registry import Store

ROOT = Path(__file__).resolve().parents[2]
# Every transaction of a kind of its own: rounds, heartbeats, tags, checkpoints, and now and then another run.
WRITER = """
import sys
import numpy as np, torch
from fltk.config import RunConfig
from fltk.registry import MapBlob, Store

database, name, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
done = 0
with Store(database, create=True) as store:
    while done < wanted:
        facts = {"seed": 0, "data_fingerprint": "d", "environment": {"name": name}, "git": {}}
        run = store.begin_run(RunConfig().to_dict(), "c", **facts)
        store.start_attempt(run)
        done += 2
        number = 0
        while done < wanted - 1 and number < 200:
            number += 1
            vector = np.full(100, number, np.float32)
            blob = MapBlob("k", ("s",), np.full((1, 10, 10), number))
            scalars = {f"k{i}": float(number) for i in range(10)}
            store.record_round(run, number, scalars, {"v": vector}, blob, str(number))
            done += 1
            if number % 50 == 0 and done < wanted - 2:
                store.add_checkpoint(run, number, {"w": torch.full((20,), float(number))}, {}, keep=1)
                store.set_tag(run, "last", str(number))
                done += 2
        store.finish(run, "done")
        done += 1
        print(run, number, flush=True)
print(done)
"""


@pytest.mark.parametrize(("writers", "each"), [(3, 60), pytest.param(8, 1250, marks=pytest.mark.slow)])
def test_writers_and_readers_at_once(database: Path, writers: int, each: int) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    begun = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(database), f"w{index}", str(each)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(writers)
    ]
    reads, longest = read_meanwhile(database, processes)
    told = [process.communicate(timeout=600)[0].split("\n") for process in processes]
    took = time.monotonic() - begun
    assert [process.returncode for process in processes] == [0] * writers
    check_integrity(database)
    reported = {int(run): int(number) for lines in told for run, number in (line.split() for line in lines[:-2])}
    transactions = sum(int(lines[-2]) for lines in told)
    assert transactions >= writers * each and reads > 0
    with Store(database, readonly=True) as store:
        assert {row.id: row.rounds_done for row in store.runs()} == reported
        for row in store.runs():
            check_run(store, row.id, row.rounds_done)
            assert row.status == "done"
    print(f"{writers} processes: {transactions} transactions in {took:.1f} s; {reads} reads, longest {longest:.3f} s")


def read_meanwhile(database: Path, processes: list[subprocess.Popen[str]]) -> tuple[int, float]:
    """Look at the newest run until all writers have ended: a reader sees whole rounds, all of them up to the last."""
    reads, longest = 0, 0.0
    while any(process.poll() is None for process in processes):
        if not database.exists() or not database.stat().st_size:
            time.sleep(0.01)
            continue
        with Store(database, create=True) as store:
            for _ in range(20):
                begun = time.monotonic()
                rows = store.runs()
                if rows:
                    check_run(store, rows[-1].id, rows[-1].rounds_done)
                    reads, longest = reads + 1, max(longest, time.monotonic() - begun)
                time.sleep(0.005)
    return reads, longest


def check_run(store: Store, run: int, least: int) -> None:
    """Rounds 1, 2, ... without a gap, at least so many, each with the numbers that belong to it."""
    digests = store.digests(run)
    assert list(digests) == list(range(1, len(digests) + 1)) and len(digests) >= least
    if least:
        rounds, vectors = store.client_values(run, "v")
        assert rounds[: len(digests)].tolist() == list(digests)
        assert np.array_equal(vectors, np.repeat(rounds[:, None], 100, axis=1).astype(np.float32))
        numbers, values = store.scalars(run, "k9")["k9"]
        assert np.array_equal(numbers, values)
    latest = store.latest_checkpoint(run) if least >= 50 and store.find_run(run).status == "done" else None
    assert latest is None or float(latest[1]["w"][0]) == latest[0]
