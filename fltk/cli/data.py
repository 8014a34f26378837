"""`fltk data`."""

from __future__ import annotations

from dataclasses import asdict

import click

from fltk.cli.command import command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options

COLUMNS = [
    Column("name"),
    Column("present", "at hand"),
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
    """List the data sets and say which are at hand.

    A data set that is absent is listed with the way to get it. They are looked for, and put by --download, in the
    folder of --data-dir, or else of FLTK_DATA, or else in ~/.cache/fltk.
    """
    from fltk.data.sources import describe, folder

    where = str(folder(settings.data_dir))
    emit([asdict(info) for info in describe(settings.data_dir)], COLUMNS, format, extra={"folder": where})
