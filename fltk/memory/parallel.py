"""One process's work on all cores: threads, for calls that let go of Python's lock, as torch's and hashlib's do.

Torch itself runs on one thread (see `fltk.engine.base.settle`): its own threads change how sums are cut, and with them
bits. Here the items are cut by the caller, whatever the number of cores.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_THREADS = 8
T = TypeVar("T")
R = TypeVar("R")


def on_cores(work: Callable[[T], R], items: Sequence[T], together: int = 1) -> Iterator[R]:
    """The results of all items in order, of so many `together`: some for whose work a thread is too much.

    Not many more of them are in memory than there are cores.
    """
    groups = [items[k : k + together] for k in range(0, len(items), together)]
    cores = min(os.cpu_count() or 1, MOST_THREADS, len(groups))
    if cores < 2:
        yield from map(work, items)
        return

    def through(group: Sequence[T]) -> list[R]:
        return [work(item) for item in group]

    with ThreadPoolExecutor(cores) as pool:
        ahead: deque[Future[list[R]]] = deque()
        for group in groups:
            ahead.append(pool.submit(through, group))
            if len(ahead) > 2 * cores:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
