"""`fltk sql`."""

from __future__ import annotations

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options
from fltk.errors import UsageError

SCHEMA = [Column("view"), Column("column"), Column("meaning")]


@command(
    "sql",
    examples=(
        "fltk sql 'SELECT method, avg(personal_test_acc) AS mean FROM v_runs GROUP BY method'",
        "fltk sql \"SELECT client, value FROM v_client_metrics WHERE run = 42 AND round = 30 AND key = 'train_loss'\"",
        "fltk sql --schema",
    ),
)
@click.argument("statement", required=False)
@click.option("--schema", is_flag=True, cls=Option, section="SQL", help="print the views and their columns instead")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 1e9),
    default=60.0,
    cls=Option,
    section="SQL",
    metavar="SECONDS",
    help="give up after so many seconds; 0: never",
)
@click.option(
    "--max-rows",
    type=click.IntRange(1, 10**9),
    default=1_000_000,
    cls=Option,
    section="SQL",
    help="refuse an answer with more rows",
)
@output_options
@click.pass_obj
def sql(settings: Settings, /, statement: str | None, schema: bool, timeout: float, max_rows: int, format: str) -> None:
    """Query the registry with one SELECT.

    The views that --schema lists keep their columns from version to version; the underlying tables may change. Nothing
    can be written.
    """
    if schema:
        if statement is not None:
            raise UsageError("--schema takes no statement; leave one of them out")
        from fltk.registry.views import VIEWS

        rows = [{"view": v.name, "column": c, "meaning": text} for v in VIEWS for c, text in v.columns.items()]
        emit(rows, SCHEMA, format)
        return
    if statement is None:
        raise UsageError("name a SELECT, or --schema to see what there is")
    from fltk.registry import Store
    from fltk.registry.query import Limits, query

    with Store(settings.db, readonly=True) as store:
        answer = query(store, statement, Limits(timeout, max_rows))
    names = answer.columns
    emit([dict(zip(names, row, strict=True)) for row in answer.rows], [Column(name) for name in names], format)
