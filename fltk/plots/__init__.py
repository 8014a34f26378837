"""Figures for papers: pure functions from arrays to a figure and the rows it draws."""

from __future__ import annotations

import logging

# matplotlib writes lines of its own where its folder cannot be written, or where it looks for a font. Nothing has to be
# done about them. Errors still come through.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
