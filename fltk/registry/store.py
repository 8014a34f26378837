"""The registry of runs: one class over one database and the artifact folder beside it."""

from __future__ import annotations

from types import TracebackType

from fltk.registry.checkpoints import Checkpoints
from fltk.registry.partitions import Evaluations, Partitions
from fltk.registry.series import Series


class Store(Series, Checkpoints, Partitions, Evaluations):
    """An open registry; a context manager.

    `Store("results.db")` opens an existing one, `Store("results.db", create=True)` makes it where there is
    none. An SQLAlchemy URL works in place of the file. Errors are FltkError, one line that says what to do.

    Any number of processes may read and write at once; each round is one short transaction. A store must not
    be used in a process forked from the one that opened it.
    """

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
