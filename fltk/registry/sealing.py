"""Writing rows with their seals: every change of a sealed table goes through here.

A row that did not match its seal before it is changed keeps the old seal, so that its damage is still told afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, delete, insert, select, update
from sqlalchemy.engine import Connection

from fltk.registry.schema import ledger, metadata, round_, run
from fltk.registry.seals import (
    OF_REGISTRY,
    OF_ROUND,
    OF_RUN,
    Contents,
    Part,
    Parts,
    Row,
    contents_of,
    mark_of,
    number_of,
    part_columns,
    part_of,
    round_seal,
    seal_of,
)

LEDGER = 1  # the id of its only row
Rows = Mapping[str, Sequence[Row]]
Look = Callable[[Table, int, Sequence[Any]], None]


class Sealing:
    """The writes of one transaction. What owners have is brought up to date by `flush`, at its end.

    `connection` is for reading. A run is read once: its columns change through `update_run` alone.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._runs: dict[int, dict[str, Any]] = {}  # as stored
        self._changes: dict[int, dict[str, Any]] = {}  # columns of runs that `flush` writes
        # Rows that came and went, by their owner: a run, or None for the registry.
        self._came: dict[int | None, list[tuple[Table, int | None, str]]] = {}
        self._went: dict[int | None, list[tuple[Table, int | None, str]]] = {}
        self._last: dict[str, int] = {}

    def insert(self, table: Table, values: Row) -> int:
        """Store a row of any table but `round`; returns its id, 0 in a table without ids."""
        row = dict(values)
        if table is run:
            row["contents"] = Contents().to_json()
        row["seal"] = seal_of(table, row)
        key = self.connection.execute(insert(table).values(row)).inserted_primary_key
        assert key is not None
        number = int(key[0]) if "id" in table.c else 0
        self._arrived(table, {**row, "id": number})
        if table.dialect_options["sqlite"]["autoincrement"]:
            self._last[table.name] = number
        return number

    def insert_round(self, row: Row, parts: Rows) -> None:
        """Store a round, in place of what was stored for it. `parts`: its rows by the name of the table."""
        self._delete_round(row["run_id"], row["round"])
        entering = {}
        for table in OF_ROUND:
            names = [column.name for column in part_columns(table)]
            stored = parts.get(table.name, ())
            entering[table.name] = [part_of(table, [row.get(name) for name in names]) for row in stored]
        sealed = {**row, "seal": round_seal(row, entering)}
        self.connection.execute(insert(round_).values(sealed))
        for table in OF_ROUND:
            rows = parts.get(table.name)
            if rows:
                self.connection.execute(insert(table), list(rows))
        self._arrived(round_, sealed)

    def insert_rounds(self, run_id: int, rows: Rows) -> None:
        """Store rounds with the seals that they have in another registry, by the name of the table."""
        for table in (round_, *OF_ROUND):
            moved = [{**row, "run_id": run_id} for row in rows.get(table.name, ())]
            if moved:
                self.connection.execute(insert(table), moved)
            if table is round_:
                for row in moved:
                    self._arrived(round_, row)

    def update(self, table: Table, condition: ColumnElement[bool], values: Row) -> int:
        """Change columns of all rows that fulfil a condition; returns how many they are. Not for runs and rounds."""
        rows = self.connection.execute(select(table).where(condition)).mappings().all()
        for row in rows:
            self.update_row(table, row, values)
        return len(rows)

    def update_row(self, table: Table, row: Row, values: Row) -> None:
        """Change columns of one row, which was read in this transaction."""
        changed = {**row, **values}
        sound = row["seal"] == seal_of(table, row)
        changed["seal"] = seal_of(table, changed) if sound else row["seal"]
        self.connection.execute(update(table).where(_is(table, row)).values({**values, "seal": changed["seal"]}))
        self._departed(table, row)
        self._arrived(table, changed)

    def delete(self, table: Table, condition: ColumnElement[bool]) -> int:
        """Delete all rows that fulfil a condition; returns how many there were. Not for runs and rounds."""
        rows = self.connection.execute(select(table).where(condition)).mappings().all()
        if rows:
            self.connection.execute(delete(table).where(condition))
        for row in rows:
            self._departed(table, row)
        return len(rows)

    def run(self, run_id: int) -> dict[str, Any] | None:
        """The row of a run as it was when it was first asked for; None where there is none."""
        if run_id not in self._runs:
            row = self.connection.execute(select(run).where(run.c.id == run_id)).mappings().first()
            if row is None:
                return None
            self._runs[run_id] = dict(row)
        return self._runs[run_id]

    def update_run(self, run_id: int, values: Row) -> None:
        """Change columns of a run, when the transaction ends."""
        self._changes.setdefault(run_id, {}).update(values)

    def delete_run(self, run_id: int) -> None:
        """Delete a run with all that belongs to it."""
        row = self.run(run_id)
        if row is None:
            return
        for table in OF_RUN:  # what belongs to rounds goes with them
            self.connection.execute(delete(table).where(table.c.run_id == run_id))
        self.connection.execute(delete(run).where(run.c.id == run_id))
        self._departed(run, row)
        for notes in (self._runs, self._changes, self._came, self._went):
            notes.pop(run_id, None)

    def flush(self) -> None:
        """Write what changed of the runs and of the ledger."""
        touched = {*self._changes, *self._came, *self._went} - {None}
        for run_id in sorted(number for number in touched if number is not None):
            self._write_run(run_id)
        if self._last or None in self._came or None in self._went:
            self._write_ledger()
        for notes in (self._runs, self._changes, self._came, self._went, self._last):
            notes.clear()

    def _write_run(self, run_id: int) -> None:
        row = self.run(run_id)
        if row is None:
            return
        changes = self._changes.get(run_id, {})
        contents = self._renewed(row["contents"], run_id)
        if contents is not None:
            changes = {**changes, "contents": contents}
        if row["seal"] == seal_of(run, row):
            changes = {**changes, "seal": seal_of(run, {**row, **changes})}
        if changes:
            self.connection.execute(update(run).where(run.c.id == run_id).values(changes))

    def _write_ledger(self) -> None:
        stored = self.connection.execute(select(ledger.c.contents).where(ledger.c.id == LEDGER)).scalar()
        contents = self._renewed(stored, None)
        if contents is not None:
            self.connection.execute(update(ledger).where(ledger.c.id == LEDGER).values(contents=contents))

    def _renewed(self, stored: Any, owner: int | None) -> str | None:
        """The contents of an owner after this transaction; None where the stored ones are lost or damaged."""
        try:
            contents = Contents.read(stored)
        except (ValueError, TypeError, AttributeError, KeyError):
            return None
        for table, number, mark in self._went.get(owner, ()):
            contents.of(table).remove(number, mark)
        for table, number, mark in self._came.get(owner, ()):
            contents.of(table).add(number, mark)
        if owner is None:
            contents.last.update(self._last)
        return contents.to_json()

    def _arrived(self, table: Table, row: Row) -> None:
        owner = row["run_id"] if table in OF_RUN else None
        self._came.setdefault(owner, []).append((table, number_of(table, row), mark_of(table, row)))

    def _departed(self, table: Table, row: Row) -> None:
        owner = row["run_id"] if table in OF_RUN else None
        self._went.setdefault(owner, []).append((table, number_of(table, row), mark_of(table, row)))

    def _delete_round(self, run_id: int, number: int) -> None:
        which = and_(round_.c.run_id == run_id, round_.c.round == number)
        old = self.connection.execute(select(round_).where(which)).mappings().first()
        if old is not None:
            self.connection.execute(delete(round_).where(which))  # its scalars, vectors and map go with it
            self._departed(round_, old)


