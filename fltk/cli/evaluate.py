"""`fltk evaluate`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.options import Names
from fltk.cli.output import Column, emit, output_options
from fltk.cli.scored import measures_of, scored
from fltk.cli.train import place_options, trust_option
from fltk.errors import UsageError
from fltk.names import DEPLOY_PRIORS, DEPLOY_WEIGHTS, DEPLOYMENTS

if TYPE_CHECKING:
    from fltk.evaluation.deploy import Deployment
    from fltk.evaluation.evaluate import Evaluation
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
    Column("gain_vs_local", "gain over local", 4),
    Column("harmed", "worse than local", 2),
    Column("val_mean", "validation", 4),
]
FEW = 5  # so many candidates are all printed
UNDECIDED = "there are no validation data, so nothing was selected"


@command(
    "evaluate",
    examples=(
        "fltk evaluate latest",
        "fltk evaluate run1 run2 --deploy ft1 --format latex",
        "fltk evaluate run1 run2 --deploy-prior auto --deploy-w auto",
    ),
)
@click.argument("run", nargs=-1, required=True)
@click.option(
    "--deploy",
    type=Names(DEPLOYMENTS),
    default="vote",
    cls=Option,
    section="Evaluation",
    help="how clients fine-tune their model before use, selected on validation data; all candidates are stored",
)
@click.option(
    "--deploy-prior",
    type=Names(DEPLOY_PRIORS),
    default="0",
    cls=Option,
    section="Evaluation",
    help="add each client's label prior to the logits, also during fine-tuning; auto tries both",
)
@click.option(
    "--deploy-w",
    type=Names(DEPLOY_WEIGHTS),
    default="1",
    cls=Option,
    section="Evaluation",
    help="interpolate: this weight on the fine-tuned model, the rest on the model before; auto tries all, without "
    "further training",
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
@click.option(
    "--full",
    is_flag=True,
    cls=Option,
    section="Evaluation",
    help="print every candidate, also when there are many",
)
@place_options
@trust_option
@output_options
@click.pass_obj
def evaluate(
    settings: Settings,
    /,
    run: tuple[str, ...],
    deploy: str,
    deploy_prior: str,
    deploy_w: str,
    round_: int | None,
    brief: bool,
    full: bool,
    format: str,
    **params: Any,
) -> None:
    """Evaluate a run on every client, before and after local fine-tuning.

    Rows: `deployed` (after the deployment step), `personal` (each client's own model as the method leaves it), `global`
    (the one server model, where there is one), and the deployment candidates: `mixed` (before local steps), `ft1`,
    `ft5`, `head10` (after them), with the label prior (`-prior`) or drawn back to the model before the steps (`-w0.5`)
    where that is asked for. `worse than local` is the share of clients that local training alone serves better.
    Everything is stored before it is printed. Runs of local and fedavg-ft on the same partition are listed as well,
    where the registry has them evaluated with the same deployment. Rows of an attacked run are of its benign clients,
    without such references.
    """
    from fltk.evaluation.deploy import Deployment
    from fltk.evaluation.stored import evaluate_run
    from fltk.experiment import Place
    from fltk.registry import Store

    if brief and full:
        raise UsageError("--brief and --full contradict each other; leave one of them out")
    deployment = Deployment(deploy, deploy_prior, deploy_w)
    kept = _kept(deployment, brief, full)
    place = Place(
        settings.data_dir,
        params["download"],
        params["engine"],
        params["device"],
        trust_stored_code=params["trust_stored_code"],
    )
    rows: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}
    with Store(settings.db) as store:
        runs = [store.find_run(ref, "train") for ref in run]
        for found in runs:
            done = evaluate_run(store, found, place, deployment, round_)
            if done.undecided:
                settings.say(f"{found.label}: {UNDECIDED}; train with --val-share above 0")
            rows += _labelled(found, [r for r in done.rows if r["model"] in kept])
            notes |= _notes(found, done)
            rows += _reference_rows(store, found, done, {r["run"] for r in rows})
        if not kept.issuperset(shown := [c.name for c in deployment.candidates()]) and not brief:
            notes["candidates"] = f"{len(shown)} stored; --full prints them all"
    measures = measures_of(runs)
    if len(measures) > 1:
        raise UsageError("these runs are scored by different measures: evaluate them one by one")
    emit(rows, scored(COLUMNS, measures, ("val_mean",)), format, extra=notes if format in ("table", "json") else None)


def _kept(deployment: Deployment, brief: bool, full: bool) -> set[str]:
    """The models whose rows are printed; of many candidates those without prior and interpolation."""
    if brief:
        return {"deployed", "personal"}
    found = deployment.candidates()
    names = {c.name for c in found if full or len(found) <= FEW or c.name == c.kind}
    return {"deployed", "personal", "global", *names}


def _labelled(run: RunRow, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an evaluation with the run they are of."""
    return [{"run": f"run{run.id}", "method": run.method, "seed": run.seed, **row} for row in rows]


def _notes(run: RunRow, done: Evaluation) -> dict[str, Any]:
    """Below the table: what was deployed, and the three rounds one may quote, each by its name."""
    chosen = ", ".join(f"{c} ({n} clients)" for c, n in done.chosen.items())
    by = UNDECIDED if done.undecided else done.deploy.mode
    notes = {f"run{run.id} deployed": f"{by}: {chosen}, after round {done.round}"}
    if done.malicious:
        n = len(done.clients[f"personal_test_{done.measure.key}"])
        left = f"{n - len(done.malicious)} of {n}; malicious, and in no row: {', '.join(map(str, done.malicious))}"
        notes[f"run{run.id} benign clients"] = left
    for name, found in done.rounds.items():
        value = found[f"{done.measure.key}_mean"]
        told = "unknown" if math.isnan(value) else f"{value:.4f}"
        text = f"round {found['round']}, personal {done.measure.title} {told}"
        notes[f"run{run.id} {name.replace('_', ' ')}"] = text
    return notes


def _reference_rows(store: Store, run: RunRow, done: Evaluation, shown: set[str]) -> list[dict[str, Any]]:
    """The last stored evaluation, with the same deployment, of local and fedavg-ft on the same partition.

    Beside an attacked run there are none: their rows are of all clients, those of the run of the benign ones.
    """
    from fltk.evaluation.evaluate import references

    rows: list[dict[str, Any]] = []
    for other in () if done.malicious else references(store, run):
        stored = [e.summary for e in store.evaluations(other.id) if done.deploy.made(e.summary)]
        if stored and f"run{other.id}" not in shown:
            rows += _labelled(other, [r for r in stored[-1]["rows"] if r["model"] in ("deployed", "personal")])
    return rows
