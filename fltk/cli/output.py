"""Rows on stdout in the format that was asked for: one decorator and one function for every listing."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from fltk.cli.command import Option
from fltk.cli.context import Settings
from fltk.cli.terminal import echo_rendered, visible, visible_json
from fltk.errors import UsageError
from fltk.export import latex
from fltk.export.values import field, to_json

F = TypeVar("F", bound=Callable[..., Any])
Row = Mapping[str, Any]

FORMATS = ("table", "json", "jsonl", "csv", "tsv", "latex")
SCHEMA = 1  # of the JSON objects; raised when a key changes its meaning
PIPED_WIDTH = 100_000  # no value is cut or wrapped to fit a terminal that is not there
BREAKABLE = 24  # characters; longer words are hashes and paths, which may be broken anywhere
GAP = 3  # characters between two columns on a terminal


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
        return _cell(self.label or self.key, None)


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
    echo_rendered(render(rows, columns, format, title=title, extra=extra))


def render(
    rows: Sequence[Row],
    columns: Sequence[Column],
    format: str,
    *,
    title: str | None = None,
    extra: Row | None = None,
) -> str:
    """The text that `emit` prints. Nothing of it is obeyed by a terminal but the colours of a table."""
    return {
        "table": lambda: _table(rows, columns, title, extra or {}),
        "json": lambda: visible_json(to_json({"schema": SCHEMA, **(extra or {}), "rows": rows}, indent=2)) + "\n",
        "jsonl": lambda: "".join(visible_json(to_json(row)) + "\n" for row in rows),
        "csv": lambda: _separated(rows, columns, ","),
        "tsv": lambda: _separated(rows, columns, "\t"),
        "latex": lambda: _latex(rows, columns, title),
    }[format]()


def _number(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, (int, float)) or hasattr(value, "__float__"))


def _cell(value: Any, digits: int | None) -> str:
    """A value for the eye, on one line."""
    if isinstance(value, str):
        return visible(" ".join(value.split()))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if digits is not None else f"{value:.6g}"
    if isinstance(value, int):
        return str(value)
    if hasattr(value, "tolist"):
        return _cell(value.tolist(), digits)
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item, digits) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{_cell(key, None)}={_cell(item, digits)}" for key, item in value.items())
    return visible(" ".join(str(value).split()))


def _right(rows: Sequence[Row], key: str) -> bool:
    """Columns of numbers stand right; unknown values do not decide."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return bool(values) and all(_number(value) for value in values)


def _table(rows: Sequence[Row], columns: Sequence[Column], title: str | None, extra: Row) -> str:
    terminal = sys.stdout.isatty()
    context = click.get_current_context(silent=True)
    settings = (context.find_object(Settings) if context else None) or Settings()
    if not terminal and not settings.colour:
        return _told(title, _aligned(rows, columns), extra)

    console = settings.console(stderr=False, width=None if terminal else PIPED_WIDTH)
    cells = [[_cell(row.get(column.key), column.digits) for column in columns] for row in rows]
    widths = _widths(cells, columns, console.width)
    if widths is None:
        return _told(title, _blocks(cells, columns), extra)

    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_edge=False)
    for column, width in zip(columns, widths, strict=True):
        justify: Any = "right" if _right(rows, column.key) else "left"
        table.add_column(Text(column.heading), justify=justify, overflow="fold", width=width)
    for line in cells:  # Text, because names may hold what rich would take for markup
        table.add_row(*map(Text, line))
    with console.capture() as captured:
        console.print(table)
    return _told(title, [line.rstrip() for line in captured.get().splitlines()], extra)


def _widths(cells: Sequence[Sequence[str]], columns: Sequence[Column], room: int) -> list[int] | None:
    """A width for each column so that a table fits into `room` and breaks no word; None where there is no such.

    Words longer than BREAKABLE, such as hashes and paths, may be broken anywhere.
    """
    from rich.cells import cell_len

    widths, needs = [], []
    for place, column in enumerate(columns):
        texts = [column.heading, *(line[place] for line in cells)]
        widths.append(max(map(cell_len, texts)))
        words = [word for text in texts for word in text.split()]
        needs.append(min(BREAKABLE, max(map(cell_len, words), default=0)))

    room -= GAP * (len(columns) - 1)
    if sum(needs) > room:
        return None
    while sum(widths) > room:  # take from the column that has most to spare
        spare = [width - need for width, need in zip(widths, needs, strict=True)]
        widths[spare.index(max(spare))] -= 1
    return widths


def _blocks(cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> list[str]:
    """Every row as lines `key: value`, for a terminal that is too narrow for a table; unknown values are left out."""
    lines: list[str] = []
    for line in cells:
        if lines:
            lines.append("")
        for column, text in zip(columns, line, strict=True):
            if text != "-":
                lines.append(f"{column.heading}: {text}")
    return lines


def _aligned(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """What rich prints where no terminal sets a width, a hundred times faster: ten thousand rows in a moment."""
    padded = [_padded(rows, column) for column in columns]
    return ["  ".join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _padded(rows: Sequence[Row], column: Column) -> list[str]:
    """The heading and the cells of a column, filled up with spaces to the widest of them."""
    from rich.cells import cell_len

    texts = [column.heading, *(_cell(row.get(column.key), column.digits) for row in rows)]
    together = "".join(texts)
    # Asking rich for the width of every text takes longer than anything else here, and plain ASCII has no surprises.
    widths = list(map(len if together.isascii() and together.isprintable() else cell_len, texts))
    widest = max(widths)
    gaps = [" " * (widest - width) for width in widths]
    if _right(rows, column.key):
        return [gap + text for gap, text in zip(gaps, texts, strict=True)]
    return [text + gap for gap, text in zip(gaps, texts, strict=True)]


def _told(title: str | None, lines: Sequence[str], extra: Row) -> str:
    """A table between its title and the facts below it."""
    below = [f"{_cell(key, None)}: {_cell(value, None)}" for key, value in extra.items()]
    return "\n".join([*([visible(title)] if title else []), *lines, *below]) + "\n"


def _separated(rows: Sequence[Row], columns: Sequence[Column], delimiter: str) -> str:
    """csv or tsv with a header; nothing is rounded, unknown is empty, lists are JSON."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(column.key for column in columns)
    for row in rows:
        writer.writerow(field(row.get(column.key)) for column in columns)
    # Another program gets every character as it is.
    return visible(out.getvalue()) if sys.stdout.isatty() else out.getvalue()


def _latex(rows: Sequence[Row], columns: Sequence[Column], title: str | None) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    align = "".join("r" if _right(rows, column.key) else "l" for column in columns)
    best = {column.key: _best(rows, column) for column in columns if column.best}
    lines = []
    for row in rows:
        cells = []
        for column in columns:
            text = _cell(row.get(column.key), column.digits)
            shown = "--" if text == "-" else latex.escape(text)
            cells.append(rf"\textbf{{{shown}}}" if text == best.get(column.key) else shown)
        lines.append(cells)
    heading = f"% {_cell(title, None)}\n" if title else ""
    return heading + latex.tabular(align, [latex.escape(column.heading) for column in columns], lines)


def _best(rows: Sequence[Row], column: Column) -> str | None:
    """The best value as printed, so that what looks equal is bold together."""
    values = [float(row[column.key]) for row in rows if _number(row.get(column.key))]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return _cell(max(finite) if column.best == "max" else min(finite), column.digits)
