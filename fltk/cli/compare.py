"""`fltk compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fltk.cli.command import Option, command
from fltk.cli.context import Settings, uncollected
from fltk.cli.filters import best_on_option, filter_options, select_runs
from fltk.cli.output import Column, output_options, render
from fltk.cli.terminal import echo, echo_rendered, visible
from fltk.errors import UsageError
from fltk.names import canonical

if TYPE_CHECKING:
    from fltk.evaluation.compare import Comparison, Difference, Pairing

DIFFERENCES = [
    Column("setting"),
    Column("method"),
    Column("unit"),
    Column("pairs"),
    Column("mean", "difference"),
    Column("std", "± sd"),
    Column("low"),
    Column("high"),
    Column("better"),
    Column("worse"),
    Column("p"),
    Column("p_holm", "p (Holm)"),
]


@command(
    "compare",
    examples=(
        "fltk compare --dataset fmnist",
        "fltk compare --method attn,fedavg-ft,local --against fedavg-ft",
        "fltk compare --best-on val --against fedavg-ft",
        "fltk compare run1 run2 run3 run4 --metric personal_test_acc.worst10 --percent -o table.tex",
    ),
)
@filter_options(kind="train", status="done")
@best_on_option
@click.option(
    "--metric",
    cls=Option,
    section="Comparison",
    metavar="NAME[.STATISTIC]",
    help="what is compared: a model of the last evaluation (deployed, personal, ...) or a number of the last round "
    "(personal_test_acc, ...); mean, worst10, best10, min, std or jain over clients; auc_rounds, rounds_to_target, "
    "bytes_to_target and seconds_to_target say how fast a run learns, the target being 95 % of what fedavg-ft ends "
    "with on the same partition, which has to be among the runs; map_self, map_entropy, map_group_share, "
    "map_group_auc, map_alignment and map_neighbours what its last map shows "
    "[default: deployed where all runs have it, otherwise personal_test_acc]",
)
@click.option(
    "--against",
    metavar="METHOD",
    cls=Option,
    section="Comparison",
    help="paired differences to this method, by seed and by client, with intervals and tests",
)
@click.option("--percent", is_flag=True, cls=Option, section="Output", help="accuracies in percent (table and latex)")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    cls=Option,
    section="Output",
    help="write a file instead: .tex, .csv, .tsv, .json, .jsonl or .parquet",
)
@output_options
@click.pass_context
@uncollected()
def compare(
    ctx: click.Context,
    /,
    run: tuple[str, ...],
    best_on: str | None,
    metric: str | None,
    against: str | None,
    percent: bool,
    output: Path | None,
    format: str,
    **filters: Any,
) -> None:
    """Compare methods over settings and seeds.

    A setting is everything in the configuration but the method, its parameters and the seeds. The table has the mean
    over seeds and its sample standard deviation; unequal budgets and missing seeds are pointed out below it. latex
    prints the best of a column in bold and underlines what is not significantly worse. With --against, csv, tsv, jsonl,
    latex and files hold the differences instead of the cells; json holds both. With --best-on val each method is
    compared as tuned on validation data; the notes tell the number of trials and what was chosen.
    """
    from fltk.evaluation.compare import Pairing
    from fltk.evaluation.compare import compare as compared
    from fltk.evaluation.tuning import best_trials
    from fltk.registry import Store

    settings: Settings = ctx.obj
    if output is not None:
        format = _file_format(ctx, output)
    with Store(settings.db, readonly=True) as store:
        runs = select_runs(store, run, filters, "compare", kind="train", status="done")
        table = compared(store, runs, metric, tuning=best_trials(runs) if best_on else None)
        if percent and not table.metric.accuracy:
            raise UsageError(f"--percent is for accuracies, and {table.metric.name} is none; leave it out")
        pairing = Pairing(store, table)
        found = None if against is None else pairing.differences(canonical(against, table.methods))
        if output is not None and output.suffix.lower() == ".parquet":
            _write_parquet(output, pairing, found)
        else:
            _put(_text(pairing, found, format, percent), output)


def _file_format(ctx: click.Context, output: Path) -> str:
    """The format by the file's name, which must be usable before the work begins."""
    from fltk.export.tables import check_table_path

    if ctx.get_parameter_source("format") is ParameterSource.COMMANDLINE:
        raise UsageError("--format does not go with --output, whose name settles the format; leave it out")
    suffix = check_table_path(output, also=(".tex",))
    return {".tex": "latex"}.get(suffix, suffix[1:])


def _write_parquet(output: Path, pairing: Pairing, found: list[Difference] | None) -> None:
    from fltk.export.tables import from_dicts, write_table

    write_table(from_dicts(_rows(pairing, found)), output)
    echo(output)


def _put(text: str, output: Path | None) -> None:
    """On stdout, or into the file, whose name is then told."""
    from fltk.files import replacing

    if output is None:
        echo_rendered(text)
        return
    with replacing(output) as file:
        file.write(text.encode())
    echo(output)


