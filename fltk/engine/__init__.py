"""Engines decide how many clients run at once and where; they change no bit of what a client computes."""

from __future__ import annotations

import os

from fltk.engine.base import Engine, Job
from fltk.errors import UsageError

AFTER = 1.0  # seconds of client work after which `auto` starts workers
MOST = 8  # workers that `auto` starts


def make(spec: str, job: Job) -> Engine:
    """The engine `auto`, `serial` or `process:N` for a job.

    `auto` starts one worker per core as soon as the work in this process has taken a second, since a run that takes so
    long gains more by them than they cost; with one core, or on a GPU, it works in this process alone.
    """
    name, _, count = spec.partition(":")
    if name == "auto" and not count:
        workers = min(MOST, cores(), len(job.federation.clients)) if job.device == "cpu" else 1
        return _pool(job, workers, AFTER) if workers > 1 else _serial(job)
    if name == "serial" and not count:
        return _serial(job)
    if name == "process" and count.isdecimal() and int(count) >= 1:
        return _pool(job, int(count))
    raise UsageError(f"--engine takes auto, serial or process:N (N worker processes), not {spec!r}")


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
