"""Who holds what: partitions of a data set over clients and newcomers."""

from __future__ import annotations

from fltk.partition.draw import make
from fltk.partition.record import Arrays, Partition, create, from_arrays, to_arrays

__all__ = ["Arrays", "Partition", "create", "from_arrays", "make", "to_arrays"]
