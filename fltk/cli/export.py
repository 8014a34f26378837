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

WEIGHTS = "weights"
WHAT = ("runs", "metrics", "client-metrics", "maps", WEIGHTS)


@command(
    "export",
    examples=(
        "fltk export --what runs -o runs.csv",
        "fltk export run1 run2 --what client-metrics -o clients.parquet",
        "fltk export --method attn --what maps -o maps.npz",
        "fltk export run42 --what weights --client 3 -o client3.safetensors",
    ),
)
@filter_options(kind="all", status="all")
@click.option(
    "--what",
    type=Names(WHAT),
    default="metrics",
    cls=Option,
    section="Output",
    help="one row a run with its settings, a number of a round or evaluation, a client's number, a weight of a map; "
    "or the weights of one model",
)
@click.option(
    "--client",
    type=click.IntRange(min=0),
    cls=Option,
    section="Weights",
    help="the personal model of this client [default: the global model]",
)
@click.option(
    "--round",
    "round_",
    type=click.IntRange(min=1),
    cls=Option,
    section="Weights",
    help="a stored checkpoint [default: the last]",
)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    cls=Option,
    section="Output",
    help="file to write: .csv, .tsv, .json, .jsonl or .parquet; maps also .npz; weights .safetensors",
)
@click.pass_obj
def export(
    settings: Settings,
    /,
    run: tuple[str, ...],
    what: str,
    client: int | None,
    round_: int | None,
    output: Path,
    **filters: Any,
) -> None:
    """Export results to a file (csv, tsv, json, jsonl, parquet, npz or safetensors).

    Long tables with one value in a row, its columns named as in the views that `fltk sql` reads. All runs, the named
    ones or those that fulfil the filters. An npz file has one array (slices, clients, clients) for each run and round.
    A safetensors file holds one model of one run, with the names of the torch module's state_dict: the global model, or
    with --client the model that this client uses.
    """
    from fltk.export.tables import check_table_path
    from fltk.registry import Store

    if what == WEIGHTS:
        _weights(settings, run, client, round_, output)
        return
    if client is not None or round_ is not None:
        given = "--round" if client is None else "--client"
        raise UsageError(f"{given} chooses a model: it goes with --what weights, and --what is {what}")
    suffix = check_table_path(output, also=(".npz",))
    if suffix == ".npz" and what != "maps":
        raise UsageError(f"--output: .npz holds maps, and --what is {what}; choose .csv, .jsonl or .parquet")
    with Store(settings.db, readonly=True) as store:
        runs = select_runs(store, run, filters, "export")
        count = _write(store, runs, what, output)
    echo(output)
    settings.say(f"{count:,} {'maps' if suffix == '.npz' else 'rows'} of {len(runs):,} runs", level=1)


def _weights(settings: Settings, run: tuple[str, ...], client: int | None, round_: int | None, output: Path) -> None:
    """One model of one run as a file of tensors."""
    from fltk.evaluation.weights import export_weights
    from fltk.experiment import Place
    from fltk.registry import Store

    if len(run) != 1:
        raise UsageError("--what weights writes one model: name one run")
    with Store(settings.db, readonly=True) as store:
        found = store.find_run(run[0], "train")
        made = export_weights(store, found, output, Place(settings.data_dir), client=client, round=round_)
    echo(output)
    whose = "global model" if client is None else f"model of client {client}"
    settings.say(f"{whose} of {found.label} ({made.method}) after round {made.round}", level=1)


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
