"""The signals by which somebody asks a program to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

# Ctrl-C and a closed terminal reach every process of a command at once; SIGTERM goes to the one that is meant.
FROM_TERMINAL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name))
STOPS = (*FROM_TERMINAL, signal.SIGTERM)
ENDING = b"fltk: ending; once more ends at once, and saves nothing\n"
INTERRUPTED = 130  # exit code


def leave_to_driver() -> None:
    """For worker processes: what a signal from the terminal means to them, their driver says."""
    for number in FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)


def interrupt_once() -> None:
    """Let the first of these signals raise KeyboardInterrupt. The second cannot disturb what is saved then; the third
    ends the process at once.
    """
    _handle(_first)


def ignore() -> None:
    """The command is over: a signal that comes now would only interrupt Python while it ends."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a script's background
            signal.signal(number, handler)


def _first(number: int, frame: FrameType | None) -> None:
    _handle(_second)
    raise KeyboardInterrupt


def _second(number: int, frame: FrameType | None) -> None:
    _handle(_third)
    with suppress(OSError):  # not print, which may have been interrupted in the middle
        os.write(2, ENDING)


def _third(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
