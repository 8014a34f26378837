"""Seconds of the registry: rounds of numbers per client, written as a run does it and read as a figure does."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from fltk.bench.training import Asked, Row
from fltk.bench.workloads import Writes
from fltk.config import RunConfig
from fltk.errors import Mismatch
from fltk.registry import Store

KEYS = ("personal_test_acc", "personal_val_acc", "train_loss", "map_self")


def measure(name: str, workload: Writes, asked: Asked) -> list[Row]:
    """Writing and reading, as two rows of the report. The registry lies in the system's folder for such files."""
    rng = np.random.default_rng(0)
    rounds = [{key: rng.random(workload.clients, np.float32) for key in KEYS} for _ in range(workload.rounds)]
    written: list[list[float]] = []
    read: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="fltk-bench-") as folder,
        Store(Path(folder) / "b.db", create=True) as store,
    ):
        for _ in range(1 + asked.rounds):
            run = _begin(store)
            written.append([_write(store, run, number, values) for number, values in enumerate(rounds, start=1)])
            began = time.perf_counter()
            values = {key: store.client_values(run, key)[1] for key in KEYS}
            read.append(time.perf_counter() - began)
            if any(not np.array_equal(values[key][-1], rounds[-1][key]) for key in KEYS):
                raise Mismatch("the registry gave back other numbers than were written")
    about = f"{workload.clients:,} clients x {workload.rounds} rounds x {len(KEYS)} numbers"
    common = {"clients": workload.clients, "workers": 1, "rounds_written": workload.rounds}
    return [
        {"workload": f"{name}-write", "about": f"write {about}", **common, **_told([sum(one) for one in written[1:]])}
        | {"seconds_of_rounds": [min(values) for values in zip(*written[1:], strict=True)]},
        {"workload": f"{name}-read", "about": f"read {about}", **common, **_told(read[1:])},
    ]


def _begin(store: Store) -> int:
    config = RunConfig()
    return store.begin_run(
        config.to_dict(), config.digest(), data_fingerprint="", environment={}, git={"present": False}, seed=0
    )


def _write(
    store: Store, run: int, round: int, clients: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
) -> float:
    began = time.perf_counter()
    scalars = {key: float(values.mean()) for key, values in clients.items()}
    store.record_round(run, round, scalars, clients, None, str(round))
    return time.perf_counter() - began


def _told(seconds: list[float]) -> Row:
    return {"seconds_min": min(seconds), "seconds_median": median(seconds), "seconds": seconds}
