"""Engines decide how many clients run at once and where; they change no bit of what a client computes."""

from __future__ import annotations

from fltk.engine.base import Engine, Job
from fltk.errors import UsageError


def make(spec: str, job: Job) -> Engine:
    """The engine `serial` or `process:N` for a job."""
    name, _, count = spec.partition(":")
    if name == "serial" and not count:
        from fltk.engine.serial import Serial

        return Serial(job)
    if name == "process" and count.isdecimal() and int(count) >= 1:
        from fltk.engine.process import Pool

        return Pool(job, int(count))
    raise UsageError(f"--engine takes serial or process:N (N worker processes), not {spec!r}")


__all__ = ["Engine", "Job", "make"]
