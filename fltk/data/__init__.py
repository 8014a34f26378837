"""Named data sets as arrays. Importing this package imports no torch."""

from __future__ import annotations

from fltk.data.dataset import Dataset, create
from fltk.data.own import own
from fltk.data.sources import SourceInfo, describe, load

__all__ = ["Dataset", "SourceInfo", "create", "describe", "load", "own"]
