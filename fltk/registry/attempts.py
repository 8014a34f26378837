"""Who works on a run: its attempts, and what they make of its status."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row, RowMapping, Select, select
from sqlalchemy.engine import Connection

from fltk.errors import FltkError
from fltk.registry.blobs import to_json
from fltk.registry.processes import Process, is_gone, is_old
from fltk.registry.schema import attempt, checkpoint
from fltk.registry.sealing import Sealing

RUNNING = "running"
DONE = "done"
ENDINGS = (DONE, "interrupted", "failed")
STALE = "stale"
STATUSES = (RUNNING, *ENDINGS, STALE)


class Claimed(FltkError):
    """Another process works on this run, or on another run of the same configuration, or has finished it: `run`."""

    def __init__(self, message: str, run: int) -> None:
        super().__init__(message)
        self.run = run


def refuse_other(connection: Connection, run_id: int, process: Process) -> RowMapping | None:
    """The run's last attempt; FltkError when it is another process's, such as after this one slept for hours."""
    last = connection.execute(attempts_of(run_id).order_by(attempt.c.id.desc()).limit(1)).mappings().first()
    if last is not None and (last["host"], last["pid"]) != (process.host, process.pid):
        raise FltkError(f"run{run_id} was taken up by process {last['pid']} on {last['host']}; this one stops here")
    return last


def insert_attempt(
    sealing: Sealing, run_id: int, process: Process, now: float, changes: list[list[str]] | None = None
) -> int:
    """The row of a process that begins to work on a run; returns its number."""
    row = {
        "run_id": run_id,
        "host": process.host,
        "pid": process.pid,
        "process": process.mark,
        "started": now,
        "heartbeat": now,
        "status": RUNNING,
        "changes": to_json(changes) if changes else None,
    }
    return sealing.insert(attempt, row)


def attempts_of(run_id: int) -> Select[Any]:
    """The query of a run's attempts."""
    return select(attempt).where(attempt.c.run_id == run_id)


def complete_before(connection: Connection, run: Row[Any]) -> float | None:
    """When a run was done that a later attempt, repairing it, cannot have spoilt; None for every other run.

    All its rounds are stored, under the conditions that it began with, so that rounds played again are the same; and
    its newest checkpoint is that of its end.
    """
    attempts = connection.execute(attempts_of(run.id).order_by(attempt.c.id)).all()
    done = max((place for place, one in enumerate(attempts) if one.status == DONE), default=None)
    since = [] if done is None else attempts[done + 1 :]
    rounds = json.loads(run.config).get("train", {}).get("rounds")
    if done is None or not since or run.rounds_done != rounds or any(one.changes for one in since):
        return None
    newest = select(checkpoint.c.round).where(checkpoint.c.run_id == run.id).order_by(checkpoint.c.id.desc()).limit(1)
    return attempts[done].ended if connection.execute(newest).scalar() == rounds else None


def _process(row: Any) -> Process:
    return Process(row.host, row.pid, row.process)


def is_other(worker: Any, process: Process, now: float) -> bool:
    """Whether another process, still alive, holds the run."""
    itself = (worker.host, worker.pid) == (process.host, process.pid)
    return not itself and not is_gone(_process(worker), worker.heartbeat, now)


def status_of(status: str, worker: Any, begun: float, now: float) -> str:
    """`running` only while a process can be behind it; otherwise `stale`."""
    if status != RUNNING:
        return status
    if worker is None:  # killed between the run's row and its first attempt, or about to start
        return STALE if is_old(begun, now) else RUNNING
    return STALE if is_gone(_process(worker), worker.heartbeat, now) else RUNNING
