"""Tables of any length as CSV, TSV, JSON, JSON Lines or Parquet, by the name of the file.

Rows are taken one by one and written as they come. In CSV and TSV floats read back exactly, NaN and infinities as nan
and inf; in JSON these are null; Parquet has them all.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from fltk.errors import UsageError
from fltk.export.values import field, plain, to_json
from fltk.files import check_path, replacing

SCHEMA = 1  # of the JSON objects; raised when a key changes its meaning
_BATCH = 50_000  # rows of a Parquet row group

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    """Columns as (name, kind) with kind one of int, float, bool, text, and an iterable of rows in that order."""

    columns: tuple[tuple[str, str], ...]
    rows: Iterable[Row]

    @property
    def names(self) -> list[str]:
        """The column names."""
        return [name for name, _ in self.columns]


def from_dicts(rows: Sequence[dict[str, Any]]) -> Table:
    """A table of rows that may lack some keys; the kind of a column follows from its values."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {name: _kind([row[name] for row in rows if row.get(name) is not None]) for name in names}
    made = [tuple(_as(kinds[name], row.get(name)) for name in names) for row in rows]
    return Table(tuple(kinds.items()), made)


def check_table_path(path: Path, option: str = "--output", also: Iterable[str] = ()) -> str:
    """The suffix of a table's file; UsageError or FltkError when it cannot be written."""
    suffix = check_path(path, (*WRITERS, *also), option)
    if suffix == ".parquet":
        _pyarrow(option)
    return suffix


def write_table(table: Table, path: Path, option: str = "--output") -> int:
    """Write the table in the format of the file's suffix; returns the number of rows."""
    write = WRITERS[check_table_path(path, option)]
    counted = _Counted(table.rows)
    with replacing(path, option) as file:
        write(Table(table.columns, counted), file)
    return counted.seen


@dataclass
class _Counted:
    """Rows that are counted while they pass."""

    rows: Iterable[Row]
    seen: int = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            self.seen += 1
            yield row


def _separated(delimiter: str) -> Callable[[Table, IO[bytes]], None]:
    def write(table: Table, file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        simple = all(kind in ("int", "float", "text") for _, kind in table.columns)
        try:
            writer.writerow(table.names)
            writer.writerows(table.rows if simple else (tuple(field(value) for value in row) for row in table.rows))
        finally:
            text.detach()  # flushes, and leaves the file open

    return write


def _json(table: Table, file: IO[bytes]) -> None:
    names = table.names
    file.write(f'{{"schema": {SCHEMA}, "rows": ['.encode())
    for place, row in enumerate(table.rows):
        file.write(("\n" if place == 0 else ",\n").encode() + to_json(dict(zip(names, row, strict=True))).encode())
    file.write(b"\n]}\n")


def _json_lines(table: Table, file: IO[bytes]) -> None:
    names = table.names
    for row in table.rows:
        file.write(to_json(dict(zip(names, row, strict=True))).encode() + b"\n")


def _parquet(table: Table, file: IO[bytes]) -> None:
    pyarrow, parquet = _pyarrow("--output")
    types = {"int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_(), "text": pyarrow.string()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in table.columns])
    rows = iter(table.rows)
    with parquet.ParquetWriter(file, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            columns = [list(column) for column in zip(*batch, strict=True)]
            arrays = [pyarrow.array(values, type=item.type) for values, item in zip(columns, schema, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _pyarrow(option: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{option}: .parquet needs pyarrow: pip install 'fltk[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _kind(values: Sequence[Any]) -> str:
    """What all values of a column are; text where they are of several kinds or none is known."""
    kinds = {bool: "bool", int: "int", float: "float"}
    found = {kinds.get(type(value), "text") for value in values}
    if found == {"int", "float"}:
        return "float"
    if found == {"int"} and any(abs(value) >= 2**63 for value in values):
        return "text"
    return found.pop() if len(found) == 1 else "text"


def _as(kind: str, value: Any) -> Any:
    """A value of a column of that kind."""
    if value is None:
        return None
    if kind == "text":
        return value if isinstance(value, str) else str(field(plain(value)))
    return float(value) if kind == "float" else value


WRITERS: dict[str, Callable[[Table, IO[bytes]], None]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".json": _json,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
