"""Rows on stdout in the format that was asked for: one decorator and one function for every listing."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from fltk.cli.command import Option
from fltk.cli.context import Settings
from fltk.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
Row = Mapping[str, Any]

FORMATS = ("table", "json", "jsonl", "csv", "tsv", "latex")
SCHEMA = 1  # of the JSON objects; raised when a key changes its meaning
PIPED_WIDTH = 100_000  # no value is cut or wrapped to fit a terminal that is not there


@dataclass(frozen=True)
class Column:
    """One column of a listing."""

    key: str  # of the rows, and the name in json, jsonl, csv and tsv
    label: str = ""  # the heading in table and latex; empty: the key
    digits: int | None = None  # decimals in table and latex; the other formats keep every digit
    best: str = ""  # "max" or "min": latex prints the best value in bold

    @property
    def heading(self) -> str:
        """What a table calls the column."""
        return self.label or self.key


def output_options(function: F) -> F:
    """Add `--format` and its shorthand `--json`; the command receives `format: str`."""
    full = click.option(
        "--format",
        "format",
        cls=Option,
        section="Output",
        type=click.Choice(FORMATS),
        default="table",
        is_eager=True,  # before the shorthand, whose callback overrides it
        help="how results are printed",
    )
    shorthand = click.option(
        "--json",
        "as_json",
        cls=Option,
        section="Output",
        is_flag=True,
        expose_value=False,
        allow_from_autoenv=False,
        callback=_shorthand,
        show_default=False,
        help="the same as --format json",
    )
    return full(shorthand(function))


def _shorthand(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value:
        return
    source = ctx.get_parameter_source("format")
    if source is click.core.ParameterSource.COMMANDLINE and ctx.params["format"] != "json":
        raise UsageError(f"--json and --format {ctx.params['format']} exclude each other")
    ctx.params["format"] = "json"


def emit(
    rows: Sequence[Row],
    columns: Sequence[Column],
    format: str = "table",
    *,
    title: str | None = None,
    extra: Row | None = None,
) -> None:
    """Print `rows` on stdout.

    `columns` choose and order the values of table, latex, csv and tsv; json and jsonl carry whole rows.
    `title` stands above a table; `extra` adds keys beside "rows" in json and lines `key: value` to a table.
    """
    text = {
        "table": lambda: _table(rows, columns, title, extra or {}),
        "json": lambda: _json({"schema": SCHEMA, **(extra or {}), "rows": rows}, indent=2) + "\n",
        "jsonl": lambda: "".join(_json(row) + "\n" for row in rows),
        "csv": lambda: _separated(rows, columns, ","),
        "tsv": lambda: _separated(rows, columns, "\t"),
        "latex": lambda: _latex(rows, columns, title),
    }[format]()
    click.echo(text, nl=False)


def plain(value: Any) -> Any:
    """Data as JSON can hold it: numpy values unpacked, NaN and infinities null, paths and times as text."""
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors; numpy itself stays unimported
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    return value


def _json(data: Any, indent: int | None = None) -> str:
    return json.dumps(plain(data), indent=indent, allow_nan=False, ensure_ascii=False)


def _number(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int | float) or hasattr(value, "__float__"))


def _cell(value: Any, digits: int | None) -> str:
    """A value for the eye, on one line."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if digits is not None else f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item, digits) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(item, digits)}" for key, item in value.items())
    return " ".join(str(value).split())


def _right(rows: Sequence[Row], key: str) -> bool:
    """Columns of numbers stand right; unknown values do not decide."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return bool(values) and all(_number(value) for value in values)


def _table(rows: Sequence[Row], columns: Sequence[Column], title: str | None, extra: Row) -> str:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False)
    for column in columns:
        justify: Any = "right" if _right(rows, column.key) else "left"
        table.add_column(Text(column.heading), justify=justify, overflow="fold", no_wrap=not terminal)
    for row in rows:  # Text, because names may hold what rich would take for markup
        table.add_row(*(Text(_cell(row.get(column.key), column.digits)) for column in columns))
    context = click.get_current_context(silent=True)
    settings = (context.find_object(Settings) if context else None) or Settings()
    console = settings.console(stderr=False, width=None if terminal else PIPED_WIDTH)
    with console.capture() as captured:
        console.print(table)
    lines = [title] if title else []
    lines += [line.rstrip() for line in captured.get().splitlines()]
    lines += [f"{key}: {_cell(value, None)}" for key, value in extra.items()]
    return "\n".join(lines) + "\n"


def _separated(rows: Sequence[Row], columns: Sequence[Column], delimiter: str) -> str:
    """csv or tsv with a header; nothing is rounded, unknown is empty, lists are JSON."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(column.key for column in columns)
    for row in rows:
        writer.writerow(_field(row.get(column.key)) for column in columns)
    return out.getvalue()


def _field(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | Mapping):
        return _json(value)
    return value


LATEX = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(LATEX.get(char, char) for char in text)


def _latex(rows: Sequence[Row], columns: Sequence[Column], title: str | None) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    align = "".join("r" if _right(rows, column.key) else "l" for column in columns)
    best = {column.key: _best(rows, column) for column in columns if column.best}
    lines = [f"% {' '.join(title.split())}"] if title else []
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
    lines += [" & ".join(escape_latex(column.heading) for column in columns) + r" \\", r"\midrule"]
    for row in rows:
        cells = []
        for column in columns:
            text = _cell(row.get(column.key), column.digits)
            shown = "--" if text == "-" else escape_latex(text)
            cells.append(rf"\textbf{{{shown}}}" if text == best.get(column.key) else shown)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _best(rows: Sequence[Row], column: Column) -> str | None:
    """The best value as printed, so that what looks equal is bold together."""
    values = [float(row[column.key]) for row in rows if _number(row.get(column.key))]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return _cell(max(finite) if column.best == "max" else min(finite), column.digits)
