"""The registry of runs: one class over one database and the artifact folder beside it."""

from __future__ import annotations

from types import TracebackType

from fltk.registry.bulk import Bulk
from fltk.registry.checkpoints import Checkpoints
from fltk.registry.cleanup import Cleanup
from fltk.registry.labels import Labels
from fltk.registry.partitions import Evaluations, Partitions
from fltk.registry.series import Series


class Store(Series, Checkpoints, Partitions, Evaluations, Bulk, Labels, Cleanup):
    """An open registry; a context manager.

    `Store("results.db")` opens an existing one, `Store("results.db", create=True)` makes it where there is
    none. An SQLAlchemy URL works in place of the file. `readonly=True, upgrade=False` leaves a file of an older
    fltk as it is. Errors are FltkError, one line that says what to do; what a user should know besides is logged
    as a warning of `fltk.registry` (an upgrade, a newer schema, a network file system).

    Any number of processes may read and write at once; each round is one short transaction. A store must not
    be used in a process forked from the one that opened it.
    """

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
