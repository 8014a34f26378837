"""How fast the registry is: writing and reading a big run, and listing, filtering and comparing many runs.

    python experiments/registry_speed.py
    python experiments/registry_speed.py --runs 2000 --format json

First 100 rounds of 1,000 clients with four numbers each are recorded and read back as a figure reads them. Then a
registry of 10,000 small runs is made (10 methods, 100 settings, 10 seeds; a minute or two), on which commands are run
as a user types them, each in a process of its own. `processor` counts the seconds of computing, and is what to look at
on a machine that does other things besides. Every number is the least of several.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fltk.config import PartitionConfig, RunConfig, TrainConfig
from fltk.names import METHODS
from fltk.registry import Store

KEYS = ("personal_test_acc", "personal_val_acc", "train_loss", "map_self")
CLIENTS, ROUNDS, SEEDS = 1000, 100, 10
REPEATS = 3
COMMANDS = (
    ("--help",),
    ("runs",),
    ("runs", "--method", "attn", "--where", "alpha<0.5"),
    ("runs", "--format", "csv"),
    ("compare", "--where", "alpha<0.5", "--format", "csv"),
    ("compare", "--format", "csv"),
    ("diff", "run1", "run2", "run3"),
)
LINE = "{what:52}{seconds:8.3f} s {processor:8.3f} s of processor"


def least(work: Callable[[], object], repeats: int = REPEATS) -> dict[str, float]:
    """Seconds by the clock and of computing, in this process or its children; each the least of some repeats."""
    found = []
    for _ in range(repeats):
        began, worked = time.perf_counter(), _worked()
        work()
        found.append((time.perf_counter() - began, _worked() - worked))
    seconds, processor = (min(values) for values in zip(*found, strict=True))
    return {"seconds": seconds, "processor": processor}


def _worked() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def begin(store: Store, method: str = "attn", setting: int = 0, seed: int = 0) -> int:
    """A run that has only been begun."""
    alpha = round(0.01 * (setting + 1), 2)
    config = RunConfig(
        PartitionConfig(alpha=alpha, partition_seed=seed), TrainConfig(model="mlp", rounds=2), method, {}, seed
    )
    return store.begin_run(
        config.to_dict(),
        config.digest(),
        data_fingerprint="d" * 64,
        environment={"python": "3", "packages": {"numpy": "2"}},
        git={"present": False},
        seed=seed,
    )


def big_run(store: Store) -> list[dict[str, Any]]:
    """Recording a run of many clients, and reading it for figures."""
    rng = np.random.default_rng(0)
    vectors = [{key: rng.random(CLIENTS, np.float32) for key in KEYS} for _ in range(ROUNDS)]
    runs: list[int] = []

    def write() -> None:
        runs.append(begin(store))
        for number, clients in enumerate(vectors, start=1):
            scalars = {key: float(values.mean()) for key, values in clients.items()}
            store.record_round(runs[-1], number, scalars, clients, None, str(number))

    def read() -> None:
        for key in KEYS:
            rounds, values = store.client_values(runs[-1], key)
            assert values.shape == (len(rounds), CLIENTS) == (ROUNDS, CLIENTS)
            assert np.array_equal(values[-1], vectors[-1][key])

    what = f"{CLIENTS} clients x {ROUNDS} rounds x {len(KEYS)} numbers"
    return [{"what": f"write {what}", **least(write)}, {"what": f"read {what}", **least(read)}]


def fill(store: Store, count: int) -> None:
    """So many finished runs of two rounds."""
    rng = np.random.default_rng(0)
    methods = list(METHODS)[:10]
    for number in range(count):
        setting, rest = divmod(number, len(methods) * SEEDS)
        run = begin(store, methods[rest // SEEDS], setting, rest % SEEDS)
        for round in (1, 2):
            values = rng.random(20, np.float32)
            store.record_round(run, round, {KEYS[0]: float(values.mean())}, {KEYS[0]: values}, None, f"{run} {round}")
        store.finish(run, "done")


def command(db: Path, words: tuple[str, ...]) -> dict[str, Any]:
    """A command as a process of its own."""
    whole = [sys.executable, "-m", "fltk", "--db", str(db), *words]

    def call() -> None:
        subprocess.run(whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

    return {"what": f"fltk {' '.join(words)}", **least(call)}


def many_runs(db: Path, count: int) -> list[dict[str, Any]]:
    """What a registry of many runs answers, and how fast."""
    with Store(db, create=True) as store:
        filled = least(lambda: fill(store, count), repeats=1)
        listed = least(lambda: store.runs())
        filtered = least(lambda: store.runs(method="attn", where=["alpha<0.5"]))
        assert len(store.runs()) == count
    return [
        {"what": f"make {count} runs", **filled},
        {"what": "read all runs, in Python", **listed},
        {"what": "filter them, in Python", **filtered},
        *(command(db, words) for words in COMMANDS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast the registry is.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the registries are made for the time of the measurement")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        with Store(Path(name) / "big.db", create=True) as store:
            rows = big_run(store)
        rows += many_runs(Path(name) / "many.db", given.runs)
    print(json.dumps(rows, indent=2) if given.format == "json" else "\n".join(LINE.format(**row) for row in rows))


if __name__ == "__main__":
    main()
