"""`fltk data`."""

from __future__ import annotations

from dataclasses import asdict

import click

from fltk.cli.command import command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options

COLUMNS = [
    Column("name"),
    Column("present", "available"),
    Column("samples"),
    Column("shape"),
    Column("classes"),
    Column("natural", "natural clients"),
    Column("licence"),
    Column("get", "how to get it"),
]


@command("data", examples=("fltk data", "fltk data --data-dir ~/data --format json"))
@output_options
@click.pass_obj
def data(settings: Settings, format: str) -> None:
    """List the data sets and which of them are available.

    Data sets are read from, and with --download saved to, the folder of --data-dir, else of FLTK_DATA, else
    ~/.cache/fltk. The last column says how to get a missing one.
    """
    from fltk.data.sources import describe, folder

    where = str(folder(settings.data_dir))
    emit([asdict(info) for info in describe(settings.data_dir)], COLUMNS, format, extra={"folder": where})
