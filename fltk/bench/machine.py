"""What this machine can do at best, and what a process needs of its memory."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fltk.registry.capture import environment

MIB = 2**20


def gemm_peak(device: str = "cpu") -> float:
    """FLOP/s of the fastest float32 matrix product found, on one core or on the device; takes half a second."""
    return max(_product(1024, 10, device), _product(2048, 3, device))


def _product(n: int, repeats: int, device: str) -> float:
    a, b = (torch.rand(n, n, generator=torch.Generator().manual_seed(k)).to(device) for k in (0, 1))
    out = torch.empty(n, n, device=device)
    torch.mm(a, b, out=out)
    best = float("inf")
    for _ in range(repeats):
        settle(device)
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        settle(device)
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def settle(device: str) -> None:
    """Wait until the device has done what it was told, so that a clock can be read."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def machine(device: str) -> dict[str, Any]:
    """What figures depend on besides fltk."""
    found = environment()
    known = {key: found[key] for key in ("cpu", "cores", "usable_cores", "os", "python")}
    known |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}
    return known | ({"gpu": torch.cuda.get_device_name(device)} if device != "cpu" else {})


def restart_peak() -> None:
    """Forget how much memory this process needed so far, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(pid: int | None = None) -> float | None:
    """Most MiB of memory that a process (default: this one) had, since `restart_peak`; None where nobody knows."""
    known = _status(pid or os.getpid(), "VmHWM")
    if known is not None or pid is not None:
        return known
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


def memory_now() -> float | None:
    """MiB of memory that this process has, after what is free was given back to the system; None where nobody knows."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what a former workload has freed
    return _status(os.getpid(), "VmRSS")


def _status(pid: int, field: str) -> float | None:
    """MiB that Linux tells of a process under a name."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0]) / 1024
    return None


def workers() -> set[int]:
    """Processes that engines of this process have started."""
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}
