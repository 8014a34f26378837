"""Many short runs of `fltk` as processes that can be killed, forked from one that has imported everything."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from forked import forked

from fltk.registry import Store

TIMES = ("seconds", "seconds_train", "seconds_aggregate", "seconds_eval")


def command(db: str, args: tuple[str, ...]) -> None:
    """What the forked process does."""
    from fltk.cli.main import run

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    sys.exit(run(["--db", db, "-q", *args]))


def start(db: Path, *args: str) -> BaseProcess:
    process = forked().Process(target=command, args=(str(db), args))
    process.start()
    return process


def numbers(store: Store, run: int) -> dict[str, Any]:
    """All numbers of a run that do not depend on the clock, by round."""
    found: dict[str, Any] = {f"digest {r}": digest for r, digest in store.digests(run).items()}
    for key, (rounds, values) in store.scalars(run).items():
        if key not in TIMES:
            found |= {f"{key} {r}": value.tobytes() for r, value in zip(rounds.tolist(), values, strict=True)}
    for key in store.client_keys(run):
        rounds, rows = store.client_values(run, key)
        found |= {f"clients {key} {r}": row.tobytes() for r, row in zip(rounds.tolist(), rows, strict=True)}
    return found | {f"map {m.round}": (m.kind, m.slices, m.array.tobytes()) for m in store.maps(run)}


def check_integrity(db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@dataclass
class Storm:
    """Kills runs at random moments and resumes them, until `kills` processes were killed; then ends the last run."""

    db: Path
    train: tuple[str, ...]
    resume: tuple[str, ...]
    expected: dict[str, Any]
    seconds: float  # of an undisturbed run
    moments: random.Random = field(default_factory=lambda: random.Random(0))
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)
    killed: int = 0
    ended: set[int] = field(default_factory=set)
    rounds: list[int] = field(default_factory=list)  # that the registry had of the run when it was killed

    @property
    def finished(self) -> int:
        return len(self.ended)

    def blow(self, kills: int) -> None:
        while self.killed < kills:
            process = start(self.db, *self.next())
            process.join(self.moments.random() * self.seconds)
            if process.is_alive():
                process.kill()
                process.join()
            if process.exitcode == -signal.SIGKILL:
                self.killed += 1
            else:
                assert process.exitcode == 0
            self.check()
        while (args := self.next()) != self.train:
            process = start(self.db, *args)
            process.join()
            assert process.exitcode == 0
            self.check()

    def next(self) -> tuple[str, ...]:
        """Resume the run that was stopped, or begin another one."""
        if not self.db.exists():
            return self.train
        with Store(self.db, readonly=True) as store:
            rows = store.runs()
        return self.train if not rows or rows[-1].status == "done" else self.resume

    def check(self) -> None:
        """The database is sound, no value was lost, and every number is that of the undisturbed run."""
        if not self.db.exists() or not self.db.stat().st_size:
            return
        check_integrity(self.db)
        with Store(self.db, readonly=True) as store:
            for row in store.runs():
                if row.id in self.ended:
                    continue
                found = numbers(store, row.id)
                assert found.items() >= self.seen.get(row.id, {}).items(), "a stored value was lost or changed"
                assert self.expected.items() >= found.items(), "other numbers than those of the undisturbed run"
                self.seen[row.id] = found
                self.rounds.append(row.rounds_done)
                for kept in store.checkpoints(row.id):
                    assert store.load_checkpoint(row.id, kept.round)[0] == kept.round
                if row.status == "done":
                    assert found.keys() == self.expected.keys()
                    self.ended.add(row.id)


def undisturbed(db: Path, *args: str) -> tuple[dict[str, Any], float]:
    """The numbers of a run that nobody disturbs, and how long it takes once everything is imported."""
    for _ in range(2):  # the first one waits for the imports
        db.unlink(missing_ok=True)
        begun = time.monotonic()
        process = start(db, *args)
        process.join()
        seconds = time.monotonic() - begun
        assert process.exitcode == 0
    with Store(db, readonly=True) as store:
        return numbers(store, 1), seconds
