"""Methods by name, and their hyper-parameters from text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fltk.hyper import Hyper, find, hypers, resolved
from fltk.hyper import create as _create
from fltk.names import METHODS
from fltk.protocol.method import Method


def method_class(name: str) -> type[Method]:
    """The class behind a method's name; imported when asked for."""
    return find("method", name, METHODS, "--method")


def create(name: str, params: Mapping[str, Any]) -> Method:
    """A method with hyper-parameters; unknown names and inadmissible values are refused by name."""
    made: Method = _create(method_class(name), name, params, "--set")
    return made


__all__ = ["Hyper", "create", "hypers", "method_class", "resolved"]
