"""Who works on a run: host, process, and whether that process still lives."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

STALE_SECONDS = 120.0
SKEW_SECONDS = 3600.0  # clocks of hosts that share a registry differ by less


@dataclass(frozen=True)
class Process:
    """A process on a host. `mark` (or None) tells it from a later process with the same number."""

    host: str
    pid: int
    mark: str | None


def current() -> Process:
    """This process."""
    return Process(platform.node(), os.getpid(), _mark(os.getpid()))


def is_gone(process: Process, heartbeat: float, now: float) -> bool:
    """Whether a worker that never reported an end is gone.

    On this host the process list decides, so that a long round is not mistaken for a crash; elsewhere only
    the age of the last heartbeat can. `heartbeat` and `now` are seconds since 1970.
    """
    if process.host != platform.node():
        return is_old(heartbeat, now)
    return not _is_alive(process)


def is_old(heartbeat: float, now: float) -> bool:
    """Whether a sign of life is too old to count, or so far in the future that no clock has written it."""
    return now - heartbeat > STALE_SECONDS or heartbeat - now > SKEW_SECONDS


def _is_alive(process: Process) -> bool:
    if process.pid <= 0:
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it exists and belongs to somebody else
    except OverflowError:
        return False
    return process.mark is None or _mark(process.pid) in (process.mark, None)


def _mark(pid: int) -> str | None:
    """Boot and start time of a process (Linux); "ended" for one that only waits to be collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # Field 2, the name in parentheses, may hold anything; field 3 is the state, field 22 the start time.
    return "ended" if fields[0] in "ZX" else f"{boot}:{fields[19]}"
