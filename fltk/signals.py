"""The signals by which somebody asks a program to end."""

from __future__ import annotations

import signal

# Ctrl-C and a closed terminal reach every process of a command at once; SIGTERM goes to the one that is meant.
FROM_TERMINAL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name))
STOPS = (*FROM_TERMINAL, signal.SIGTERM)


def leave_to_driver() -> None:
    """For worker processes: what a signal from the terminal means to them, their driver says."""
    for number in FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
