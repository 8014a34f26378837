"""Tables of the user's own: csv, parquet, npz and safetensors as named columns. Nothing is ever unpickled."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fltk.bounded import ARRAYS, check_unpacked
from fltk.data.files import reading
from fltk.errors import FltkError, UsageError

Column = npt.NDArray[Any]
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
ONE_HOT = 50  # different texts in a column of features, at most


@dataclass(frozen=True)
class Table:
    """Columns by name, all with one entry per sample: (n,) numbers or texts; in npz and safetensors also (n, ...)."""

    columns: Mapping[str, Column]
    where: str  # begins error messages

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str, option: str) -> Column:
        """A column by name; UsageError naming `option` and what there is."""
        if name not in self.columns:
            there = ", ".join(list(self.columns)[:20])
            raise UsageError(f"{self.where}: {option} {name!r}: there is no such column; there are {there}")
        return self.columns[name]


def read(path: Path, shown: str) -> Table:
    """The table of a file, by its suffix. UsageError or FltkError naming the file and, where known, the row."""
    where = f"--dataset {shown}"
    size = path.stat().st_size
    if size > ARRAYS:
        raise UsageError(f"{where}: {size:,} bytes are more than the {ARRAYS:,} that are admitted")
    readers = {".csv": _csv, ".parquet": _parquet, ".npz": _npz, ".safetensors": _safetensors}
    with reading(where):
        columns = readers[path.suffix.lower()](path, where)

    lengths = {name: len(column) for name, column in columns.items()}
    if not lengths or not all(lengths.values()):
        raise UsageError(f"{where}: the table is empty")
    if len(set(lengths.values())) != 1:
        raise UsageError(f"{where}: its columns differ in length: {lengths}")
    return Table(columns, where)


def _csv(path: Path, where: str) -> dict[str, Column]:
    """Columns of a csv file with a header; a column is numbers where every entry is one, else texts."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise UsageError(f"{where}: line {reader.line_num}: {error}") from None
    _check_header(header, where)

    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UsageError(f"{where}: row {number} has {len(row)} entries, and the header has {len(header)}")
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return {name: _parsed(name, texts, where) for name, texts in zip(header, columns, strict=True)}


def _check_header(header: list[str], where: str) -> None:
    """Every column has a name of its own."""
    if not header or "" in header:
        raise UsageError(f"{where}: the first line must name every column")
    for name in header:
        if header.count(name) > 1:
            raise UsageError(f"{where}: two columns are called {name!r}")


def _parsed(name: str, texts: tuple[str, ...], where: str) -> Column:
    """Integers, numbers or texts; UsageError naming the row of a missing value."""
    stripped = [text.strip() for text in texts]
    for number, text in enumerate(stripped, start=1):
        if text.lower() in MISSING:
            raise _missing(where, number, name)
    for kind in (np.int64, np.float64):
        try:
            return np.array(stripped, dtype=kind)
        except (ValueError, OverflowError):
            continue
    return np.array(stripped, dtype=np.str_)


def _missing(where: str, row: int, name: str) -> UsageError:
    return UsageError(f"{where}: row {row}: column {name!r} has no value; fill it in, or leave the row out")


def _parquet(path: Path, where: str) -> dict[str, Column]:
    """Columns of numbers, booleans and texts."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise FltkError(
            f"{where}: parquet files are read by pyarrow: install it (pip install 'fltk[parquet]')"
        ) from None
    try:
        file = parquet.ParquetFile(path)
        groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        if size > ARRAYS:
            raise UsageError(f"{where}: unpacked it takes {size:,} bytes, more than the {ARRAYS:,} that are admitted")
        table = file.read()
    except arrow.ArrowException as error:
        raise UsageError(f"{where}: cannot be read ({' '.join(str(error).split())})") from None

    columns: dict[str, Column] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if column.null_count:
            first = column.is_null().to_numpy(zero_copy_only=False).argmax()
            raise _missing(where, int(first) + 1, name)
        values = np.asarray(column.to_numpy(zero_copy_only=False))
        if values.dtype == object:
            values = _texts(values, name, where)
        columns[name] = values
    return columns


def _texts(values: Column, name: str, where: str) -> Column:
    if not all(isinstance(value, str) for value in values):
        raise UsageError(f"{where}: column {name!r} holds neither numbers nor texts")
    return values.astype(np.str_)


def _npz(path: Path, where: str) -> dict[str, Column]:
    with np.load(path, allow_pickle=False) as archive:
        check_unpacked(archive.zip.infolist())
        return {name: np.atleast_1d(archive[name]) for name in archive.files}


def _safetensors(path: Path, where: str) -> dict[str, Column]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        loaded = load_file(path)
    except SafetensorError as error:
        raise UsageError(f"{where}: cannot be read ({error})") from None
    return {name: np.atleast_1d(array) for name, array in sorted(loaded.items())}


def features(table: Table, apart: set[str]) -> npt.NDArray[np.float32]:
    """The samples (n, ...): the array `x`, or else all columns but those in `apart`, one feature each (n, F).

    A column of texts becomes one feature for each of its texts. UsageError naming a column that cannot be used.
    """
    left = {name: column for name, column in table.columns.items() if name not in apart}
    array = left.get("x")
    if array is not None and array.ndim > 1:
        return _numbers(array, "x", table.where)

    parts: list[npt.NDArray[np.float32]] = []
    for name, column in left.items():
        if column.ndim != 1:
            raise UsageError(f"{table.where}: {name!r} is an array {column.shape}; call the array of samples x")
        if column.dtype.kind == "U":
            parts.append(_one_hot(column, name, table.where))
        else:
            parts.append(_numbers(column, name, table.where)[:, None])
    if not parts:
        raise UsageError(f"{table.where}: no column is left for features")
    return np.concatenate(parts, axis=1)


def _one_hot(column: Column, name: str, where: str) -> npt.NDArray[np.float32]:
    texts, place = np.unique(column, return_inverse=True)
    if len(texts) > ONE_HOT:
        raise UsageError(
            f"{where}: column {name!r} has {len(texts):,} different texts, too many to be features; leave it out, or "
            "turn it into numbers"
        )
    return np.eye(len(texts), dtype=np.float32)[place.reshape(-1)]


def _numbers(values: Column, name: str, where: str) -> npt.NDArray[np.float32]:
    """Finite float32; UsageError naming the row of another value."""
    if values.dtype.kind not in "fiub":
        raise UsageError(f"{where}: column {name!r} holds neither numbers nor texts")
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    broken = ~np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1)
    if broken.any():
        row = int(broken.argmax()) + 1
        raise UsageError(f"{where}: row {row}: column {name!r} has a value that is no finite number")
    return numbers
