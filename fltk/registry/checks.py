"""Whether the rows of a run are those that were stored: told by `verify`, and asked by a merge of what it takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.engine import Connection

from fltk.config import RunConfig, canonical_json
from fltk.errors import FltkError
from fltk.registry.artifacts import is_hash
from fltk.registry.blobs import DAMAGE, unpack_arrays, unpack_map
from fltk.registry.database import guard
from fltk.registry.reading import json_object
from fltk.registry.schema import (
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
from fltk.registry.sealing import rounds_of
from fltk.registry.seals import OF_RUN, Contents, Row, contents_of, round_seal, seal_of
from fltk.registry.stored_config import check_config


@dataclass
class RunCheck:
    """What is wrong with the rows of a run, a line each, and how many rounds were looked at."""

    told: list[str] = field(default_factory=list)
    rounds: int = 0


def check_run(connection: Connection, shown: str, number: int) -> RunCheck:
    """Look at every row of a run; `shown` is how errors call the database."""
    look = _Look(connection, shown, number)
    look.rounds()
    look.others()
    look.row()
    return look.found


def check_needs(connection: Connection, shown: str, number: int) -> list[str]:
    """What is wrong with the rows that a run refers to: its environment, its partition, and the names of its files."""
    told: list[str] = []
    with noting(told.append, shown):
        row = connection.execute(select(run).where(run.c.id == number)).mappings().one()
        for table, key in ((environment, "environment_id"), (partition, "partition_id")):
            if row[key] is None:
                continue
            needed = connection.execute(select(table).where(table.c.id == row[key])).mappings().first()
            if needed is None:
                told.append(f"its {table.name} is missing")
            elif needed["seal"] != seal_of(table, needed):
                told.append(f"its {table.name} does not match its seal: a value was changed")
            elif table is partition:
                json.loads(needed["config"]), json.loads(needed["summary"])
                _check_name(needed["sha256"])

        if row["diff_sha256"] is not None:
            _check_name(row["diff_sha256"])
        for name in connection.execute(select(checkpoint.c.sha256).where(checkpoint.c.run_id == number)).scalars():
            _check_name(name)
    return told


def _check_name(name: object) -> None:
    if not is_hash(name):
        raise FltkError(f"it names a file {name!r}, which is no SHA-256")


@contextmanager
def noting(tell: Callable[[str], None], shown: str) -> Iterator[None]:
    """What goes wrong in the block is told in one line, and the check goes on."""
    try:
        with guard(shown):
            yield
    except FltkError as error:
        tell(str(error))
    except DAMAGE as error:
        tell(f"stored values are damaged ({type(error).__name__}: {error})")


def contents_differences(
    stored: Contents, found: Contents, tables: Iterable[Table]
) -> Iterator[tuple[Table, str, list[int]]]:
    """Where an owner does not have the rows that its contents name: the table, a line, and the numbers of the rows."""
    for table in tables:
        kept, there = stored.of(table), found.of(table)
        missing = sorted(kept.numbers() - there.numbers())
        added = sorted(there.numbers() - kept.numbers())
        if missing:
            yield table, f"{_called(table, missing)} missing", missing
        if added:
            yield table, f"{_called(table, added)} there, and was not stored by fltk", added
        if missing or added or kept == there:
            continue
        if kept.count != there.count:
            yield table, f"{kept.count} {table.name}s were stored, and {there.count} are there", []
        else:
            yield table, f"the {table.name}s are not those that were stored", []


def _called(table: Table, numbers: Sequence[int]) -> str:
    """`round 3 is` or `rounds 3, 4 are`."""
    if len(numbers) == 1:
        return f"{table.name} {numbers[0]} is"
    return f"{table.name}s {shortened(numbers)} are"


def shortened(numbers: Sequence[int]) -> str:
    """The first ten numbers, and how many more there are."""
    text = ", ".join(str(number) for number in numbers[:10])
    return text if len(numbers) <= 10 else f"{text} and {len(numbers) - 10} more"


class _Look:
    """One run under examination."""

    def __init__(self, connection: Connection, shown: str, number: int) -> None:
        self.connection = connection
        self.shown = shown
        self.number = number
        self.found = RunCheck()
        self.rows: dict[str, list[Row]] = {}  # by the name of the table, as far as they could be read
        self.last = 0  # the highest round that is there

    def rounds(self) -> None:
        """The rounds with their scalars, client vectors and maps."""
        damaged: dict[str, str] = {}  # the first damage of each table

        def look(table: Table, number: int, values: Sequence[Any]) -> None:
            try:
                _CHECKS_OF_ROUND[table.name](self.number, number, *values)
            except FltkError as error:
                damaged.setdefault(table.name, str(error))
            except DAMAGE as error:
                damaged.setdefault(table.name, f"the {table.name} of round {number} is damaged ({error})")

        with noting(self.tell, self.shown):
            rows: list[Row] = []
            changed: list[int] = []
            # What was sealed as it was stored has the right form where the seal is right.
            sealed_late = self.connection.execute(select(run.c.sealed).where(run.c.id == self.number)).scalar()
            examined = None if sealed_late is None else look
            for row, parts in rounds_of(self.connection, self.number, examined):
                rows.append(row)
                if row["seal"] != round_seal(row, parts):
                    changed.append(row["round"])
            self.rows[round_.name] = rows
            self.found.rounds = len(rows)
            self.last = max((row["round"] for row in rows), default=0)
            if changed:
                self.tell_changed(round_, changed)
        for told in damaged.values():
            self.tell(told)

    def others(self) -> None:
        """Attempts, checkpoints, evaluations and tags."""
        for table in OF_RUN:
            if table is round_:
                continue
            with noting(self.tell, self.shown):
                query = select(table).where(table.c.run_id == self.number)
                rows = [dict(row) for row in self.connection.execute(query).mappings()]
                self.rows[table.name] = list(rows)
                changed = [row.get("id", row.get("key")) for row in rows if row["seal"] != seal_of(table, row)]
                if changed:
                    self.tell_changed(table, changed)
                for row in rows:
                    _CHECKS[table.name](row)

    def row(self) -> None:
        """The row of the run itself, and what it says that the run has."""
        with noting(self.tell, self.shown):
            row = self.connection.execute(select(run).where(run.c.id == self.number)).mappings().one()
            if row["seal"] != seal_of(run, row):
                self.tell("the row of the run does not match its seal: a value was changed")
            self.contents(row["contents"])
            _check_run(row)
            if row["rounds_done"] != self.last:
                raise FltkError(f"{row['rounds_done']} rounds were counted, and the last one stored is {self.last}")

    def contents(self, text: Any) -> None:
        """The rows that could be read are those that the run names."""
        readable = [table for table in OF_RUN if table.name in self.rows]
        found = contents_of([(table, self.rows[table.name]) for table in readable])
        for _, told, _ in contents_differences(Contents.read(text), found, readable):
            self.tell(told)

    def tell(self, text: str) -> None:
        self.found.told.append(text)

    def tell_changed(self, table: Table, numbers: Sequence[Any]) -> None:
        """Rows that do not match their seals."""
        several = len(numbers) > 1
        which = f"{table.name}s {shortened(numbers)}" if several else f"{table.name} {numbers[0]}"
        verb, own = ("do", "their seals") if several else ("does", "its seal")
        self.tell(f"{which} {verb} not match {own}: a value was changed")


def _check_run(row: Row) -> None:
    config = json_object(json.loads(row["config"]))
    check_config(config, row["kind"])
    for text in (row["origin"], row["git"], row["last"]):
        if not isinstance(json.loads(text), dict):
            raise ValueError("no JSON object")
    if not _has_hash(config, row["config_hash"]):
        raise FltkError("the configuration does not match its hash")


def _has_hash(config: dict[str, Any], stored: str) -> bool:
    """Whether this is the hash of a configuration, in the form of its time; one of another fltk counts as sound."""
    if hashlib.sha256(canonical_json(config).encode()).hexdigest() == stored:
        return True
    try:
        return RunConfig.from_dict(config).digest() == stored
    except FltkError:
        return True


def _check_scalar(run_id: int, number: int, key: Any, value: Any, kind: Any) -> None:
    plain = kind == 0 and isinstance(value, (float, int))
    special = kind in (1, 2, 3, 4) and value is None
    if not (plain or special):
        raise FltkError(f"the value of {key} in round {number} is damaged")


def _check_vector(run_id: int, number: int, key: Any, data: Any) -> None:
    if len(data) % 4:
        raise FltkError(f"the clients' values of {key} in round {number} are damaged")


def _check_map(run_id: int, number: int, kind: Any, slices: Any, shape: Any, ids: Any, data: Any) -> None:
    content = {"kind": kind, "slices": slices, "shape": shape, "ids": ids, "data": data}
    unpack_map(SimpleNamespace(run_id=run_id, round=number, **content), "stored")


def _check_attempt(row: Row) -> None:
    for name, then, now in json.loads(row["changes"] or "[]"):
        str(name), str(then), str(now)


def _check_checkpoint(row: Row) -> None:
    json.loads(row["meta"])


def _check_evaluation(row: Row) -> None:
    json.loads(row["summary"])
    unpack_arrays(row["data"], f"evaluation {row['id']}")


def _check_tag(row: Row) -> None:
    if not isinstance(row["key"], str) or not isinstance(row["value"], str):
        raise FltkError(f"the tag {row['key']!r} is damaged")


_CHECKS_OF_ROUND: dict[str, Callable[..., None]] = {
    scalar.name: _check_scalar,
    client_vector.name: _check_vector,
    map_.name: _check_map,
}
_CHECKS: dict[str, Callable[[Row], None]] = {
    attempt.name: _check_attempt,
    checkpoint.name: _check_checkpoint,
    evaluation.name: _check_evaluation,
    tag.name: _check_tag,
}
