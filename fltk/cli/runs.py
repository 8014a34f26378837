"""`fltk runs`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options
from fltk.errors import UsageError

if TYPE_CHECKING:
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
    Column("personal_test_acc", "personal acc", 4, "max"),
    Column("global_test_acc", "global acc", 4, "max"),
    Column("status"),
    Column("started"),
]
GROUPS = [
    Column("method"),
    Column("dataset"),
    Column("scheme"),
    Column("alpha"),
    Column("model"),
    Column("params"),
    Column("seeds"),
    Column("personal", "personal acc", 4, "max"),
    Column("personal_std", "± sd", 4),
    Column("deployed", "deployed acc", 4, "max"),
    Column("deployed_std", "± sd", 4),
    Column("global", "global acc", 4, "max"),
    Column("global_std", "± sd", 4),
]


@command(
    "runs",
    examples=(
        "fltk runs --method attn --where 'alpha<0.5'",
        "fltk runs run42",
        "fltk runs --by-seed --format latex",
    ),
)
@click.argument("run", required=False)
@click.option("--method", cls=Option, section="Filter", help="only runs of this method")
@click.option("--dataset", cls=Option, section="Filter", help="only runs on this data set")
@click.option("--status", cls=Option, section="Filter", help="running, done, interrupted, failed or stale")
@click.option("--tag", cls=Option, section="Filter", metavar="KEY[=VALUE]", help="only runs with this tag")
@click.option(
    "--where",
    multiple=True,
    cls=Option,
    section="Filter",
    metavar="CONDITION",
    help="condition on the configuration such as alpha<0.5, repeatable",
)
@click.option(
    "--by-seed",
    is_flag=True,
    cls=Option,
    section="Output",
    help="one row per configuration: mean and standard deviation over its seeds, finished runs only",
)
@output_options
@click.pass_obj
def runs(settings: Settings, /, run: str | None, format: str, by_seed: bool, **filters: Any) -> None:
    """List and filter the runs of the registry.

    With a RUN (run42, a name, latest, the start of a UUID): everything that is known of it. Accuracies are those of the
    last round; `deployed` is that of the last `fltk evaluate`.
    """
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        if run is not None:
            if by_seed or any(filters.values()):
                raise UsageError("a RUN is shown whole; filters and --by-seed go with the list")
            found = store.find_run(run)
            emit(_details(store, found), [Column("key"), Column("value")], format)
            return
        rows = store.runs(**filters)
        if by_seed:
            emit(_groups(store, [r for r in rows if r.status == "done"]), GROUPS, format)
        else:
            emit([_line(r) for r in rows], LIST, format)


def _line(run: RunRow) -> dict[str, Any]:
    partition, train = run.config["partition"], run.config["train"]
    return {
        "run": f"run{run.id}",
        "name": run.name,
        "method": run.method,
        "dataset": run.dataset,
        "scheme": partition["scheme"],
        "alpha": partition["alpha"] if "dirichlet" in partition["scheme"] else None,
        "model": train["model"],
        "seed": run.seed,
        "rounds": run.rounds_done,
        "personal_test_acc": run.last.get("personal_test_acc"),
        "global_test_acc": run.last.get("global_test_acc"),
        "status": run.status,
        "started": datetime.fromtimestamp(run.started).isoformat(sep=" ", timespec="seconds"),
    }


def _details(store: Store, run: RunRow) -> list[dict[str, Any]]:
    """Key and value of all that is stored about a run, its numbers last."""
    facts: dict[str, Any] = {
        "run": run.label,
        "uuid": run.uuid,
        "kind": run.kind,
        "status": run.status + (f": {run.message}" if run.message else ""),
        "rounds": run.rounds_done,
        "partition": None if run.partition_id is None else f"part{run.partition_id}",
        "configuration hash": run.config_hash,
        "data fingerprint": run.data_fingerprint,
        "git": f"{run.git.get('commit') or 'no repository'}{' (modified)' if run.git.get('dirty') else ''}",
        "attempts": len(store.attempts(run.id)),
        "checkpoints": [c.round for c in store.checkpoints(run.id)],
        "maps": len(store.map_rounds(run.id)),
        "evaluations": len(store.evaluations(run.id)),
        "note": run.note or None,
        "tags": dict(run.tags) or None,
    }
    for table, values in run.config.items():
        if isinstance(values, dict):
            facts |= {f"{table}.{key}": _told(value, run.origin.get(f"{table}.{key}")) for key, value in values.items()}
        else:
            facts[table] = _told(values, run.origin.get(table))
    facts |= {f"last {key}": value for key, value in run.last.items()}
    return [{"key": key, "value": value} for key, value in facts.items()]


def _told(value: Any, origin: str | None) -> Any:
    """The value, with its origin where that is not the default."""
    return value if origin in (None, "default") else f"{value} ({origin})"


def _groups(store: Store, rows: list[RunRow]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation over the seeds of equal configurations; of a repeated seed the last run."""
    groups: dict[str, dict[int, RunRow]] = {}
    for row in rows:
        config = {k: v for k, v in row.config.items() if k != "seed"}
        config["partition"] = {k: v for k, v in config["partition"].items() if k != "partition_seed"}
        groups.setdefault(_key(config), {})[row.seed] = row
    return [_group(store, list(found.values())) for found in groups.values()]


def _key(config: dict[str, Any]) -> str:
    from fltk.config import canonical_json

    return canonical_json(config)


def _group(store: Store, rows: list[RunRow]) -> dict[str, Any]:
    first = _line(rows[0])
    values: dict[str, list[float]] = {
        "personal": [r.last["personal_test_acc"] for r in rows if "personal_test_acc" in r.last],
        "global": [r.last["global_test_acc"] for r in rows if "global_test_acc" in r.last],
        "deployed": [v for r in rows if (v := _deployed(store, r)) is not None],
    }
    found: dict[str, Any] = {k: first[k] for k in ("method", "dataset", "scheme", "alpha", "model")}
    found["params"] = _params(rows[0]) or None
    found["seeds"] = len(rows)
    found["runs"] = [f"run{r.id}" for r in rows]
    for name, numbers in values.items():
        complete = len(numbers) == len(rows)
        found[name] = sum(numbers) / len(numbers) if complete else None
        found[f"{name}_std"] = _std(numbers) if complete and len(numbers) > 1 else None
    return found


def _params(run: RunRow) -> dict[str, Any]:
    """The hyper-parameters that were set and not left at their defaults."""
    return {k: v for k, v in run.config["params"].items() if run.origin.get(f"params.{k}", "default") != "default"}


def _deployed(store: Store, run: RunRow) -> float | None:
    stored = store.evaluations(run.id)
    if not stored:
        return None
    return next((float(r["acc_mean"]) for r in stored[-1].summary["rows"] if r["model"] == "deployed"), None)


def _std(values: list[float]) -> float:
    from statistics import stdev

    return stdev(values)
