"""Worker processes that end with their driver from their first moment, also while they import.

A worker that works notices by its pipe that the driver is gone, and saves first. Until then it has nothing to save, and
importing may take half a minute on a busy machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

SECONDS = 0.2  # between two looks


class Lifeline:
    """The first argument of a worker process: what is pickled after it is imported under its watch."""

    def __init__(self) -> None:
        self.arrived = threading.Event()

    def __reduce__(self) -> tuple[Callable[[int], Lifeline], tuple[int]]:
        return _tied, (os.getpid(),)


def serve(line: Lifeline, work: Callable[..., None], *args: Any) -> None:
    """The target of a worker process, with `args=(Lifeline(), work, ...)`: the worker has imported what it needs."""
    line.arrived.set()
    work(*args)


def _tied(driver: int) -> Lifeline:
    """In the new process: a lifeline that ends it when the driver is no longer its parent."""
    line = Lifeline()

    def watch() -> None:
        while not line.arrived.wait(SECONDS):
            if os.getppid() != driver:
                os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    return line
