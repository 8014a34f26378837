"""One client after another, in this process: the specification that other engines must equal bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fltk.engine.base import Bench, Job, Work, pin_threads


class Serial:
    """The reference engine."""

    def __init__(self, job: Job):
        pin_threads()
        self._bench = Bench(job)

    def map(self, work: Work, tasks: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
        return [work(self._bench, task) for task in tasks]

    def close(self) -> None:
        """Nothing to end."""
