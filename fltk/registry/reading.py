"""Rows of the database as what the store gives back, and what is said of rows that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fltk.errors import DamagedRun
from fltk.registry.attempts import status_of
from fltk.registry.blobs import DAMAGE, shared_json
from fltk.registry.rows import DAMAGED, AttemptRow, RunRow
from fltk.registry.stored_config import check_config


@contextmanager
def reading(run_id: int) -> Iterator[None]:
    """DamagedRun, which names the run, for values that cannot be read."""
    try:
        yield
    except DAMAGE as error:
        raise DamagedRun(run_id, f"{type(error).__name__}: {error}") from error


def attempt_row(row: Any, now: float) -> AttemptRow:
    """A process that worked on a run; `now` in seconds since 1970 tells whether it can still be at work."""
    changes = [(str(name), str(then), str(today)) for name, then, today in json.loads(row.changes or "[]")]
    return AttemptRow(
        row.id,
        row.run_id,
        row.host,
        row.pid,
        row.started,
        row.heartbeat,
        row.ended,
        status_of(row.status, row, row.started, now),
        tuple(changes),
    )


def run_row(row: Any, tags: dict[str, str], status: str) -> RunRow:
    """A run as stored; ValueError or TypeError for one whose values cannot be read."""
    # The columns in the order of the table: looking each up by its name would take longer than all the rest.
    number, uuid, name, kind, parent, method, dataset, config, config_hash, origin, *more = row
    partition_id, data, environment_id, git, diff, seed, _, message, note, created, finished, *more = more
    done, last, removed, *_ = more
    _require_numbers(seed, created, done)
    settings = json_object(json.loads(config))
    check_config(settings, kind)
    return RunRow(
        id=number,
        uuid=uuid,
        name=name,
        kind=kind,
        parent=parent,
        status=status,
        message=message,
        method=method,
        dataset=dataset,
        config_json=config,
        config=settings,
        config_hash=config_hash,
        origin=dict(json_object(shared_json(origin))),
        partition_id=partition_id,
        data_fingerprint=data,
        environment_id=environment_id,
        git={**json_object(shared_json(git)), "diff_sha256": diff},
        seed=seed,
        note=note,
        started=created,
        finished=finished,
        rounds_done=done,
        last=_numbers(json.loads(last)),
        tags=tags,
        removed=removed,
    )


def damaged_row(row: Any, error: Exception) -> RunRow:
    """What stands for a run that cannot be read: its number, its labels, and why."""
    return RunRow(
        id=row.id,
        uuid=str(row.uuid),
        name=None if row.name is None else str(row.name),
        kind=str(row.kind),
        parent=row.parent if isinstance(row.parent, int) else None,
        status=DAMAGED,
        message=f"{type(error).__name__}: {error}",
        method=str(row.method),
        dataset=str(row.dataset),
        config_json="{}",
        config={},
        config_hash="",
        origin={},
        partition_id=None,
        data_fingerprint="",
        environment_id=0,
        git={},
        seed=0,
        note="",
        started=0.0,
        finished=None,
        rounds_done=0,
        removed=row.removed if isinstance(row.removed, float) else None,
    )


def json_object(value: Any) -> dict[str, Any]:
    """A JSON object; TypeError for anything else."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} in place of a JSON object")
    return value


def _numbers(value: Any) -> dict[str, float]:
    """The same, of numbers alone."""
    found = json_object(value)
    _require_numbers(*found.values())
    return found


def _require_numbers(*values: Any) -> None:
    for value in values:
        if not isinstance(value, (int, float)):
            raise TypeError(f"{value!r:.40} in place of a number")
