"""Columns of tables whose numbers are values of the runs' headline measure: accuracy, or an error in its unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fltk.cli.output import Column
from fltk.objectives import ACCURACY, Measure, headline

if TYPE_CHECKING:
    from fltk.registry import RunRow

OPPOSITE = {"max": "min", "min": "max", "": ""}
ALWAYS_LOW = ("std", "drop", "gap")  # of these less is better, whatever the measure


def measures_of(runs: Iterable[RunRow]) -> list[Measure]:
    """The headline measures of some runs, each once, with their units; accuracy alone where no run says another one."""
    from fltk.data.sources import unit_of

    found: dict[tuple[str, str], Measure] = {}
    for run in runs:
        measure = headline(run.last)
        if not measure.fraction:
            measure = replace(measure, unit=unit_of(run.dataset))
        if run.last:
            found.setdefault((measure.key, measure.unit), measure)
    return list(found.values()) or [ACCURACY]


def scored(columns: Sequence[Column], measures: Sequence[Measure], keys: Iterable[str] = ()) -> list[Column]:
    """Columns for runs of these measures: those of accuracy once for each measure, with its key, name and direction.

    A column is of accuracy when `acc` is a word of its key, or when its key is among `keys`, which stay as they are.
    """
    fixed = set(keys)
    made: dict[str, Column] = {}
    for column in columns:
        words = column.key.split("_")
        if ACCURACY.key not in words and column.key not in fixed:
            made[column.key] = column
            continue
        for measure in measures:
            own = _own(column, measure)
            made.setdefault(own.key, own)
    return list(made.values())


def _own(column: Column, measure: Measure) -> Column:
    """The column of accuracy as that of a measure."""
    if measure.key == ACCURACY.key:
        return column
    words = column.key.split("_")
    key = "_".join(measure.key if word == ACCURACY.key else word for word in words)
    name = f"{measure.short} ({measure.unit})"
    label = column.label.replace(" acc", "")
    flips = not measure.higher_is_better and words[-1] not in ALWAYS_LOW
    return replace(column, key=key, label=f"{label} {name}", best=OPPOSITE[column.best] if flips else column.best)
