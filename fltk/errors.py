"""Errors that a user can act on. Everything else is a bug and keeps its traceback out of the terminal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FltkError(Exception):
    """An expected failure, told in one line that names what to change. Exit code 1."""

    exit_code = 1


class DamagedRun(FltkError):
    """What is stored of a run cannot be read. `run` is its number, by which it can be removed."""

    def __init__(self, run: int, reason: str) -> None:
        super().__init__(
            f"run{run} is damaged: {reason}; `fltk verify run{run}` tells more, `fltk runs rm run{run}` removes it"
        )
        self.run = run


class UsageError(FltkError):
    """The command line or configuration asks for something impossible. Exit code 2."""

    exit_code = 2


class Mismatch(FltkError):
    """What is found is not what was stored. Exit code 3."""

    exit_code = 3


class Diverged(FltkError):
    """Local training left the finite numbers."""


def unknown(kind: str, name: str, known: Iterable[str], option: str) -> UsageError:
    """The error for a mistyped name: says what was close, or what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
    return UsageError(f"{option}: unknown {kind} {name!r}; {hint}")
