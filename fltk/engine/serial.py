"""One client after another, in this process: the specification that other engines must equal bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fltk.engine.base import Bench, Job, Reduce, Take, Work, settle
from fltk.engine.lockstep import fold_through, succeeded, work_through


class Serial:
    """The reference engine."""

    def __init__(self, job: Job):
        settle()
        self._bench = Bench(job)

    @property
    def ready(self) -> bool:
        return True

    def map(self, work: Work, tasks: Sequence[Any], sizes: Sequence[int], take: Take | None = None) -> list[Any]:
        results = map(succeeded, work_through(self._bench, work, tasks))
        return list(results) if take is None else [take(k, result) for k, result in enumerate(results)]

    def fold(
        self, work: Work, reduce: Reduce, parts: Sequence[Sequence[Any]], sizes: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        return enumerate(map(succeeded, fold_through(self._bench, work, reduce, parts)))

    def close(self) -> None:
        """Nothing to end."""
