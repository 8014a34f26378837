"""`fltk watch`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from fltk.cli.command import Finite, Option, command
from fltk.cli.context import Settings
from fltk.cli.output import emit, output_options
from fltk.cli.progress import RunProgress
from fltk.cli.sweep import emit_cells
from fltk.cli.train import row_of, shown, shown_columns
from fltk.cli.watch_sweep import follow_sweep
from fltk.errors import UsageError

if TYPE_CHECKING:
    from fltk.registry import RunRow, Store


@command("watch", examples=("fltk watch", "fltk watch run42 --every 10", "fltk watch --sweep grid.toml"))
@click.argument("run", default="latest")
@click.option(
    "--sweep",
    cls=Option,
    section="Filter",
    metavar="FILE|NAME",
    help="follow a sweep instead: all cells of its file, or the runs that have begun under its name",
)
@click.option(
    "--every",
    type=Finite(min=0.05, max=86_400),
    default=1.0,
    cls=Option,
    section="Output",
    help="seconds between two readings of the registry",
)
@output_options
@click.pass_obj
def watch(settings: Settings, /, run: str, sweep: str | None, every: float, format: str) -> None:
    """Follow a run in progress.

    Only reads the registry: the run may belong to another process, and Ctrl-C ends the watching, not the run. When the
    run ends or is stopped, or its process is gone, its result is printed. Without RUN it is the latest training run. A
    sweep is followed until all its cells have ended, or none has been running for a minute.
    """
    from fltk.registry import Store

    if sweep is not None:
        if run != "latest":
            raise UsageError("--sweep follows a whole sweep; leave out the RUN, or --sweep")
        with Store(settings.db, readonly=True) as store:
            emit_cells(follow_sweep(store, settings, sweep, every), format)
        return
    with Store(settings.db, readonly=True) as store:
        found = _follow(store, store.find_run(run, "train"), settings, every)
    if found.status == "stale":
        settings.say(f"{found.label}: its process is gone; continue it with fltk resume run{found.id}")
    elif found.message:
        settings.say(f"{found.label} {found.status}: {found.message}")
    emit([row_of(found)], shown_columns([found]), format)


def _follow(store: Store, run: RunRow, settings: Settings, every: float) -> RunRow:
    """The run as it is when no process works on it any more."""
    with RunProgress(settings, f"{run.label} ({run.method})") as bar:
        bar.start(run.config["train"]["rounds"], run.rounds_done)
        while run.status == "running":
            time.sleep(every)
            before, run = run.rounds_done, store.find_run(run.id)
            if run.rounds_done > before:
                bar.update(run.rounds_done, shown(run.last))
    return run
