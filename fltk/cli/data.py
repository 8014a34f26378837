"""`fltk data`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fltk.cli.command import Group, Option, behind_global, epilog
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
ADDED = [
    Column("name"),
    Column("path"),
    Column("samples"),
    Column("shape"),
    Column("classes"),
    Column("natural", "natural clients"),
    Column("fingerprint"),
]


class DataGroup(Group):
    """`fltk data` alone lists the data sets."""

    shorthand = "list"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` in front of what is no member; global options may stand before either."""
        first = behind_global(args)
        helps = args[first : first + 1] in (["-h"], ["--help"])
        if not helps and (first == len(args) or args[first] not in self.commands):
            args = [*args[:first], self.shorthand, *args[first:]]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of the list, then the members."""
        self.commands["list"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(
    "data",
    cls=DataGroup,
    epilog=epilog(
        "fltk data",
        "fltk data --data-dir ~/data --format json",
        "fltk data add wine wine.csv --label kind --client cellar",
    ),
)
def data() -> None:
    """List the data sets and which of them are available, or give data of your own a name.

    Data sets are read from, and with --download saved to, the folder of --data-dir, else of FLTK_DATA, else
    ~/.cache/fltk. The last column says how to get a missing one.
    """


@data.command("list", epilog=epilog("fltk data list", "fltk data list --format json"))
@output_options
@click.pass_obj
def list_(settings: Settings, format: str) -> None:
    """List the data sets, those with a name of yours last."""
    from fltk.data.sources import describe, folder

    where = str(folder(settings.data_dir))
    rows = [asdict(info) for info in describe(settings.data_dir)]
    emit([*rows, *_own()], COLUMNS, format, extra={"folder": where})


def _own() -> list[dict[str, Any]]:
    """One row for each name that `fltk data add` gave; the files are not read."""
    from fltk.ledger import data_names

    rows = []
    for name, entry in sorted(data_names().items()):
        columns = [f"--{key} {entry[key]}" for key in ("label", "client", "group") if entry.get(key)]
        row = {"name": name, "present": Path(entry["path"]).exists(), "get": " ".join([entry["path"], *columns])}
        rows.append({**dict.fromkeys(("samples", "shape", "classes", "natural", "licence")), **row})
    return rows


@data.command("add", epilog=epilog("fltk data add wine wine.csv --label kind", "fltk data add scans ~/scans/"))
@click.argument("name")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--label", default="", cls=Option, show_default=False, help="table: the column of class labels")
@click.option("--client", default="", cls=Option, show_default=False, help="table: the column of natural clients")
@click.option(
    "--group", default="", cls=Option, show_default=False, help="table: the column of known groups of clients"
)
@output_options
def add(name: str, path: Path, label: str, client: str, group: str, format: str) -> None:
    """Give a table (csv, parquet, npz, safetensors) or a folder of images a NAME that --dataset takes.

    The data stay where they are. They are read once, so that what is wrong with them is told now.
    """
    from fltk.data.own_sets import add as add_name

    made = add_name(name, path, label=label, client=client, group=group)
    row = {
        "name": name,
        "path": str(path.resolve()),
        "samples": len(made),
        "shape": made.shape,
        "classes": made.n_classes,
        "natural": None if made.owner is None else f"{len(made.owner_names)} {made.owner_kind}s",
        "fingerprint": made.fingerprint[:12],
    }
    emit([row], ADDED, format)
