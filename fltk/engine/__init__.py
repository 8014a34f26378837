"""Engines decide how many clients run at once and where; they change no bit of what a client computes."""

from __future__ import annotations

import os

from fltk.engine.base import Engine, Job
from fltk.errors import UsageError
from fltk.fields import whole

AFTER = 1.0  # seconds of client work after which `auto` starts workers
MOST = 8  # workers that `auto` starts
WORKERS = 1024


def make(spec: str, job: Job) -> Engine:
    """The engine `auto`, `serial` or `process:N` for a job.

    `auto` starts one worker per core as soon as the work in this process has taken a second, since a run that takes so
    long gains more by them than they cost; with one core, or on a GPU, it works in this process alone.
    """
    name, count = read_spec(spec)
    if name == "auto":
        workers = min(MOST, cores(), len(job.federation.clients)) if job.device == "cpu" else 1
        return _pool(job, workers, AFTER) if workers > 1 else _serial(job)
    return _serial(job) if name == "serial" else _pool(job, count)


def read_spec(spec: str) -> tuple[str, int]:
    """(name, worker processes) of `auto`, `serial` or `process:N`; UsageError for anything else."""
    name, colon, number = spec.partition(":")
    if name in ("auto", "serial") and not colon:
        return name, 0
    count = whole(number)
    if name != "process" or count is None or not 1 <= count <= WORKERS:
        raise UsageError(
            f"--engine takes auto, serial or process:N (N worker processes, up to {WORKERS}), not {spec!r}"
        )
    return name, count


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serial(job: Job) -> Engine:
    from fltk.engine.serial import Serial

    return Serial(job)


def _pool(job: Job, workers: int, after: float = 0.0) -> Engine:
    from fltk.engine.process import Pool

    return Pool(job, workers, after)


__all__ = ["Engine", "Job", "make"]
