"""Methods by name, and their hyper-parameters from text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fltk.hyper import Hyper, hypers, resolved
from fltk.hyper import create as _create
from fltk.protocol.method import Method


def method_class(name: str) -> type[Method]:
    """The class behind a method's name; imported when asked for."""
    from fltk import catalogue

    found: type[Method] = catalogue.find("method", name)
    return found


def create(name: str, params: Mapping[str, Any]) -> Method:
    """A method with hyper-parameters; unknown names and inadmissible values are refused by name."""
    made: Method = _create(method_class(name), name, params, "--set")
    return made


__all__ = ["Hyper", "create", "hypers", "method_class", "resolved"]
