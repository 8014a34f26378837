"""Parts of a model as sets of its columns, and which of them travel.

A part is a name that `Layout` looks up, for example `head`, `norm`, `top:2` or the name of a layer. Parts combine like
sets, and the result is again a name, which can be stored, printed and typed:

    BASE | NORM     union         "base | norm"
    ALL - NORM      difference    "all - norm"
    ~HEAD           complement    "base"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

COMPLEMENTS = {"all": "none", "none": "all", "head": "base", "base": "head", "top": "below", "below": "top"}


class Part(str):
    """The name of a part, or an expression of several: names, `|`, `-` (with spaces around them) and parentheses."""

    __slots__ = ()

    def __or__(self, other: str) -> Part:
        """The columns of either part."""
        return Part(f"{_operand(self)} | {_operand(other)}")

    def __sub__(self, other: str) -> Part:
        """The columns of this part that are not in the other one."""
        return Part(f"{_operand(self)} - {_operand(other)}")

    def __invert__(self) -> Part:
        """All other columns of the model."""
        kind, colon, count = self.partition(":")
        if " " not in self and kind in COMPLEMENTS:
            return Part(COMPLEMENTS[kind] + colon + count)

        excluded = self.removeprefix("all - ")
        if excluded != self and " " not in excluded:
            return Part(excluded)
        return ALL - self


def _operand(part: str) -> str:
    return f"({part})" if " " in part else part


ALL = Part("all")
NONE = Part("none")
HEAD = Part("head")
BASE = Part("base")
NORM = Part("norm")
BATCH_NORM = Part("batch-norm")


@dataclass(frozen=True)
class Columns:
    """Where a method keeps the columns of a model; every column is in exactly one of the three parts.

    travels: sent to clients and back, and averaged.  private: each client has its own, which never leave it.
    frozen: those of the initial model theta^0 for everybody. They are neither trained nor sent, and stored once.
    """

    travels: Part = ALL
    private: Part = NONE
    frozen: Part = NONE


def evaluated(expression: str, named: Callable[[str], frozenset[T]]) -> frozenset[T]:
    """The set that an expression stands for; `named` gives the set of a single name. ValueError if it is malformed."""
    tokens = re.findall(r"[()]|[^\s()]+", expression)
    found = _chain(tokens, expression, named)
    if tokens:
        raise _malformed(expression)
    return found


def _chain(tokens: list[str], expression: str, named: Callable[[str], frozenset[T]]) -> frozenset[T]:
    """One operand, or several with one kind of operator between them; takes their tokens off the list."""
    found = _set(tokens, expression, named)
    operator = ""
    while tokens and tokens[0] in ("|", "-"):
        # a | b - c would leave open what is done first
        if operator not in ("", tokens[0]):
            raise _malformed(expression)
        operator = tokens.pop(0)
        other = _set(tokens, expression, named)
        found = found | other if operator == "|" else found - other
    return found


def _set(tokens: list[str], expression: str, named: Callable[[str], frozenset[T]]) -> frozenset[T]:
    """A name, or an expression in parentheses."""
    token = tokens.pop(0) if tokens else ""
    if token in ("", ")", "|", "-"):
        raise _malformed(expression)
    if token != "(":
        return named(token)

    found = _chain(tokens, expression, named)
    if not tokens or tokens.pop(0) != ")":
        raise _malformed(expression)
    return found


def _malformed(expression: str) -> ValueError:
    return ValueError(
        f"part {expression!r} cannot be read: put | or - with spaces around it between parts, and parentheses around "
        "a union or difference inside another one"
    )
