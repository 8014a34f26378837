"""Fields of configurations: how one is declared, and the ranges that several of them share."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

from fltk.errors import UsageError
from fltk.hyper import FLOAT32


def option(default: Any, text: str, **extra: Any) -> Any:
    """A dataclass field with its help text; `choices` in `extra` lists the admissible values.

    A field that comes to a class later is marked `later=True`: at its default it does not enter a run's hash, so that
    runs from before it keep theirs. At its default a field with `sparse=True` is not stored either. `kind` names a kind
    of the catalogue, whose names are admissible besides the choices.
    """
    return field(default=default, metadata={"help": text, **extra})


def whole(text: str) -> int | None:
    """The number that a text of decimal digits says; None for any other text, also for more digits than a seed has."""
    word = text.strip()
    return int(word) if word.isdecimal() and word.isascii() and len(word) < 20 else None


def positive(name: str, value: float, most: float = FLOAT32) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"--{name} must be a positive number, not {value}")
    at_most(name, value, most)


def at_most(name: str, value: float, high: float) -> None:
    if not value <= high:
        raise UsageError(f"--{name} must be at most {high:.10g}, not {value}")


def at_least(name: str, value: float, low: float) -> None:
    if not value >= low:
        raise UsageError(f"--{name} must be at least {low}, not {value}")
