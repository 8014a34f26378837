"""Rows that are written anew where they are, and can be had back.

Two matrices with a model of every client, those of the round before and the new ones, need not both fit in memory. The
rows to be overwritten go to a file first; the operating system keeps as much of it in memory as nobody else wants.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom

from torch import Tensor

from fltk.errors import FltkError
from fltk.memory.shared import MOST
from fltk.signals import STOPS

SPARE = 1.2  # of a file's bytes that must be free where it is written


class Undo:
    """What a round has overwritten, or is free to."""

    def __init__(self) -> None:
        self._file: BufferedRandom | None = None
        self._old: list[tuple[Tensor, int]] = []  # rows, in the order of the file
        self.kept: Tensor | None = None  # the rows that `keep` was given

    def room(self, rows: Tensor) -> bool:
        """Whether a file of all these rows can be written."""
        with suppress(OSError, AttributeError):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=_folder())  # noqa: SIM115 (see `close`)
            free = os.fstatvfs(self._file.fileno())
            return free.f_bavail * free.f_frsize > SPARE * rows.nbytes
        return False

    def put(self, rows: Tensor, k: int, row: Tensor) -> None:
        """rows[k] <- row, in place. Raises FltkError, before anything is overwritten, if the old row cannot be kept."""
        self._write(rows, k)
        rows[k] = row

    def keep(self, rows: Tensor, count: int) -> bool:
        """Rows (N, P) of which `count` are about to be replaced: if they are very large and that is all, they are free.

        Whether that is so. Raises FltkError, before anything is overwritten, if they cannot be kept.
        """
        assert not self._old
        if count < len(rows) or rows.nbytes <= MOST or not self.room(rows):
            return False
        for k in range(len(rows)):
            self._write(rows, k)
        self.kept = rows
        return True

    def again(self, k: int) -> None:
        """Row k of those that `keep` was given, as it was."""
        assert self._file is not None and self.kept is not None
        end = self._file.tell()
        self._file.seek(k * self.kept[k].nbytes)
        self._file.readinto(self.kept[k].numpy().data.cast("B"))
        self._file.seek(end)

    def _write(self, rows: Tensor, k: int) -> None:
        assert self._file is not None
        try:
            self._file.write(rows[k].numpy().data)
        except OSError as error:
            raise FltkError(
                f"the old rows of a state of {rows.nbytes >> 20} MB cannot be written to a file: {error.strerror}; "
                "set TMPDIR to a folder on a disk with room for them"
            ) from None
        self._old.append((rows, k))

    def back(self) -> None:
        """All rows as they were. Ctrl-C waits for that."""
        with _undisturbed():
            if self._old:
                assert self._file is not None
                self._file.seek(0)
                for rows, k in self._old:
                    self._file.readinto(rows[k].numpy().data.cast("B"))
            self.forget()

    def forget(self) -> None:
        """From now on the rows are what they are."""
        self._old, self.kept = [], None
        if self._file is not None:
            self._file.seek(0)

    def close(self) -> None:
        """Nothing will be had back any more."""
        if self._file is not None:
            self._file.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without signals that end a run; they are lost."""
    if threading.current_thread() is not threading.main_thread():  # only the main one is interrupted
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder() -> str | None:
    """On a disk, if possible: /tmp is often in memory."""
    return "/var/tmp" if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK) else None
