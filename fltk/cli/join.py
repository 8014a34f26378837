"""`fltk join-new-client`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.options import SOURCES, config_from, options_from
from fltk.cli.output import Column, emit, output_options
from fltk.cli.progress import RunProgress
from fltk.cli.scored import measures_of, scored
from fltk.cli.terminal import echo
from fltk.cli.train import place_options, shown, trust_option
from fltk.config import JoinConfig
from fltk.errors import UsageError
from fltk.objectives import Measure, headline

if TYPE_CHECKING:
    from fltk.registry import RunRow, Store

COLUMNS = [
    Column("run"),
    Column("method"),
    Column("shots"),
    Column("step"),
    Column("acc_mean", "mean", 4, "max"),
    Column("acc_std", "std", 4, "min"),
    Column("acc_worst10", "worst 10%", 4, "max"),
    Column("gain_vs_local", "gain over scratch", 4),
    Column("harmed", "worse than scratch", 2),
    Column("participation_gap", "participation gap", 4),
    Column("kept", "fine-tuning accepted"),
    Column("bytes_down", "bytes down", 0),
    Column("bytes_up", "bytes up", 0),
]
EACH = [
    Column("shots"),
    Column("newcomer"),
    Column("samples"),
    Column("arrival", "arrival", 4),
    Column("joined", "joined", 4),
    Column("tuned", "after fine-tuning", 4),
    Column("kept", "accepted"),
    Column("scratch", "from scratch", 4),
    Column("fedavg_ft", "fedavg-ft", 4),
    Column("top_client", "top client"),
    Column("top_weight", "weight of top client", 3),
]
STEPS = {"tuned": "fine-tuned", "scratch": "from scratch", "fedavg_ft": "fedavg-ft"}  # in tables; json keeps the keys


@command(
    "join-new-client",
    examples=(
        "fltk join-new-client --finetune-head",
        "fltk join-new-client run42 --shots 1,5,20,all --finetune all",
        "fltk join-new-client run42 --at-round 10",
    ),
)
@click.argument("run", default="latest")
@click.option(
    "--finetune-head",
    is_flag=True,
    cls=Option,
    section="Joining",
    help="the same as --finetune head",
)
@options_from(JoinConfig, section="Joining")
@click.option(
    "--newcomer",
    "newcomers",
    type=int,
    multiple=True,
    metavar="ID",
    cls=Option,
    section="Joining",
    help="only this newcomer, repeatable",
)
@click.option("--name", cls=Option, section="Joining", help="a unique name for the run that is stored")
@place_options
@trust_option
@output_options
@click.pass_context
def join_new_client(ctx: click.Context, /, run: str, format: str, **params: Any) -> None:
    """Evaluate new (unseen) clients joining a trained federation.

    The newcomers of the run's partition join it by its method's own rule, after training or, with --at-round, during
    it. Steps: `arrival` (the downloaded model, before any local data are used), `joined` (after the method's joining
    step), `tuned` (after fine-tuning; the fine-tuned model is accepted only where the newcomer's validation loss fell);
    compared with `scratch` (local training from the initial model, same data and at least as many steps) and
    `fedavg_ft` (a FedAvg run of the registry on the same partition, seed and training, fine-tuned in the same way).
    Everything is stored before it is printed, as a run of its own; the run that is joined does not change. Without RUN
    it is the latest training run.
    """
    from fltk.evaluation.newcomers import join_run
    from fltk.experiment import Place
    from fltk.registry import Store

    settings: Settings = ctx.obj
    asked = _asked(ctx, params)
    place = Place(
        settings.data_dir,
        params["download"],
        params["engine"],
        params["device"],
        trust_stored_code=params["trust_stored_code"],
    )
    with Store(settings.db) as store:
        store.require_writable()
        found = store.find_run(run, "train")
        with RunProgress(settings, found.method) as bar:
            bar.start(found.config["train"]["rounds"], asked.at_round)
            number = join_run(
                found,
                store,
                place,
                asked,
                params["newcomers"],
                name=params["name"],
                origin=_origins(ctx),
                started=lambda child: settings.say(f"run{child}: newcomers join {found.label} ({found.method})"),
                on_round=lambda done: bar.update(done.round, shown(done.scalars)),
            )
        _print(store, store.find_run(number), format)


def _asked(ctx: click.Context, params: dict[str, Any]) -> JoinConfig:
    """The options as one object; those that contradict each other are refused."""
    if params["finetune_head"]:
        if _given(ctx, "finetune") and params["finetune"] != "head":
            raise UsageError(f"--finetune-head and --finetune {params['finetune']} contradict each other")
        params["finetune"] = "head"
    if params["newcomers"] and _given(ctx, "share"):
        raise UsageError("--newcomer and --share contradict each other; leave one of them out")
    asked: JoinConfig = config_from(JoinConfig, params)
    return asked


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def _origins(ctx: click.Context) -> dict[str, str]:
    """Where each setting of joining came from, by its key in the stored configuration."""
    sources = {name: ctx.get_parameter_source(name) for name in ("finetune", "epochs", "lr", "shots")}
    return {f"join.{name}": SOURCES[source] for name, source in sources.items() if source is not None}


def _print(store: Store, run: RunRow, format: str) -> None:
    """Read back what was stored, and print it."""
    stored = store.evaluations(run.id)[-1].summary
    rows = [{"run": f"run{run.id}", "method": run.method, **row} for row in stored["rows"]]
    columns = scored(COLUMNS, measures_of([run]))
    if format != "table":
        more = {key: stored[key] for key in ("newcomers", "participants", "reference", "notes")}
        more |= {"incumbents": stored["incumbents"]} if "incumbents" in stored else {}
        emit(rows, columns, format, extra=more if format == "json" else None)
        return
    emit([{**row, "step": STEPS.get(row["step"], row["step"])} for row in rows], columns, extra=_notes(run, stored))
    echo()
    each = [column for column in EACH if any(row.get(column.key) is not None for row in stored["newcomers"])]
    emit(stored["newcomers"], each, title="Each newcomer")


def _notes(run: RunRow, stored: dict[str, Any]) -> dict[str, str]:
    """Below the table."""
    join, count = run.config["join"], len(run.config["join"]["newcomers"])
    who = "1 newcomer joins" if count == 1 else f"{count} newcomers join"
    notes = {
        f"run{run.id}": f"{who} run{run.parent} after round {join['round']}",
        f"{headline(run.last).title} of the clients that trained": f"{stored['participants']:.4f}",
    }
    kept = [row for row in stored["rows"] if row["step"] == "tuned"]
    if kept:
        several = len(kept) > 1
        said = [f"{row['kept']} of {count}" + (f" with --shots {row['shots']}" if several else "") for row in kept]
        notes["fine-tuned model accepted"] = ", ".join(said)
    if stored["reference"] is not None:
        notes["fedavg_ft"] = f"the model of run{stored['reference']}"
    if "incumbents" in stored:
        notes["clients that were there before"] = _incumbents(stored["incumbents"], headline(run.last))
    return notes | {f"note {k}": text for k, text in enumerate(stored["notes"], start=1)}


def _incumbents(found: dict[str, Any], measure: Measure) -> str:
    value = found[f"{measure.key}_mean"]
    text = f"{value:.4f} at the end"
    if found["without"] is None:
        return text
    return (
        f"{text}, {found['without']:.4f} without newcomers ({found['gain']:+.4f}, {found['harmed']:.0%} of them worse)"
    )
