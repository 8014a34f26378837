"""`fltk attack`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fltk import catalogue
from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.options import config_option, method_params, options_from, parse_set, set_option, tell_idle
from fltk.cli.output import Column, emit, output_options
from fltk.cli.scored import scored
from fltk.cli.sweep_board import Board, outcome_line
from fltk.cli.train import keep_option, place_options, trust_option
from fltk.config import SEEDS, AttackConfig, DefenceConfig, PartitionConfig, RunConfig, TrainConfig
from fltk.errors import FltkError, UsageError, unknown
from fltk.fields import whole
from fltk.names import canonical
from fltk.objectives import ACCURACY, MEASURES, Measure

if TYPE_CHECKING:
    from fltk.registry import RunRow, Store
    from fltk.sweep.assault import Assault, Cells, Outcome
    from fltk.sweep.state import CellState

NONE, ALL = "none", "all"
COLUMNS = [
    Column("run"),
    Column("method"),
    Column("attack"),
    Column("defence"),
    Column("seed"),
    Column("clean", "unattacked acc", 4),
    Column("acc", "benign acc", 4, "max"),
    Column("drop", "drop", 4, "min"),
    Column("worst10", "worst 10%", 4, "max"),
    Column("global_acc", "global acc", 4, "max"),
    Column("asr", "backdoor success", 3, "min"),
    Column("attackers_acc", "attackers' acc", 4),
    Column("mal_weight_ratio", "attacker weight", 3, "min"),
    Column("rejected_tpr", "attacker recall (TPR)", 2),
    Column("rejected_fpr", "benign rejected (FPR)", 2),
]
TAIL = [Column("state"), Column("message")]
SPARSE = (
    "global_acc",
    "asr",
    "rejected_tpr",
    "rejected_fpr",
    "message",
)  # columns that are shown where something is in


@command(
    "attack",
    examples=(
        "fltk attack --kind random-model --malicious 0.2",
        "fltk attack --run run42 --kind badnets --set-attack target=3 --defence trimmed-mean",
        "fltk attack --grid --kind alie,ipm --method fedavg,ditto,attn --defence none,multi-krum --seed 0,1,2",
    ),
)
@click.option(
    "--kind", required=True, cls=Option, section="Attack", help="attack, or several with --grid: fltk attacks"
)
@options_from(AttackConfig, section="Attack", leave_out=["kind"])
@click.option(
    "--set-attack",
    metavar="KEY=VALUE",
    multiple=True,
    cls=Option,
    section="Attack",
    help="a parameter of the attack, repeatable (fltk attacks NAME lists them)",
)
@click.option(
    "--defence", default=NONE, cls=Option, section="Defence", help="defence, or several with --grid: fltk defences"
)
@options_from(DefenceConfig, section="Defence", leave_out=["defence"])
@click.option(
    "--set-defence",
    metavar="KEY=VALUE",
    multiple=True,
    cls=Option,
    section="Defence",
    help="a parameter of the defence, repeatable (fltk defences NAME lists them)",
)
@click.option(
    "--grid",
    is_flag=True,
    cls=Option,
    section="Grid",
    help="attacks x methods x defences x seeds, from lists separated by commas; `none` and `all` are allowed in lists",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1, max=1024),
    default=1,
    cls=Option,
    section="Grid",
    help="number of runs trained in parallel",
)
@click.option(
    "--dry-run", is_flag=True, cls=Option, section="Grid", help="list the runs and their states, and train none"
)
@click.option(
    "--run",
    "base",
    default="latest",
    show_default=True,
    cls=Option,
    section="Run",
    help="run whose configuration is attacked",
)
@click.option(
    "--method", default="", cls=Option, section="Run", help="method, or several with --grid [default: the run's]"
)
@set_option
@click.option(
    "--seed", default="", cls=Option, section="Run", help="root seed, or several with --grid [default: the run's]"
)
@keep_option
@config_option
@options_from(PartitionConfig, section="Data and partition", default="the run's")
@options_from(TrainConfig, section="Training", default="the run's")
@place_options
@trust_option
@output_options
@click.pass_context
def attack(ctx: click.Context, /, format: str, **params: Any) -> None:
    """Train with malicious clients, compared with an unattacked baseline.

    The settings are those of the latest run, or of --run, except options given here; for an attacked run, the settings
    of its unattacked baseline; without a run in the registry, the defaults of `fltk train`. The unattacked baseline is
    the same run without attackers and defence; it is trained first where the registry lacks it. Finished runs are
    skipped, and stopped ones are resumed.

    In the table: `unattacked acc` is the baseline's accuracy on the benign clients, `drop` what the attack (and the
    defence) cost them, `backdoor success` the rate at which a trigger fools their own models, `attacker weight` the
    weight that benign clients give to attackers (1: as much as to any other client), `attacker recall (TPR)` and
    `benign rejected (FPR)` the shares of malicious and of benign clients that the defence rejected. The defence assumes
    the true share of attackers unless --defence-fraction is given. With attn, trust is on unless --set trust=off.
    """
    from fltk.experiment import Place
    from fltk.registry import Store
    from fltk.sweep.assault import Outcome, cells, run, standing

    settings: Settings = ctx.obj
    place = Place(
        settings.data_dir,
        params["download"],
        params["engine"],
        params["device"],
        params["keep_checkpoints"],
        trust_stored_code=params["trust_stored_code"],
    )
    found = cells(_asked(ctx, settings, params), place)
    if not found.attacked and not found.refused:
        raise UsageError("--kind none without --defence is the unattacked baseline: name an attack or a defence")
    if not found.attacked:
        (method, defence), why = next(iter(found.refused.items()))
        raise UsageError(f"--defence {defence} does not go with {method}: {why}")
    outcome = Outcome({}, {})
    if not params["dry_run"]:
        with Store(settings.db, create=True) as store:
            store.require_writable()
        with Board(settings, "attack") as board:
            outcome = run(found, settings.db, place, jobs=params["jobs"], tell=board.hear, announce=board.add)
        if outcome.failed and not params["grid"]:
            raise FltkError(next(iter(outcome.failed.values())))
    with Store(settings.db, create=not params["dry_run"], readonly=params["dry_run"]) as store:
        rows = _rows(found, standing(found, store), outcome, store)
    measured = scored(COLUMNS, [_measure(rows)], ("clean", "worst10"))
    sparse = {*SPARSE, *(f"global_{key}" for key in MEASURES)}
    shown = [c for c in [*measured, *TAIL] if c.key not in sparse or any(row.get(c.key) is not None for row in rows)]
    emit(rows, shown, format)
    if outcome.failed:
        raise FltkError(_failures(found, outcome))


def _measure(rows: Sequence[Mapping[str, Any]]) -> Measure:
    """The headline measure of the attacked runs."""
    from fltk.data.sources import unit_of

    keys = {str(row["measure"]) for row in rows if row.get("measure")}
    measure = MEASURES[keys.pop()] if len(keys) == 1 else ACCURACY
    if measure.fraction:
        return measure
    return replace(measure, unit=next((unit_of(row["dataset"]) for row in rows if row.get("dataset")), measure.unit))


def _failures(found: Cells, outcome: Outcome) -> str:
    """The error at the end of a grid in which runs failed."""
    names = {
        cell.digest: " ".join([cell.config.method, cell.config.attack.kind, cell.config.defence.defence]).strip()
        for cell in (*found.clean, *found.attacked)
    }
    return outcome_line(dict(outcome.failed), names, len(names))


def _asked(ctx: click.Context, settings: Settings, params: Mapping[str, Any]) -> Assault:
    """The options as one object."""
    from fltk.own_code import admit
    from fltk.registry.plugins import stored_code
    from fltk.sweep.assault import Assault

    run = _base(settings, params["base"], explicit=_given(ctx, "base"), readonly=params["dry_run"])
    if run is not None and params["trust_stored_code"]:
        admit(stored_code(run))
    base = RunConfig() if run is None else RunConfig.from_dict(run.config).clean
    if not _given(ctx, "partition_seed") and run is None:
        base = replace(base, partition=replace(base.partition, partition_seed=base.seed))
    base = replace(
        base,
        partition=_with(ctx, base.partition, params),
        train=_with(ctx, base.train, params),
    )
    tell_idle(ctx, base.partition)
    chosen = _names("method", params["method"] or base.method, params["grid"], none=False)
    own = {base.method: dict(base.params)} if run is not None else {}
    extra = method_params(ctx)
    return Assault(
        base=base,
        kinds=_names("attack", params["kind"], params["grid"]),
        methods=chosen,
        defences=_names("defence", params["defence"], params["grid"]),
        seeds=_seeds(params["seed"], base.seed, params["grid"]),
        params={name: {**own.get(name, {}), **extra} for name in chosen},
        attack=AttackConfig(**_fields_of(AttackConfig, params, but="kind")),
        attack_params=parse_set(params["set_attack"], "--set-attack"),
        defence=DefenceConfig(**_fields_of(DefenceConfig, params, but="defence")),
        defence_params=parse_set(params["set_defence"], "--set-defence"),
        given=frozenset({*_chosen_before(run), *_named(ctx, extra)}),
    )


def _fields_of(cls: type[Any], params: Mapping[str, Any], but: str) -> dict[str, Any]:
    """The options that are fields of a configuration, but for one."""
    found = {}
    for item in fields(cls):
        if item.name in params and item.name != but:
            found[item.name] = params[item.name]
    return found


def _chosen_before(run: RunRow | None) -> set[str]:
    """The settings that were named when the attacked run was made."""
    if run is None:
        return set()
    return {key for key, source in run.origin.items() if source != "default"}


def _base(settings: Settings, ref: str, *, explicit: bool, readonly: bool) -> RunRow | None:
    """The run whose configuration is attacked; None where no run was named and there is none.

    Unless `readonly`, a registry that cannot be written is refused at once: it would tell of it twice otherwise.
    """
    from fltk.registry import Store
    from fltk.registry.location import locate
    from fltk.registry.rows import TRAINED

    path = locate(settings.db).path
    if path is not None and not path.exists() and not explicit:
        return None
    with Store(settings.db, readonly=readonly) as store:
        if not readonly:
            store.require_writable()
        if not explicit and not any(row.kind in TRAINED for row in store.runs()):
            return None
        found = store.find_run(ref, "train")
        with suppress(UsageError):  # a twin that was removed: then the attacked run's own settings
            return found if found.parent is None else store.find_run(found.parent)
        return found


def _with(ctx: click.Context, config: Any, params: Mapping[str, Any]) -> Any:
    """A configuration with what was given on the command line or in a file."""
    given = {f.name: params[f.name] for f in fields(config) if _given(ctx, f.name)}
    return replace(config, **given)


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)


def _named(ctx: click.Context, own: Mapping[str, Any]) -> set[str]:
    """The settings that were given, keyed as they are stored."""
    tables = {"partition": PartitionConfig, "train": TrainConfig, "attack": AttackConfig, "defence": DefenceConfig}
    found = {f"{table}.{f.name}" for table, cls in tables.items() for f in fields(cls) if _given(ctx, f.name)}
    found |= {f"params.{key}" for key in own}
    for table, option in (("attack_params", "set_attack"), ("defence_params", "set_defence")):
        found |= {f"{table}.{key}" for key in parse_set(ctx.params[option])}
    return found | {key for key in ("method", "seed") if _given(ctx, key)}


def _names(kind: str, text: str, grid: bool, *, none: bool = True) -> tuple[str, ...]:
    """Names separated by commas; `all` is every one there is, and several need --grid."""
    option, known = catalogue.KINDS[kind].option, catalogue.names(kind)
    words = [word.strip() for word in text.split(",") if word.strip()]
    names: list[str] = []
    allowed = [*known, ALL, *([NONE] if none else [])]
    for written in words:
        word = canonical(written, allowed)
        if word == ALL:
            names += known
        elif word in allowed or catalogue.is_own(word):
            names.append(word)
        else:
            raise unknown(kind, word, [*known, *([NONE] if none else [])], option)
    if not names:
        raise UsageError(f"{option} needs a name")
    if len(set(names)) > 1 and not grid:
        raise UsageError(f"{option} {text}: several make a grid; add --grid")
    return tuple(dict.fromkeys(names))


def _seeds(text: str, default: int, grid: bool) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()] or [str(default)]
    seeds: dict[int, None] = {}
    for word in words:
        number = whole(word)
        if number is None or number >= SEEDS:
            raise UsageError(f"--seed takes whole numbers from 0 to 2^63 - 1, separated by commas, not {text!r}")
        seeds[number] = None
    if len(words) > 1 and not grid:
        raise UsageError(f"--seed {text}: several make a grid; add --grid")
    return tuple(seeds)


def _rows(found: Cells, standing: Sequence[CellState], outcome: Outcome, store: Store) -> list[dict[str, Any]]:
    """One row for each attacked cell, read back from the registry, and one for each that is refused."""
    from fltk.evaluation.robustness import summary

    attacked = {cell.digest for cell in found.attacked}
    rows = []
    for state in standing:
        if state.cell.digest not in attacked:
            continue
        config = state.cell.config
        row: dict[str, Any] = {
            "method": config.method,
            "attack": config.attack.kind or None,
            "defence": config.defence.defence or None,
            "seed": config.seed,
            "state": "refused" if state.cell.digest in outcome.refused else state.state,
            "message": outcome.refused.get(state.cell.digest) or outcome.failed.get(state.cell.digest),
        }
        if state.run is not None and state.state == "done":
            row = {**row, **summary(state.run, store)}
            row["run"], row["twin"] = f"run{state.run.id}", f"run{state.run.parent}"
        rows.append(row)
    for (method, defence), why in found.refused.items():
        rows.append({"method": method, "defence": defence, "state": "refused", "message": why})
    return rows
