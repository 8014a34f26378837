"""`fltk runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Group, Option, behind_global, epilog
from fltk.cli.context import Settings, uncollected
from fltk.cli.filters import ALL, best_on_option, check_kind, named
from fltk.cli.output import Column, emit, output_options
from fltk.cli.runs_code import code
from fltk.cli.runs_edit import EDITS
from fltk.cli.scored import measures_of, scored
from fltk.config import ignored
from fltk.errors import UsageError
from fltk.names import KINDS
from fltk.objectives import Measure, headline

if TYPE_CHECKING:
    from fltk.evaluation.by_seed import Group as SeedGroup
    from fltk.registry import RunRow, Store

LIST = [
    Column("run"),
    Column("name"),
    Column("method"),
    Column("dataset"),
    Column("scheme"),
    Column("alpha"),
    Column("model"),
    Column("seed"),
    Column("rounds"),
    Column("personal_test_acc", "personal acc", 4),
    Column("global_test_acc", "global acc", 4),
    Column("acc_new", "newcomers acc", 4),
    Column("kind"),
    Column("status"),
    Column("started"),
]
OF_CHILDREN = ("acc_new", "kind")  # columns that only runs made from another run fill
GROUPS = [
    Column("method"),
    Column("dataset"),
    Column("scheme"),
    Column("alpha"),
    Column("model"),
    Column("params"),
    Column("seeds"),
    Column("personal", "personal acc", 4),
    Column("personal_std", "± sd", 4),
    Column("deployed", "deployed acc", 4),
    Column("deployed_std", "± sd", 4),
    Column("global", "global acc", 4),
    Column("global_std", "± sd", 4),
]


class RunsGroup(Group):
    """A group whose `list` runs where no member is named: `fltk runs run42` shows that run."""

    shorthand = "list"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` in front of what is no member; global options may stand before either."""
        first = behind_global(args)
        if args[first : first + 1] not in (["-h"], ["--help"]) and (first == len(args) or args[first] not in MEMBERS):
            args = [*args[:first], self.shorthand, *args[first:]]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Both ways to use it."""
        return ["[OPTIONS] [RUN]", "| COMMAND [ARGS]..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of the list, then the members."""
        self.commands["list"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(
    "runs",
    cls=RunsGroup,
    epilog=epilog(
        "fltk runs --method attn --where 'alpha<0.5'",
        "fltk runs run42",
        "fltk runs --by-seed --best-on val",
        "fltk runs rm run42",
    ),
)
def runs() -> None:
    """List, show, label and remove the runs of the registry.

    With a RUN (run42, a name, latest, the start of a UUID): everything that is known of it. Accuracies are those of the
    last round; `deployed` is that of the last `fltk evaluate`.
    """


@runs.command("list", epilog=epilog("fltk runs list --status failed", "fltk runs list run42"))
@click.argument("run", required=False)
@click.option(
    "--method", cls=Option, section="Filter", help="only runs of this method, or of several separated by commas"
)
@click.option(
    "--dataset", cls=Option, section="Filter", help="only runs on this data set, or on several separated by commas"
)
@click.option("--status", cls=Option, section="Filter", help="running, done, interrupted, failed or stale")
@click.option("--kind", cls=Option, section="Filter", help=f"only runs of this kind: {', '.join(KINDS)}")
@click.option("--tag", cls=Option, section="Filter", metavar="KEY[=VALUE]", help="only runs with this tag")
@click.option(
    "--where",
    multiple=True,
    cls=Option,
    section="Filter",
    metavar="CONDITION",
    help="condition on the configuration such as alpha<0.5, repeatable",
)
@click.option("--removed", is_flag=True, cls=Option, section="Filter", help="the removed runs in place of the others")
@click.option(
    "--by-seed",
    is_flag=True,
    cls=Option,
    section="Output",
    help="one row per configuration: mean and standard deviation over its seeds, finished training runs only",
)
@best_on_option
@output_options
@click.pass_obj
@uncollected()
def listing(
    settings: Settings,
    /,
    run: str | None,
    format: str,
    by_seed: bool,
    best_on: str | None,
    kind: str | None,
    **filters: Any,
) -> None:
    """List and filter the runs, or show one.

    `fltk runs` alone does the same.
    """
    from fltk.registry import Store

    if best_on and not (by_seed or run):
        raise UsageError("--best-on chooses by means over seeds; add --by-seed")
    with Store(settings.db, readonly=True) as store:
        if run is not None:
            if by_seed or best_on or kind or any(filters.values()):
                raise UsageError("a RUN is shown whole; filters, --by-seed and --best-on go with the list")
            found = store.find_run(run)
            emit(_details(store, found), [Column("key"), Column("value"), Column("origin")], format)
            return

        kind = check_kind(kind or ALL)
        method, dataset = filters.pop("method"), filters.pop("dataset")
        rows = named(store.runs(**filters), method, dataset, kind)
        if by_seed:
            settings.notes(_emit_groups(store, rows, best_on, format))
        else:
            _emit_list(rows, format)


for edit in (*EDITS, code):
    runs.add_command(edit)
MEMBERS = tuple(runs.commands)


def _emit_list(rows: list[RunRow], format: str) -> None:
    """One row for each run; columns that only runs made from another run fill are left out where there is none."""
    children = any(row.parent is not None for row in rows)
    columns = []
    for column in LIST:
        if children or column.key not in OF_CHILDREN:
            columns.append(column)
    emit([_line(row) for row in rows], scored(columns, measures_of(rows)), format)


def _line(run: RunRow) -> dict[str, Any]:
    partition, train = run.config["partition"], run.config["train"]
    return {
        "run": f"run{run.id}",
        "name": run.name,
        "method": run.method,
        "dataset": run.dataset,
        "scheme": partition["scheme"],
        "alpha": None if "alpha" in ignored(partition["scheme"]) else partition["alpha"],
        "model": train.get("models") or train["model"],
        "seed": run.seed,
        "rounds": run.rounds_done,
        **{key: run.last.get(key) for key in _scores(run)},
        "kind": run.kind if run.parent is None else f"{run.kind} of run{run.parent}",
        "status": run.status,
        "started": datetime.fromtimestamp(run.started).isoformat(sep=" ", timespec="seconds"),
    }


def _scores(run: RunRow) -> list[str]:
    """The stored names of its headline measure, in the order of the columns."""
    key = headline(run.last).key
    return [f"personal_test_{key}", f"global_test_{key}", f"{key}_new"]


def _details(store: Store, run: RunRow) -> list[dict[str, Any]]:
    """Key and value of all that is stored about a run, its numbers last; of settings also where they came from."""
    from fltk.registry.plugins import records
    from fltk.registry.where import flatten

    facts: dict[str, Any] = {
        "run": run.label,
        "uuid": run.uuid,
        "kind": run.kind if run.parent is None else f"{run.kind} of run{run.parent}",
        "status": f"{run.status}: {run.message}" if run.message else run.status,
        "rounds": run.rounds_done,
        "partition": None if run.partition_id is None else f"part{run.partition_id}",
        "configuration hash": run.config_hash,
        "data fingerprint": run.data_fingerprint,
        "code": _tree(run.git),
        "folder": _folder(run.git.get("folder", {})),
        "attempts": len(store.attempts(run.id)),
        "checkpoints": [c.round for c in store.checkpoints(run.id)],
        "maps": len(store.map_rounds(run.id)),
        "evaluations": len(store.evaluations(run.id)),
        "note": run.note or None,
        "tags": dict(run.tags) or None,
    }
    paths = [str(record.get("path")) for record in records(run)]
    if paths:
        facts["own code"] = sorted(set(paths))
    rows = [{"key": key, "value": value, "origin": None} for key, value in facts.items()]
    rest = "default" if run.origin else None  # a run that no command line made has no origins
    for key, value in flatten(run.config).items():
        rows.append({"key": key, "value": value, "origin": run.origin.get(key, rest)})
    return rows + [{"key": f"last {key}", "value": value, "origin": None} for key, value in run.last.items()]


def _folder(git: Mapping[str, Any]) -> str | None:
    """The repository of the folder that the run was started in, if it is another one."""
    return None if not git or git.get("same") else _tree(git)


def _tree(git: Mapping[str, Any]) -> str:
    """A commit, and whether it was changed; or why there is none."""
    if not git.get("present"):
        return " ".join([str(git.get("reason", "no repository")), str(git.get("version", ""))]).strip()
    return f"{git.get('commit') or 'no commit'}{' (modified)' if git.get('dirty') else ''}"


def _emit_groups(store: Store, rows: list[RunRow], best_on: str | None, format: str) -> tuple[str, ...]:
    """One row for each configuration of finished training runs, with a column for each setting in which they differ.

    Returns notes.
    """
    from fltk.evaluation.by_seed import groups, measured, parameters, told_apart
    from fltk.evaluation.tuning import best_trials

    trained = [row for row in rows if row.status == "done" and row.kind == "train"]
    tuning = best_trials(trained) if best_on else None
    found = groups(tuning.runs if tuning else trained)
    keys = told_apart(found)
    lines = []
    for group, params, numbers in zip(found, parameters(found), measured(store, found), strict=True):
        line = _group_line(group, keys)
        line["params"] = params or None
        if tuning:
            choice = tuning.by_run[group.runs[0].id]
            line |= {"trials": choice.trials, "tuned": choice.told or None}
        line["measure"] = headline(group.runs[0].last).title
        lines.append(line | numbers)

    own = [Column(key, name) for key, name in short_names(keys).items()]
    chosen = [Column("tuned"), Column("trials")] if tuning else []
    place = next(k for k, column in enumerate(GROUPS) if column.key == "params")
    scores = _group_columns(measures_of(rows))
    emit(lines, [*GROUPS[:place], *own, *chosen, *GROUPS[place : place + 2], *scores], format)
    return (tuning.caption, *tuning.notes) if tuning else ()


def _group_line(group: SeedGroup, keys: Sequence[str]) -> dict[str, Any]:
    """What a group of runs has in common, and its runs."""
    first = _line(group.runs[0])
    line = {key: first[key] for key in ("method", "dataset", "scheme", "alpha", "model")}
    for key in keys:
        line[key] = group.facts.get(key)
    line["seeds"] = len(group.runs)
    line["runs"] = [f"run{run.id}" for run in group.runs]
    return line


def _group_columns(measures: Sequence[Measure]) -> list[Column]:
    """The columns of numbers; where measures differ between rows, a column says which it is."""
    keys = ("personal", "deployed", "global")
    numbers = [c for c in GROUPS if c.key.removesuffix("_std") in keys]
    if len(measures) == 1:
        return scored(numbers, measures, keys)
    bare = [replace(c, label=c.label.replace(" acc", "")) for c in numbers]
    return [Column("measure"), *bare]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """train.lr as lr, where no other table has an lr too."""
    names = [key.rpartition(".")[2] for key in keys]
    return {key: name if names.count(name) == 1 else key for key, name in zip(keys, names, strict=True)}