def seal_everything(connection: Connection, now: float) -> None:
    """Seal a registry of an fltk without seals as it is; `now` is kept with its runs, in seconds since 1970."""
    for table in OF_RUN + OF_REGISTRY:
        if table not in (round_, run):
            _seal_rows(connection, table)
    for run_id in connection.execute(select(run.c.id).order_by(run.c.id)).scalars().all():
        _seal_run(connection, run_id, now)

    contents = contents_of([(table, _rows(connection, table)) for table in OF_REGISTRY])
    contents.last = _last_numbers(connection)
    connection.execute(delete(ledger))
    connection.execute(insert(ledger).values(id=LEDGER, contents=contents.to_json()))


def _seal_run(connection: Connection, run_id: int, now: float) -> None:
    for row, parts in list(rounds_of(connection, run_id)):
        which = and_(round_.c.run_id == run_id, round_.c.round == row["round"])
        connection.execute(update(round_).where(which).values(seal=round_seal(row, parts)))

    owned = [(table, _rows(connection, table, table.c.run_id == run_id)) for table in OF_RUN]
    (row,) = _rows(connection, run, run.c.id == run_id)
    values = {"contents": contents_of(owned).to_json(), "sealed": now}
    seal = seal_of(run, {**row, **values})
    connection.execute(update(run).where(run.c.id == run_id).values({**values, "seal": seal}))


def _seal_rows(connection: Connection, table: Table) -> None:
    for row in _rows(connection, table):
        connection.execute(update(table).where(_is(table, row)).values(seal=seal_of(table, row)))


def rounds_of(connection: Connection, run_id: int, look: Look | None = None) -> Iterator[tuple[Row, Parts]]:
    """The rounds of a run in order, with what `round_seal` takes of each.

    `look` is called with the table, the round and the values of every row of `OF_ROUND`. Large rows are not kept in
    memory.
    """
    parts: dict[int, dict[str, list[Part]]] = {}
    for table in OF_ROUND:
        query = select(table.c.round, *part_columns(table)).where(table.c.run_id == run_id)
        result = connection.execute(query, execution_options={"yield_per": 500})
        for rows in result.partitions():
            for number, *values in rows:
                if look is not None:
                    look(table, number, values)
                of_round = parts.setdefault(number, {})
                of_round.setdefault(table.name, []).append(part_of(table, values))

    for row in _rows(connection, round_, round_.c.run_id == run_id):
        yield row, parts.get(row["round"], {})


def _rows(connection: Connection, table: Table, condition: ColumnElement[bool] | None = None) -> list[dict[str, Any]]:
    """Rows in the order of their keys."""
    query = select(table).order_by(*table.primary_key)
    if condition is not None:
        query = query.where(condition)
    return [dict(row) for row in connection.execute(query).mappings()]


def _is(table: Table, row: Row) -> ColumnElement[bool]:
    """The condition that picks one row by its key."""
    return and_(*[column == row[column.name] for column in table.primary_key])


def _last_numbers(connection: Connection) -> dict[str, int]:
    """The highest number that each table without repeated numbers ever gave, where the database knows it."""
    last: dict[str, int] = {}
    for table in metadata.sorted_tables:
        if not table.dialect_options["sqlite"]["autoincrement"]:
            continue
        number = connection.execute(select(table.c.id).order_by(table.c.id.desc()).limit(1)).scalar() or 0
        last[table.name] = max(number, sequence_of(connection, table) or 0)
    return last


def sequence_of(connection: Connection, table: Table) -> int | None:
    """The highest number that SQLite remembers to have given to a row of a table; None where it is not kept."""
    if connection.dialect.name != "sqlite":
        return None
    statement = "SELECT seq FROM sqlite_sequence WHERE name = ?"
    found = connection.exec_driver_sql(statement, (table.name,)).scalar()
    return None if found is None else int(found)
