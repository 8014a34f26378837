"""`fltk sweep`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options
from fltk.cli.runs import short_names
from fltk.cli.scored import measures_of, scored
from fltk.cli.sweep_board import Board, outcome_line
from fltk.cli.sweep_trials import emit_trials, trial_line
from fltk.cli.train import clean_option, keep_option, place_options, refuse_unclean
from fltk.errors import FltkError, UsageError
from fltk.objectives import Measure, headline

if TYPE_CHECKING:
    from fltk.evaluation.deploy import Deployment
    from fltk.experiment import Place
    from fltk.registry import Store
    from fltk.sweep.grid import Plan
    from fltk.sweep.run import Outcome
    from fltk.sweep.state import CellState, Setting

NEXT = {"done": "skip", "done (other code)": "skip", "running": "wait", "new": "start"}  # else: resume


@command(
    "sweep",
    examples=(
        "fltk sweep grid.toml --dry-run",
        "fltk sweep grid.toml --jobs 4",
        "fltk sweep grid.toml --status --best-on val",
    ),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--jobs",
    type=click.IntRange(min=1, max=1024),
    default=1,
    cls=Option,
    section="Sweep",
    help="number of cells run in parallel, each in a process of its own",
)
@click.option("--dry-run", is_flag=True, cls=Option, section="Sweep", help="list the cells and what would be run")
@click.option("--status", is_flag=True, cls=Option, section="Sweep", help="list the cells and their states")
@click.option(
    "--trials",
    is_flag=True,
    cls=Option,
    section="Sweep",
    help="list the trials of a search, the best so far and which setting mattered (fltk plot search draws them)",
)
@click.option(
    "--rerun-changed",
    is_flag=True,
    cls=Option,
    section="Sweep",
    help="also run cells again that were finished with another source of their method: done (other code)",
)
@click.option(
    "--best-on",
    type=click.Choice(["val"]),
    cls=Option,
    section="Sweep",
    help="print the best cell of each method instead, by the mean on validation data over the seeds",
)
@clean_option
@keep_option
@place_options
@output_options
@click.pass_obj
def sweep(
    settings: Settings,
    /,
    file: Path,
    jobs: int,
    dry_run: bool,
    status: bool,
    trials: bool,
    rerun_changed: bool,
    best_on: str | None,
    format: str,
    **params: Any,
) -> None:
    """Run a hyper-parameter grid or search over methods and seeds.

    The file is an experiment file, as for `fltk train --config`, in which any value may be a list, and lists multiply.
    A cell is a configuration: finished ones are skipped and unfinished ones are resumed, so the same command continues
    a stopped sweep. A cell that was started with other code is trained from the start. One that was finished with
    another source of its method stays, and is called done (other code), unless --rerun-changed is given. A cell that
    fails does not stop the others.

    \b
      method = ["local", "fedavg-ft", "ditto"]
      seed = [0, 1, 2]
      [partition]
      dataset = "fmnist"
      alpha = [0.1, 0.5]
      [train]
      rounds = 50
      lr = [0.02, 0.05]
    \b
      [for.ditto]                  # this method only: [train] and its hyper-parameters
      train.lr = 0.05
      params.lam = [0.1, 1.0]
    \b
      [[also]]                     # more cells, as above but for what is named here
      method = "scaffold"
      train.momentum = 0.0
    \b
      [evaluate]                   # afterwards, as fltk evaluate does
      deploy = "vote"

    A value may be a distribution: lr = { log_uniform = [0.001, 1.0] }, or uniform, integers, choice. Then [random]
    with samples = 20 draws so many, the same for all methods and seeds, and [search] with trials = 20 searches by
    values on validation data (needs fltk[optuna]). Its trials are kept next to the registry, or where storage = "URL"
    says, in a form that optuna-dashboard opens; --trials lists them. The runs carry the tag sweep=NAME of the file.
    """
    from fltk.experiment import Place
    from fltk.sweep.grid import read
    from fltk.sweep.run import deployment

    if dry_run and (status or best_on):
        raise UsageError("--dry-run goes with neither --status nor --best-on; leave one of them out")
    if trials and (dry_run or status or best_on):
        raise UsageError("--trials goes with none of --dry-run, --status and --best-on; leave one of them out")
    plan = read(file)
    if trials:
        emit_trials(plan, settings, format)
        return
    deploy = deployment(plan)
    place = Place(
        settings.data_dir,
        params["download"],
        params["engine"],
        params["device"],
        params["keep_checkpoints"],
    )
    failures: dict[str, str] = {}
    if dry_run or status:
        found, deployed = _look(plan, place, settings, deploy)
    else:
        refuse_unclean(params)
        outcome = _play(plan, place, jobs, settings, rerun_changed=rerun_changed)
        found, failures = list(outcome.cells), outcome.failures
        deployed = _deployed_of(settings, found, deploy)
    _tell_of_code(found, settings)
    _print(found, deployed, format, dry_run=dry_run, best=bool(best_on), rerun_changed=rerun_changed)
    if failures:
        raise FltkError(outcome_line(failures, {s.cell.digest: _name(s) for s in found}, len(found)))


def _look(
    plan: Plan, place: Place, settings: Settings, deploy: Deployment | None
) -> tuple[list[CellState], dict[str, float | None]]:
    """The cells as the registry knows them; without a registry all are new."""
    from fltk.registry import Store
    from fltk.registry.location import locate
    from fltk.sweep.run import known
    from fltk.sweep.state import CellState, states

    path = locate(settings.db).path
    if path is not None and not path.exists():
        return [CellState(cell, None) for cell in known(plan, place, None)], {}
    with Store(settings.db, readonly=True) as store:
        found = states(store, known(plan, place, store))
        return found, _deployed(store, found, deploy)


def _play(plan: Plan, place: Place, jobs: int, settings: Settings, *, rerun_changed: bool) -> Outcome:
    from fltk.registry import Store
    from fltk.sweep.run import expected, run

    with Store(settings.db, create=True) as store:
        store.require_writable()
    with Board(settings, plan.name, expected(plan, place)) as board:
        try:
            return run(
                plan,
                settings.db,
                place,
                jobs=jobs,
                rerun_changed=rerun_changed,
                tell=board.hear,
                announce=board.add,
                on_trial=lambda study, trial: settings.say(trial_line(study, trial)),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on with what is left") from None


def _tell_of_code(found: Sequence[CellState], settings: Settings) -> None:
    """Finished cells whose number another code has made."""
    from fltk.evaluation.comparison_table import listed
    from fltk.registry.capture import core_digest
    from fltk.sweep.state import CHANGED, differing

    changed = [state.run for state in found if state.run is not None and state.state == CHANGED]
    if changed:
        settings.say(f"finished with other code of their method: {listed(changed)}; --rerun-changed runs them again")
    other = differing(found, core_digest())
    if other:
        told = "finished with other code of fltk, but the same of their method"
        settings.say(f"{told}: {listed(other)}; fltk diff compares runs")


def _deployed_of(settings: Settings, found: Sequence[CellState], deploy: Deployment | None) -> dict[str, float | None]:
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        return _deployed(store, found, deploy)


def _deployed(store: Store, found: Sequence[CellState], deploy: Deployment | None) -> dict[str, float | None]:
    """The test values of the deployed models by cell, where [evaluate] asks for them."""
    if deploy is None:
        return {}
    values: dict[str, float | None] = {}
    for state in found:
        stored = [] if state.run is None else store.evaluations(state.run.id)
        rows = [row for e in stored if deploy.made(e.summary) for row in e.summary["rows"]]
        mean = "acc_mean" if state.run is None else f"{headline(state.run.last).key}_mean"
        deployed = [row[mean] for row in rows if row["model"] == "deployed"]
        values[state.cell.digest] = deployed[-1] if deployed else None
    return values


def emit_cells(found: Sequence[CellState], format: str) -> None:
    """How the cells of a sweep stand."""
    _print(found, {}, format, dry_run=False, best=False, rerun_changed=False)


def _print(
    found: Sequence[CellState],
    deployed: dict[str, float | None],
    format: str,
    *,
    dry_run: bool,
    best: bool,
    rerun_changed: bool,
) -> None:
    from fltk.sweep.cells import varied
    from fltk.sweep.state import CHANGED
    from fltk.sweep.state import best as best_of

    keys = varied(state.cell for state in found)
    measures = measures_of(state.run for state in found if state.run is not None)[:1]
    short = short_names(keys)
    own = [Column(key, short[key]) for key in keys]
    if best:
        chosen = best_of(found)
        if not chosen:
            raise FltkError("--best-on: no setting has all its seeds finished with values on validation data yet")
        numbers = scored(BEST, measures, ("val", "val_std", "test", "test_std"))
        emit([_best_row(one, keys) for one in chosen], [Column("method"), *own, *numbers], format)
        return
    rows = []
    for state in found:
        row = _row(state, keys) | {"deployed": deployed.get(state.cell.digest)}
        if rerun_changed and row["state"] == CHANGED:
            row["next"] = "start"
        rows.append(row)
    tail = [Column("next")] if dry_run else _tail(rows, measures, bool(deployed))
    emit(rows, [Column("method"), *own, Column("seed"), Column("state"), Column("run"), *tail], format)


def _tail(rows: Sequence[Mapping[str, Any]], measures: Sequence[Measure], deployed: bool) -> list[Column]:
    """The columns of numbers, and of messages where there are any."""
    numbers = list(NUMBERS)
    if deployed:
        numbers.append(Column("deployed", "deployed acc", 4, "max"))
    tail = scored(numbers, measures, ("val", "test", "deployed"))
    if any(row["message"] for row in rows):
        tail.append(Column("message"))
    return tail


NUMBERS = [Column("rounds"), Column("val", "val acc", 4, "max"), Column("test", "test acc", 4, "max")]
BEST = [
    Column("trials"),
    Column("seeds"),
    Column("val", "val acc", 4, "max"),
    Column("val_std", "± std", 4),
    Column("test", "test acc", 4, "max"),
    Column("test_std", "± std", 4),
    Column("runs"),
]


def _row(state: CellState, keys: Sequence[str]) -> dict[str, Any]:
    from fltk.sweep.state import shown_numbers

    values, run = state.cell.flat(), state.run
    return {
        "method": state.cell.config.method,
        **{key: values.get(key) for key in keys},
        "seed": state.cell.config.seed,
        "state": state.state,
        "run": None if run is None else f"run{run.id}",
        "rounds": 0 if run is None else run.rounds_done,
        **shown_numbers(run),
        "message": state.message,
        "next": NEXT.get(state.state, "resume"),
        "config_hash": state.cell.digest,
    }


def _best_row(one: Setting, keys: Sequence[str]) -> dict[str, Any]:
    values = one.cells[0].cell.flat()
    return {
        "method": one.cells[0].cell.config.method,
        **{key: values.get(key) for key in keys},
        "trials": one.trials,
        "seeds": len(one.cells),
        "val": one.val,
        "val_std": one.val_std,
        "test": one.test,
        "test_std": one.test_std,
        "runs": [f"run{state.run.id}" for state in one.cells if state.run is not None],
    }


def _name(state: CellState) -> str:
    run = "" if state.run is None else f" (run{state.run.id})"
    return f"{state.cell.config.method} seed {state.cell.config.seed}{run}"
