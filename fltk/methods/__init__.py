"""Methods by name, and their hyper-parameters from text."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from fltk.errors import UsageError, unknown
from fltk.methods.base import Method
from fltk.names import METHODS


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


def method_class(name: str) -> type[Method]:
    """The class behind a method's name; imported when asked for."""
    if name not in METHODS:
        raise unknown("method", name, METHODS, "--method")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def hypers(cls: type[Method]) -> list[Hyper]:
    """A method's own hyper-parameters in the order of its file."""
    return [
        Hyper(
            name=f.name,
            kind=str(f.type),
            default=None if f.default is MISSING else f.default,
            help=f.metadata.get("help", ""),
            choices=tuple(f.metadata.get("choices", ())),
            low=f.metadata.get("low"),
            high=f.metadata.get("high"),
        )
        for f in fields(cls)
    ]


def create(name: str, params: Mapping[str, Any]) -> Method:
    """A method with hyper-parameters; unknown names and inadmissible values are refused by name."""
    cls = method_class(name)
    known = {f.name: f for f in fields(cls)}
    values = {}
    for key, value in params.items():
        if key not in known:
            raise (
                unknown(f"hyper-parameter of {name}", key, known, "--set")
                if known
                else UsageError(f"--set: {name} has no hyper-parameters, so {key!r} cannot be set")
            )
        values[key] = _admissible(name, known[key], value)
    return cls(**values)


def resolved(method: Method) -> dict[str, Any]:
    """All hyper-parameters with their values; an infinite width becomes text so that JSON can hold it."""
    values = {f.name: getattr(method, f.name) for f in fields(method)}
    return {k: "inf" if v == float("inf") else v for k, v in values.items()}


def _admissible(name: str, f: Field[Any], value: Any) -> Any:
    """`value` in the type of the field and within its range, or the line that says what is."""
    kinds = str(f.type)
    say = f"--set {f.name}={value}: {name} takes"
    unset = value is None or (isinstance(value, str) and value.lower() in ("none", "default"))
    if unset and "None" in kinds:
        return None
    choices = f.metadata.get("choices")
    if choices:
        if value not in choices:
            raise UsageError(f"{say} one of {', '.join(choices)}")
        return value
    try:
        number = int(str(value)) if kinds == "int" else float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{say} {'a whole number' if kinds == 'int' else 'a number'}") from None
    low, high = f.metadata.get("low"), f.metadata.get("high")
    if number != number or (low is not None and number < low) or (high is not None and number > high):
        span = f"{'-inf' if low is None else low:g}" if low is not None else "any"
        raise UsageError(f"{say} a value from {span} to {'inf' if high is None else f'{high:g}'}")
    return number
