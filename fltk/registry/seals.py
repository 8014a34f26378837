"""Seals: SHA-256 digests of what was stored, by which `fltk verify` names what has changed since.

    row       its columns, except its number, the number of its run, and the seal
    round     its row, and the scalars, client vectors and the map of this round
    run       its row with `contents`: the numbers of its attempts, rounds, checkpoints, evaluations and tags, and for
              each of these tables the sum of the links (number, seal) of its rows
    ledger    the same sums for runs, partitions, environments and artifacts

A changed value breaks the seal of its row. A row that is lost, added, moved or exchanged breaks the contents of its
owner. Adding a round changes two sums and one seal, however many rounds there are. Seals do not depend on the numbers
that a merge changes. They find damage and edits; they are no signature, for whoever knows this file can renew them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, Float, LargeBinary, Table

from fltk.registry.schema import (
    artifact,
    attempt,
    checkpoint,
    client_vector,
    environment,
    evaluation,
    map_,
    partition,
    round_,
    run,
    scalar,
    tag,
)

OF_RUN = (attempt, round_, checkpoint, evaluation, tag)  # rows that belong to a run
OF_REGISTRY = (run, partition, environment, artifact)
OF_ROUND = (scalar, client_vector, map_)
_NUMBER = {round_.name: "round", artifact.name: None, tag.name: None}  # of other tables: id
# Columns that do not enter: a row keeps its seal when a merge gives it another number.
_LEFT_OUT = ("id", "run_id", "seal")
_MODULUS = 1 << 256

Row = Mapping[Any, Any]  # values by the name of their column
Part = list[Any]
Parts = Mapping[str, Sequence[Part]]


def seal_of(table: Table, row: Row) -> str:
    """The seal of a row; NULL does not enter, so that a later revision may add columns."""
    return _digest([table.name, _values(table, row)])


def round_seal(row: Row, parts: Parts) -> str:
    """The seal of a round; `parts` has, by the name of the table, what `part_of` makes of its rows, in any order."""
    content: list[Any] = [round_.name, _values(round_, row)]
    for table in OF_ROUND:
        content.append(sorted(parts.get(table.name, ()), key=_first))
    return _digest(content)


def part_of(table: Table, values: Iterable[Any]) -> Part:
    """What enters the seal of a round of one row of `OF_ROUND`: small, however large the row is.

    `values` are those of `part_columns`. NULL at the end does not enter, so that a later revision may add columns.
    """
    part = list(values)
    for position, plain in _PLAIN[table.name]:
        if part[position] is not None:
            part[position] = plain(part[position])
    while part and part[-1] is None:
        part.pop()
    return part


def part_columns(table: Table) -> list[Column[Any]]:
    """The columns of a table of `OF_ROUND` that enter a seal."""
    return [column for column in table.c if column.name not in ("run_id", "round")]


def number_of(table: Table, row: Row) -> int | None:
    """The number by which messages call a row; None in a table without numbers."""
    column = _NUMBER.get(table.name, "id")
    return None if column is None else int(row[column])


def mark_of(table: Table, row: Row) -> str:
    """What stands for a row in the sums of its owner: its seal; of a run, whose seal changes every round, its UUID."""
    return str(row["uuid"] if table is run else row["seal"])


def _values(table: Table, row: Row) -> dict[str, Any]:
    """The columns of a row as JSON knows them."""
    floats = _FLOATS[table.name]
    values: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or name in _LEFT_OUT:
            continue
        if isinstance(value, (bytes, memoryview)):
            value = _plain_bytes(value)
        elif name in floats:
            value = _plain_float(value)
            if value is None:
                continue
        values[name] = value
    return values


def _plain_float(value: Any) -> Any:
    """A number as databases give it back: no -0.0, no whole numbers, and NaN is NULL. Anything else as it is."""
    if not isinstance(value, (int, float)):
        return value
    return None if math.isnan(value) else float(value) + 0.0


def _plain_bytes(value: Any) -> Any:
    """The digest of bytes; anything else as it is."""
    if not isinstance(value, (bytes, memoryview)):
        return value
    return {"sha256": hashlib.sha256(value).hexdigest()}


def _first(part: Part) -> str:
    return str(part[0]) if part else ""


_FLOATS: dict[str, set[str]] = {}  # by the name of a table: its columns of floats
_PLAIN: dict[
    str, list[tuple[int, Callable[[Any], Any]]]
] = {}  # of `OF_ROUND`: what is made of the values at a position
for _table in (*OF_RUN, *OF_REGISTRY):
    _FLOATS[_table.name] = {column.name for column in _table.c if isinstance(column.type, Float)}
for _table in OF_ROUND:
    _PLAIN[_table.name] = []
    for _position, _column in enumerate(part_columns(_table)):
        if isinstance(_column.type, Float):
            _PLAIN[_table.name].append((_position, _plain_float))
        elif isinstance(_column.type, LargeBinary):
            _PLAIN[_table.name].append((_position, _plain_bytes))


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Rows:
    """The rows of one table that an owner has: how many, the sum of their links, and their numbers as ranges."""

    count: int = 0
    total: int = 0
    ranges: list[list[int]] = field(default_factory=list)

    def add(self, number: int | None, mark: str) -> None:
        """One more row."""
        self.count += 1
        self.total = (self.total + _link(number, mark)) % _MODULUS
        if number is not None:
            self.ranges = _joined([*self.ranges, [number, number]])

    def remove(self, number: int | None, mark: str) -> None:
        """One row less."""
        self.count -= 1
        self.total = (self.total - _link(number, mark)) % _MODULUS
        if number is not None:
            self.ranges = _without(self.ranges, number)

    def numbers(self) -> set[int]:
        """All numbers."""
        found: set[int] = set()
        for first, last in self.ranges:
            found.update(range(first, last + 1))
        return found


@dataclass
class Contents:
    """What an owner has, by the name of the table. `last`: the highest number that a table ever gave to a row."""

    rows: dict[str, Rows] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> Contents:
        """From JSON; ValueError, TypeError or AttributeError for what is none."""
        stored = json.loads(text)
        rows = {}
        for name, (count, total, ranges) in stored["rows"].items():
            rows[str(name)] = Rows(int(count), int(total, 16), [[int(first), int(last)] for first, last in ranges])
        return cls(rows, {str(name): int(number) for name, number in stored["last"].items()})

    def to_json(self) -> str:
        """As stored."""
        rows = {name: [kept.count, f"{kept.total:064x}", kept.ranges] for name, kept in self.rows.items()}
        return json.dumps({"last": self.last, "rows": rows}, sort_keys=True, separators=(",", ":"))

    def of(self, table: Table) -> Rows:
        """The rows of a table; none where none were added yet."""
        return self.rows.setdefault(table.name, Rows())


def contents_of(tables: Iterable[tuple[Table, Iterable[Row]]]) -> Contents:
    """The contents of an owner that has these rows."""
    contents = Contents()
    for table, rows in tables:
        kept = contents.of(table)
        for row in rows:
            kept.add(number_of(table, row), mark_of(table, row))
    return contents


def _link(number: int | None, mark: str) -> int:
    """A number below 2^256 that binds a row to its number."""
    text = f"{'' if number is None else number}:{mark}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def _joined(ranges: Iterable[list[int]]) -> list[list[int]]:
    """Ranges in order, neighbours made one: [[1, 2], [5, 5], [3, 3]] -> [[1, 3], [5, 5]]."""
    result: list[list[int]] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1][1] = max(result[-1][1], last)
        else:
            result.append([first, last])
    return result


def _without(ranges: Iterable[list[int]], number: int) -> list[list[int]]:
    result: list[list[int]] = []
    for first, last in ranges:
        if not first <= number <= last:
            result.append([first, last])
            continue
        if first < number:
            result.append([first, number - 1])
        if number < last:
            result.append([number + 1, last])
    return result
