"""`fltk methods`."""

from __future__ import annotations

import sys
from typing import Any

import click

from fltk import catalogue
from fltk.cli.command import command
from fltk.cli.output import Column, emit, output_options
from fltk.cli.terminal import echo

COLUMNS = [
    Column("method"),
    Column("summary"),
    Column("shared", "shared part"),
    Column("map"),
    Column("needs", "requires"),
    Column("cannot", "not supported"),
    Column("hyper_parameters", "hyper-parameters"),
]


@command("methods", examples=("fltk methods", "fltk methods attn", "fltk methods --format json"))
@click.argument("name", required=False)
@output_options
def methods(name: str | None, format: str) -> None:
    """List the methods, or explain one.

    With a NAME, which may be of your own (my.py:Mine): its citation, its equations, what differs from the paper, and
    its hyper-parameters (set with `fltk train --set KEY=VALUE`). Every method trains, resumes, is evaluated and reports
    a collaboration map; the list says what kind of map it is and which part of the model is shared (sent to the server
    and averaged).
    """
    if name is None:
        rows = [_row(method) for method in catalogue.names("method")]
        emit(rows, [c for c in COLUMNS if c.key != "cannot" or any(row["cannot"] for row in rows)], format)
    else:
        explain("method", name, "--set", format)


def _row(name: str) -> dict[str, Any]:
    from fltk.methods import hypers, method_class

    cls = method_class(name)
    return {
        "method": name,
        "summary": cls.title,
        "shared": cls().columns.travels,
        "map": cls().map_kind,
        "needs": "known groups" if cls.needs_groups else None,
        "cannot": "; ".join(f"{ability}: {reason}" for ability, reason in cls.cannot.items()) or None,
        "hyper_parameters": [h.name for h in hypers(cls)] or None,
    }


def explain(kind: str, given: str, option: str, format: str) -> None:
    """What the file of a method, attack or defence says about itself, and its hyper-parameters, which `option` sets."""
    from fltk.hyper import hypers

    name = catalogue.spelled(kind, given, "NAME")
    cls = catalogue.find(kind, name, "NAME")
    doc = (sys.modules[cls.__module__].__doc__ or "").strip()
    rows = [
        {"name": h.name, "default": h.default, "range": _range(h.low, h.high, h.choices), "help": h.help}
        for h in hypers(cls)
    ]
    columns = [Column("name"), Column("default"), Column("range"), Column("help")]
    if format == "table":
        echo(f"{name}\n\n{doc}\n")
        if not rows:
            echo("No hyper-parameters.")
            return
        emit(rows, columns, format, title=f"Hyper-parameters ({option} KEY=VALUE)")
    else:
        emit(rows, columns, format, extra={kind: name, "description": doc} if format == "json" else None)


def _range(low: float | None, high: float | None, choices: tuple[str, ...]) -> str | None:
    if choices:
        return ", ".join(choices)
    if low is None and high is None:
        return None
    return f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
