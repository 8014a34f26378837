"""Hyper-parameters of methods, attacks and defences: fields with a help text, and their values from text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from fltk.errors import UsageError, unknown

FLOAT32 = 3.4028234663852886e38  # the largest number that weights are computed with
MANY = 10**9  # rounds, steps, clients, claimed samples for one: more than can be waited for, and sums stay integers


def hyper(default: Any, text: str, low: float | None = None, high: float | None = None, **extra: Any) -> Any:
    """A hyper-parameter: its default, its one help text, and its admissible range (inclusive) or `choices`.

    `infinite=True` admits infinity, where that has a meaning: a limit that is never reached.
    """
    return field(default=default, metadata={"help": text, "low": low, "high": high, **extra})


@dataclass(frozen=True)
class Hyper:
    """One hyper-parameter as a user sees it."""

    name: str
    kind: str
    default: Any
    help: str
    choices: tuple[str, ...]
    low: float | None
    high: float | None


def hypers(cls: type[Any]) -> list[Hyper]:
    """The hyper-parameters of a class in the order of its file."""
    return [
        Hyper(
            name=f.name,
            kind=_kind(f),
            default=None if f.default is MISSING else f.default,
            help=f.metadata.get("help", ""),
            choices=tuple(f.metadata.get("choices", ())),
            low=f.metadata.get("low"),
            high=f.metadata.get("high"),
        )
        for f in fields(cls)
    ]


def create(cls: type[Any], name: str, params: Mapping[str, Any], option: str) -> Any:
    """An instance with hyper-parameters; unknown names and inadmissible values are refused by name and `option`."""
    known = {f.name: f for f in fields(cls)}
    values = {}
    for key, value in params.items():
        if not known:
            raise UsageError(f"{option}: {name} has no hyper-parameters, so {key!r} cannot be set")
        if key not in known:
            raise unknown(f"hyper-parameter of {name}", key, known, option)
        values[key] = _admissible(name, known[key], value, option)
    return cls(**values)


def resolved(made: Any) -> dict[str, Any]:
    """All hyper-parameters with their values; an infinite one becomes text so that JSON can hold it."""
    values = {f.name: getattr(made, f.name) for f in fields(made)}
    return {k: "inf" if v == float("inf") else v for k, v in values.items()}


def _kind(f: Field[Any]) -> str:
    """The type of a field as it is written, also in a file without `from __future__ import annotations`."""
    return f.type.__name__ if isinstance(f.type, type) else str(f.type)


def _admissible(name: str, f: Field[Any], value: Any, option: str) -> Any:
    """`value` in the type of the field and within its range, or the line that says what is."""
    kinds = _kind(f)
    say = f"{option} {f.name}={value}: {name} takes"
    unset = value is None or (isinstance(value, str) and value.lower() in ("none", "default"))
    unset &= "None" in kinds

    choices = f.metadata.get("choices")
    if choices and value not in choices:
        if not unset:
            raise UsageError(f"{say} one of {', '.join(choices)}")
        return None
    if choices:
        return value
    return None if unset else _number(f, value, say)


def _number(f: Field[Any], value: Any, say: str) -> int | float:
    """The number in the type of the field; UsageError, which begins with `say`, outside its range."""
    whole = _kind(f).startswith("int")
    try:
        number = int(str(value)) if whole else float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{say} {'a whole number' if whole else 'a number'}") from None

    low, high = f.metadata.get("low"), f.metadata.get("high")
    if not _within(number, low, high):
        least = "any" if low is None else f"{low:g}"
        most = "inf" if high is None else f"{high:g}"
        raise UsageError(f"{say} a value from {least} to {most}")

    # Without a range of its own, a number has to fit into what is computed with it.
    limit = MANY if whole else FLOAT32
    endless = number == math.inf and bool(f.metadata.get("infinite"))
    if high is None and abs(number) > limit and not endless:
        raise UsageError(f"{say} a number up to {limit:.10g}")
    return number


def _within(number: float, low: float | None, high: float | None) -> bool:
    """Whether a number lies between two ends, each of which may be absent; NaN lies nowhere."""
    above_low = low is None or number >= low
    below_high = high is None or number <= high
    return above_low and below_high and number == number
