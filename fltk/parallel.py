"""One process's work on all cores: threads, for calls that let go of Python's lock, as torch's and hashlib's do.

Torch itself runs on one thread (see `fltk.engine.base.settle`): its own threads change how sums are cut, and with them
bits. Here the items are cut by the caller, whatever the number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MOST_THREADS = 8
T = TypeVar("T")
R = TypeVar("R")


def on_cores(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """The results of all items in order; no more of them are in memory than there are cores."""
    cores = min(os.cpu_count() or 1, MOST_THREADS, max(1, len(items)))
    with ThreadPoolExecutor(cores) as pool:
        for k in range(0, len(items), cores):
            yield from pool.map(work, items[k : k + cores])
