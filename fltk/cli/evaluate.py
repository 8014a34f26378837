"""`fltk evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.options import Names
from fltk.cli.output import Column, emit, output_options
from fltk.cli.train import place_options
from fltk.names import DEPLOYMENTS

if TYPE_CHECKING:
    from fltk.evaluation.evaluate import Evaluation
    from fltk.experiment import Place
    from fltk.registry import RunRow, Store

COLUMNS = [
    Column("run"),
    Column("method"),
    Column("seed"),
    Column("model"),
    Column("acc_mean", "mean", 4, "max"),
    Column("acc_weighted", "weighted", 4, "max"),
    Column("acc_std", "std", 4, "min"),
    Column("acc_worst10", "worst 10%", 4, "max"),
    Column("acc_best10", "best 10%", 4),
    Column("jain", "Jain", 4, "max"),
    Column("gain_vs_local", "vs local", 4),
    Column("harmed", "harmed", 2),
    Column("val_mean", "validation", 4),
]


@command("evaluate", examples=("fltk evaluate latest", "fltk evaluate run1 run2 --deploy ft1 --format latex"))
@click.argument("run", nargs=-1, required=True)
@click.option(
    "--deploy",
    type=Names(DEPLOYMENTS),
    default="vote",
    cls=Option,
    section="Evaluation",
    help="what clients do with their model before use, decided on validation data; all candidates are stored",
)
@click.option(
    "--round",
    "round_",
    type=int,
    cls=Option,
    section="Evaluation",
    help="a stored checkpoint (default: the last)",
)
@click.option(
    "--brief",
    is_flag=True,
    cls=Option,
    section="Evaluation",
    help="print the deployed and the personal model only",
)
@place_options
@output_options
@click.pass_obj
def evaluate(
    settings: Settings,
    /,
    run: tuple[str, ...],
    deploy: str,
    round_: int | None,
    brief: bool,
    format: str,
    **params: Any,
) -> None:
    """Score a run on every client.

    Rows: `deployed` (after the deployment step), `personal` (each client's own model as the method leaves it), `global`
    (the one server model, where there is one), and every deployment candidate: `mixed` (before local steps), `ft1`,
    `ft5`, `head10` (after them). Everything is stored before it is printed. Runs of local and fedavg-ft on the same
    partition stand beside it when the registry has them evaluated.
    """
    from fltk.experiment import Place
    from fltk.registry import Store

    place = Place(settings.data_dir, params["download"], params["engine"], params["device"])
    rows: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}
    with Store(settings.db) as store:
        for found in [store.find_run(ref) for ref in run]:
            done = _evaluate(store, found, place, deploy, round_)
            shown = [r for r in done.rows if not brief or r["model"] in ("deployed", "personal")]
            rows += [{"run": f"run{found.id}", "method": found.method, "seed": found.seed, **r} for r in shown]
            notes |= _notes(found, done)
            rows += _reference_rows(store, found, {r["run"] for r in rows})
    emit(rows, COLUMNS, format, extra=notes if format in ("table", "json") else None)


def _evaluate(store: Store, run: RunRow, place: Place, deploy: str, round: int | None) -> Evaluation:
    """Score one run and store what was found."""
    from dataclasses import replace

    from fltk import engine as engines
    from fltk import experiment
    from fltk.evaluation import evaluate as evaluation

    config, prepared = experiment.restore(run, store, place)
    job = experiment.job_of(config, prepared.federation, place.device)
    number, state = experiment.checkpoint(run, store, round)
    engine = engines.make(place.engine, job)
    try:
        done = evaluation.evaluate(job, job.task(), engine, number, state, deploy)
    finally:
        engine.close()
    done = replace(done, rounds=evaluation.round_choices(store, run))
    done = replace(done, rows=evaluation.against_local(store, run, done))
    store.save_evaluation(run.id, number, done.summary(), done.clients)
    return done


def _notes(run: RunRow, done: Evaluation) -> dict[str, Any]:
    """Below the table: what was deployed, and the three rounds one may quote, each by its name."""
    chosen = ", ".join(f"{c} ({n} clients)" for c, n in done.chosen.items())
    notes = {f"run{run.id} deployed": f"{done.deploy}: {chosen}, after round {done.round}"}
    for name, found in done.rounds.items():
        text = f"round {found['round']}, personal accuracy {found['acc_mean']:.4f}"
        notes[f"run{run.id} {name.replace('_', ' ')}"] = text
    return notes


def _reference_rows(store: Store, run: RunRow, shown: set[str]) -> list[dict[str, Any]]:
    """The last stored evaluation of local and fedavg-ft on the same partition."""
    from fltk.evaluation.evaluate import references

    rows = []
    for other in references(store, run):
        stored = store.evaluations(other.id)
        if stored and f"run{other.id}" not in shown:
            kept = [r for r in stored[-1].summary["rows"] if r["model"] in ("deployed", "personal")]
            rows += [{"run": f"run{other.id}", "method": other.method, "seed": other.seed, **r} for r in kept]
    return rows
