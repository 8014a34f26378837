"""`fltk bench`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from fltk.bench.workloads import ALL, FEW, GROUPS, WORKLOADS, Workload, choose
from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.options import options_from
from fltk.cli.output import Column, emit, output_options
from fltk.cli.train import place_options
from fltk.config import TrainConfig

if TYPE_CHECKING:
    from fltk.bench.run import Report
    from fltk.bench.training import Asked

STEP = ("step",)  # the settings of training that change how fast a step is and not what it computes
OTHERS = [field.name for field in fields(TrainConfig) if field.name not in STEP]
COLUMNS = [
    Column("workload"),
    Column("clients"),
    Column("parameters"),
    Column("workers"),
    Column("seconds_min", "seconds", 4),
    Column("seconds_median", "median", 4),
    Column("against", "baseline"),
    Column("against_min", "baseline seconds", 4),
    Column("faster", "speed-up", 2),
    Column("slower", "slowdown", 2),
    Column("share", "share of peak", 3),
    Column("driver_mib", "driver MiB", 0),
    Column("worker_mib", "worker MiB", 0),
]


@command(
    "bench",
    examples=(
        "fltk bench --quick",
        "fltk bench --engine process:2 --format json > bench.json",
        "fltk bench --workload w1,methods --rounds 10 --no-store",
    ),
)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    cls=Option,
    section="Measurement",
    metavar="NAME",
    help="what to measure, repeatable or separated by commas: all, a group or a workload (see --list)",
)
@click.option(
    "--rounds",
    default=5,
    type=click.IntRange(min=1),
    cls=Option,
    section="Measurement",
    help="measured rounds or repetitions, after one for warm-up; more where rounds are short",
)
@click.option(
    "--quick", is_flag=True, cls=Option, section="Measurement", help="a minute: fewer workloads, a fifth of the clients"
)
@click.option("--list", "listed", is_flag=True, cls=Option, section="Measurement", help="list the workloads")
@click.option("--no-store", is_flag=True, cls=Option, section="Measurement", help="do not store the figures")
@options_from(TrainConfig, section="Work", leave_out=OTHERS)
@place_options
@output_options
@click.pass_obj
def bench(settings: Settings, /, workloads: tuple[str, ...], format: str, **params: Any) -> None:
    """Measure how fast fltk is on this machine.

    Rounds are measured alternately with a baseline: a plain PyTorch loop that does the same work on one thread, or
    another run of fltk. `share of peak` is the rate of floating-point operations in the fastest round, relative to
    float32 matrix products on one core times the number of workers. No other program should run meanwhile.
    The figures are stored as a run of kind bench.
    """
    chosen = choose(workloads, params["quick"])
    if params["listed"]:
        emit(_listing(), [Column("workload"), Column("about"), Column("groups")], format)
        return
    asked = _asked(settings, params)
    if params["no_store"]:
        _print(_played(chosen, asked, settings), None, format)
        return
    from fltk.bench.run import save, stored
    from fltk.registry import Store

    with Store(settings.db, create=True) as store:
        store.require_writable()
        number = save(store, _played(chosen, asked, settings), asked)
        _print(stored(store, number), number, format)


def _listing() -> list[dict[str, Any]]:
    """The workloads, and the names by which several are meant."""
    groups = {**GROUPS, "all": ALL, "--quick": FEW}
    return [
        {
            "workload": name,
            "about": workload.help,
            "groups": [group for group, names in groups.items() if name in names],
        }
        for name, workload in WORKLOADS.items()
    ]


def _asked(settings: Settings, params: dict[str, Any]) -> Asked:
    from fltk.bench.training import Asked
    from fltk.experiment import Place

    place = Place(settings.data_dir, params["download"], params["engine"], params["device"])
    return Asked(params["rounds"], place, {name: params[name] for name in STEP if name in params}, params["quick"])


def _played(chosen: Mapping[str, Workload], asked: Asked, settings: Settings) -> Report:
    from fltk.bench.run import play

    return play(chosen, asked, settings.say)


def _print(report: Report, run: int | None, format: str) -> None:
    """A table with the columns that some row fills, and below it what is needed to read it; in JSON everything."""
    if format == "json":
        about: dict[str, Any] = {"run": None if run is None else f"run{run}", "dataset": report.dataset}
        emit(report.rows, COLUMNS, format, extra={**about, "machine": report.machine, "notes": report.notes})
        return
    shown = [column for column in COLUMNS if any(row.get(column.key) is not None for row in report.rows)]
    on = report.machine
    below: dict[str, Any] = {} if run is None else {"stored as": f"run{run}"}
    below["machine"] = f"{on['cpu']}, {on['usable_cores']} cores, torch {on['torch']}, one thread a process"
    below["peak of one core"] = f"{on['gemm_flops'] / 1e9:.1f} GFLOP/s in float32 matrix products"
    below |= {f"note {k}": text for k, text in enumerate(report.notes, start=1)}
    emit(report.rows, shown if format == "table" else COLUMNS, format, extra=below)
