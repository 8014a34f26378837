"""`fltk diff`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options
from fltk.errors import UsageError

if TYPE_CHECKING:
    from fltk.evaluation.diff import Line, Spread

_HASH = re.compile(r"[0-9a-f]{40,64}")


@command("diff", examples=("fltk diff run3 run6", "fltk diff run1 run2 run3 run4 --format csv"))
@click.argument("run", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, cls=Option, section="Output", help="also what is the same")
@output_options
@click.pass_obj
def diff(settings: Settings, /, run: tuple[str, ...], everything: bool, format: str) -> None:
    """Show the differences between runs.

    Settings, data, environment and code, then the numbers of the last round and the last evaluation (measured times
    left out). Runs of one configuration under several seeds get a column with the mean and the sample standard
    deviation of these numbers; two runs get one with their difference.
    """
    from fltk.evaluation.diff import diff as compared
    from fltk.evaluation.diff import spreads
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        runs = store.find_runs(run)
        if len({found.id for found in runs}) < max(2, len(runs)):
            raise UsageError("fltk diff takes two or more different runs")
        lines = compared(store, runs)
    own = [f"run{found.id}" for found in runs]
    groups = spreads(lines, runs)
    shown = [line for line in lines if everything or line.differs]
    rows = [_row(line, own, groups, whole=format in ("json", "jsonl")) for line in shown]
    more = [Column("difference")] if len(runs) == 2 else []
    columns = [Column("section"), Column("key"), *map(Column, own), *more, *(Column(group.label) for group in groups)]
    emit(rows, columns, format, extra=None if rows else {"note": "nothing differs"})


def _row(line: Line, own: list[str], groups: list[Spread], *, whole: bool) -> dict[str, Any]:
    """One line; machine formats keep hashes and digits whole."""
    row: dict[str, Any] = {"section": line.section, "key": line.key}
    row |= {name: value if whole else _short(value) for name, value in zip(own, line.values, strict=True)}
    if len(own) == 2 and line.section == "result" and all(isinstance(value, float) for value in line.values):
        row["difference"] = line.values[1] - line.values[0]
    for group in groups:
        found = group.results.get(line.key) if line.section == "result" else None
        if found is not None:
            row[group.label] = {"mean": found[0], "std": found[1]} if whole else f"{found[0]:.6g} ± {found[1]:.3g}"
    return row


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and _HASH.fullmatch(value) else value
