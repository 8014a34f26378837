"""`fltk report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.filters import best_on_option
from fltk.cli.terminal import echo
from fltk.errors import UsageError, unknown

if TYPE_CHECKING:
    from fltk.registry import RunRow, Store


@command(
    "report",
    examples=(
        "fltk report run42 -o run42.html",
        "fltk report run1 run2 run3 -o page.html",
        "fltk report --sweep fmnist --best-on val -o fmnist.html",
    ),
)
@click.argument("run", nargs=-1)
@click.option(
    "--sweep", cls=Option, section="Filter", metavar="NAME", help="all runs of this sweep, by its file's name"
)
@best_on_option
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    cls=Option,
    section="Output",
    help="file to write: .html",
)
@click.pass_obj
def report(settings: Settings, /, run: tuple[str, ...], sweep: str | None, best_on: str | None, output: Path) -> None:
    """Write an HTML report about runs.

    A single HTML file that needs no network: accuracies over seeds with the worst decile, curves, clients, maps,
    partition, newcomers of these runs, settings, environment, state of the code, and the commands that make the runs
    again. It can be read on a phone. Damaged runs are named and left out.
    """
    from fltk.files import check_path, replacing
    from fltk.registry import Store
    from fltk.report.page import report as written

    check_path(output, (".html", ".htm"))
    if bool(run) == bool(sweep):
        raise UsageError("name runs or a sweep with --sweep, " + ("not both" if run else "for example latest"))
    with Store(settings.db, readonly=True) as store:
        if sweep:
            page = written(store, _of_sweep(store, sweep), f"Sweep {sweep}", best_on=best_on)
        else:
            chosen, damaged = store.find_readable(run)
            page = written(store, chosen, best_on=best_on, damaged=damaged)
    with replacing(output) as file:
        file.write(page.encode())
    echo(output)


def _of_sweep(store: Store, name: str) -> list[RunRow]:
    """The runs that carry the sweep's tag; UsageError with near names where there are none."""
    found = store.runs(tag=f"sweep={name}")
    if not found:
        known = {run.tags["sweep"] for run in store.runs(tag="sweep")}
        if not known:
            raise UsageError(f"--sweep: {store.shown} has no sweep; fltk sweep runs one")
        raise unknown("sweep", name, known, "--sweep")
    return found