def _rows(pairing: Pairing, found: list[Difference] | None) -> list[dict[str, Any]]:
    """The differences where there are some, otherwise the cells."""
    from fltk.export.comparison import cell_rows, difference_rows

    if found is not None:
        return difference_rows(pairing.comparison, found)
    return cell_rows(pairing.comparison, _ties(pairing))


def _ties(pairing: Pairing) -> dict[str, list[str]]:
    return {setting: pairing.ties(setting) for setting in pairing.comparison.settings}


def _text(pairing: Pairing, found: list[Difference] | None, format: str, percent: bool) -> str:
    from fltk.export.comparison import latex_table

    if format == "table":
        return _table(pairing.comparison, found, percent)
    if format == "json":
        return _json(pairing, found)
    if format != "latex":
        rows = _rows(pairing, found)
        return render(rows, [Column(key) for key in rows[0]] if rows else [], format)
    if found is None:
        return visible(latex_table(pairing.comparison, _ties(pairing), pairing.tie_unit, percent))
    return render(_lines(found, percent), DIFFERENCES, "latex", title=_legend(pairing.comparison, found))


def _json(pairing: Pairing, found: list[Difference] | None) -> str:
    from fltk.export.comparison import cell_rows, difference_rows, rank_row

    table = pairing.comparison
    extra = {
        "metric": {
            "name": table.metric.name,
            "description": table.metric.description,
            "higher_is_better": table.metric.higher,
        },
        "methods": table.methods,
        "settings": table.settings,
        "ties_over": pairing.tie_unit,
        "ranks": rank_row(table.ranks()),
        "differences": None if found is None else difference_rows(table, found),
        "notes": [*table.notes, *table.advice],
    }
    return render(cell_rows(table, _ties(pairing)), [], "json", extra=extra)


# For the eye


def _table(table: Comparison, found: list[Difference] | None, percent: bool) -> str:
    from fltk.export.comparison import seeds_told

    ranks = table.ranks()
    average = dict(zip(ranks.methods, ranks.average, strict=True)) if ranks else {}
    rows: list[dict[str, Any]] = []
    for method in table.methods:
        cells = {setting: _cell(table, method, setting, percent) for setting in table.settings}
        rows.append({"method": method, **cells, "avg rank": average.get(method)})
    columns = [Column("method"), *map(Column, table.settings), *([Column("avg rank", digits=2)] if ranks else [])]
    better = "higher" if table.metric.higher else "lower"
    title = f"{table.metric.name}{' in percent' if percent else ''}: {table.metric.description} ({better} is better)"
    text = render(rows, columns, "table", title=title)
    notes = [f"{seeds_told(table)} *: best mean of a column.", *table.notes, *table.advice]
    if ranks:
        distance = f"critical difference {ranks.critical_difference:.2f} (Nemenyi, alpha {ranks.alpha:g})"
        notes.insert(1, f"average ranks over {ranks.settings} settings: Friedman p {_p(ranks.friedman_p)}, {distance}")
    text += "".join(f"note: {visible(note)}\n" for note in notes)
    if found is None:
        return text
    return text + "\n" + render(_lines(found, percent), DIFFERENCES, "table", title=_legend(table, found))


def _cell(table: Comparison, method: str, setting: str, percent: bool) -> str | None:
    from math import isnan

    from fltk.export.comparison import number

    cell = table.cells[method, setting]
    if not cell.scores:
        return None
    spread = "" if isnan(cell.std) else f" ± {number(cell.std, percent)}"
    few = f" ({len(cell.scores)})" if len(cell.scores) < cell.planned else ""
    return number(cell.mean, percent) + spread + few + (" *" if method in table.best(setting) else "")


def _legend(table: Comparison, found: list[Difference]) -> str:
    from fltk.evaluation.statistics import ALPHA, least_p
    from fltk.export.comparison import INTERVAL, TEST

    reference = f" to {found[0].reference}" if found else ""
    least = min((d.pairs for d in found if d.unit == "seeds" and d.pairs), default=0)
    few = least and least_p(least) > ALPHA
    parts = [
        f"Paired differences{reference} of {table.metric.name}; low, high: {INTERVAL}; p: {TEST}, "
        "Holm over the methods of a setting.",
        "" if table.metric.per_client else f"Clients: differences of {table.metric.vector}.",
        f"With {least} seeds no p is below {least_p(least):.2g}, and intervals are too narrow." if few else "",
    ]
    return " ".join(part for part in parts if part)


def _lines(found: list[Difference], percent: bool) -> list[dict[str, Any]]:
    """Differences as they are printed."""
    from fltk.export.comparison import number

    return [
        {
            "setting": d.setting,
            "method": d.method,
            "unit": d.unit,
            "pairs": d.pairs,
            "mean": _signed(d.mean, percent),
            "std": number(d.std, percent),
            "low": _signed(d.interval.low, percent),
            "high": _signed(d.interval.high, percent),
            "better": d.better,
            "worse": d.worse,
            "p": _p(d.p),
            "p_holm": _p(d.p_holm),
        }
        for d in found
    ]


def _signed(value: float, percent: bool) -> str:
    from fltk.export.comparison import number

    text = number(value, percent)
    return f"+{text}" if value > 0 else text


def _p(value: float) -> str:
    if value != value:  # no pair
        return "-"
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"
