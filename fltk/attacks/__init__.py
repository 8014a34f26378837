"""Attacks by name. What they may touch and see stands in `base`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fltk.attacks.base import Attack
from fltk.hyper import create as _create


def attack_class(name: str) -> type[Attack]:
    """The class behind an attack's name; imported when asked for."""
    from fltk import catalogue

    found: type[Attack] = catalogue.find("attack", name)
    return found


def create(name: str, params: Mapping[str, Any]) -> Attack:
    """An attack with options; unknown names and inadmissible values are refused by name."""
    made: Attack = _create(attack_class(name), name, params, "--set-attack")
    return made
