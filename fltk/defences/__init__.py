"""Defences by name. They judge uploads or replace the mean; what they may know stands in `base`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fltk.defences.base import Defence
from fltk.hyper import create as _create


def defence_class(name: str) -> type[Defence]:
    """The class behind a defence's name; imported when asked for."""
    from fltk import catalogue

    found: type[Defence] = catalogue.find("defence", name)
    return found


def create(name: str, params: Mapping[str, Any]) -> Defence:
    """A defence with hyper-parameters; unknown names and inadmissible values are refused by name."""
    made: Defence = _create(defence_class(name), name, params, "--set-defence")
    return made
