"""A sign of life during long rounds: on other hosts only the age of the last one tells a slow run from a dead one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fltk.errors import FltkError
from fltk.registry.processes import STALE_SECONDS
from fltk.registry.store import Store

BEAT_SECONDS = STALE_SECONDS / 4


@contextmanager
def beating(store: Store, run: int, seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """While the block runs, a thread writes the run's heartbeat every `seconds`.

    A beat that cannot be written is left out: storing the next round meets the same trouble and tells it.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            with suppress(FltkError):
                store.heartbeat(run)

    thread = threading.Thread(target=beat, name=f"heartbeat of run{run}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
