"""The way in, of `python -m fltk` and of the `fltk` program.

Importing the command line takes a moment in which nothing of it can catch Ctrl-C yet: until then the signal ends the
process as it ends one that is no Python, without a word.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line of this process."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for a command in the background of a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fltk.cli.main import main as start

    start()


if __name__ == "__main__":
    main()
