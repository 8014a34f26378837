"""`python -m fltk` is the same as `fltk`."""

from __future__ import annotations

from fltk.cli.main import main

if __name__ == "__main__":
    main()
