"""`fltk export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.filters import filter_options, select_runs
from fltk.cli.options import Names
from fltk.cli.terminal import echo
from fltk.errors import UsageError

if TYPE_CHECKING:
    from fltk.registry import RunRow, Store

WHAT = ("runs", "metrics", "client-metrics", "maps")


@command(
    "export",
    examples=(
        "fltk export --what runs -o runs.csv",
        "fltk export run1 run2 --what client-metrics -o clients.parquet",
        "fltk export --method attn --what maps -o maps.npz",
    ),
)
@filter_options(kind="all", status="all")
@click.option(
    "--what",
    type=Names(WHAT),
    default="metrics",
    cls=Option,
    section="Output",
    help="one row a run with its settings, a number of a round or evaluation, a client's number, a weight of a map",
)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    cls=Option,
    section="Output",
    help="file to write: .csv, .tsv, .json, .jsonl or .parquet; maps also .npz",
)
@click.pass_obj
def export(settings: Settings, /, run: tuple[str, ...], what: str, output: Path, **filters: Any) -> None:
    """Write what the registry holds to a file.

    Long tables with one value in a row, its columns named as in the views that `fltk sql` reads. All runs, the named
    ones or those that fulfil the filters. An npz file has one array (slices, clients, clients) for each run and round.
    """
    from fltk.export.tables import check_table_path
    from fltk.registry import Store

    suffix = check_table_path(output, also=(".npz",))
    if suffix == ".npz" and what != "maps":
        raise UsageError(f"--output: .npz holds maps, and --what is {what}; choose .csv, .jsonl or .parquet")
    with Store(settings.db, readonly=True) as store:
        runs = select_runs(store, run, filters, "export")
        count = _write(store, runs, what, output)
    echo(output)
    settings.say(f"{count:,} {'maps' if suffix == '.npz' else 'rows'} of {len(runs):,} runs", level=1)


def _write(store: Store, runs: list[RunRow], what: str, output: Path) -> int:
    """The number of rows, or of maps in an npz file."""
    from fltk.export import tidy
    from fltk.export.tables import write_table

    if output.suffix.lower() == ".npz":
        return tidy.write_maps(store, runs, output)
    if what == "runs":
        return write_table(tidy.runs_table(runs), output)
    make = {"metrics": tidy.metrics_table, "client-metrics": tidy.clients_table, "maps": tidy.maps_table}[what]
    return write_table(make(store, runs), output)
