"""SQL of a user, which can read and nothing else."""

from __future__ import annotations

import json
import math
import re
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from fltk.errors import DamagedRun, UsageError
from fltk.registry.blobs import DAMAGE
from fltk.registry.database import advice, explain, guard, reason_of
from fltk.registry.schema import evaluation, run
from fltk.registry.store import Store

# A comment, blanks and parentheses may stand before the first word.
_FIRST = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]*)", re.DOTALL)
_READING = ("SELECT", "WITH", "VALUES", "EXPLAIN")
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_STEPS = 10_000  # of SQLite's machine between two calls
_LONGEST = 100_000_000  # bytes of one value


@dataclass(frozen=True)
class Answer:
    """Column names, each once, and rows of plain values; bytes come as hexadecimal text."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Limits:
    """What a query may take, so that one without an end has one: seconds (0: any time) and rows."""

    seconds: float = 60.0
    rows: int = 1_000_000


def query(store: Store, statement: str, limits: Limits = Limits()) -> Answer:  # it is frozen
    """Run one SELECT. UsageError, with what the database says, for anything else, for wrong SQL and beyond a limit."""
    match = _FIRST.match(statement)
    word = match[1].upper() if match else ""
    if word not in _READING:
        raise UsageError(f"SQL: one SELECT is taken, not {word or 'nothing'}: the registry is only read here")
    with guard(store.shown), closing(store._db.engine.raw_connection()) as connection:
        try:
            ask = _on_server if store._db.on_server else _on_file
            return ask(connection, statement, limits)
        except (sqlite3.Error, SQLAlchemyError) as error:
            _refuse_damaged_json(store, error)
            of_statement = "malformed JSON" in reason_of(error)  # the file itself is well
            if advice(error) and not of_statement:
                raise explain(error, store.shown) from error
            raise _wrong(error) from error
        except Exception as error:
            # The driver of a server has errors of its own, and is no dependency.
            if type(error).__module__.partition(".")[0] != "psycopg":
                raise
            _refuse_damaged_json(store, error)
            raise _wrong(error) from error
        finally:
            connection.invalidate()  # its restrictions must not meet another user of the pool


def _refuse_damaged_json(store: Store, error: Exception) -> None:
    """DamagedRun where the database could not read JSON and the registry has a run whose JSON is broken.

    The database does not say which row it was. Text of the user's own statement may be what is wrong, too; then every
    stored value can be read, and nothing is raised.
    """
    if "json" not in reason_of(error).lower():
        return
    columns = (
        select(run.c.id.label("run"), run.c.config.label("text")),
        select(evaluation.c.run_id.label("run"), evaluation.c.summary.label("text")),
    )
    with store._db.read() as connection:
        for query_of_table, what in zip(columns, ("its configuration", "the summary of an evaluation"), strict=True):
            for row in connection.execute(query_of_table):
                try:
                    json.loads(row.text)
                except DAMAGE as reason:
                    raise DamagedRun(row.run, f"{what} is no JSON ({reason})") from error


def _on_file(connection: PoolProxiedConnection, statement: str, limits: Limits) -> Answer:
    driver = connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.set_authorizer(_authorize)
    driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    deadline = time.monotonic() + limits.seconds if limits.seconds else math.inf
    late = False

    def progress() -> int:
        # SQLite computes outside Python, which looks for Ctrl-C only when it is called; raising in here ends the query.
        nonlocal late
        late = time.monotonic() > deadline
        return int(late)

    driver.set_progress_handler(progress, _STEPS)
    try:
        with closing(driver.execute(statement)) as cursor:
            return _answer(cursor.description, _limited(cursor, limits))
    except sqlite3.OperationalError as error:
        if late:
            raise _too_slow(limits) from None
        if "interrupted" in str(error):
            raise KeyboardInterrupt from None
        raise


def _limited(rows: Iterable[Sequence[Any]], limits: Limits) -> list[Sequence[Any]]:
    """All rows; UsageError when there are more than is allowed."""
    found = list(islice(rows, limits.rows + 1))
    if len(found) > limits.rows:
        raise UsageError(f"SQL: more than {limits.rows:,} rows; add LIMIT to the statement, or raise --max-rows")
    return found


def _too_slow(limits: Limits) -> UsageError:
    return UsageError(f"SQL: no answer within {limits.seconds:g} s; narrow the statement, or raise --timeout (0: none)")


def _authorize(action: int, name: str | None, *_: str | None) -> int:
    dangerous = action == sqlite3.SQLITE_FUNCTION and (name or "").lower() == "load_extension"
    return sqlite3.SQLITE_OK if action in _ALLOWED and not dangerous else sqlite3.SQLITE_DENY


def _on_server(connection: PoolProxiedConnection, statement: str, limits: Limits) -> Answer:
    driver: Any = connection.driver_connection
    driver.rollback()  # the transaction that the pool's own look has begun
    driver.read_only = True
    with closing(driver.cursor()) as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {int(limits.seconds * 1000)}")
        # Its protocol takes one statement: "SELECT 1; COMMIT; DROP ..." is refused by the server. Rows come one by one,
        # so that an answer without an end is not gathered in memory.
        try:
            rows = _limited(cursor.stream(statement), limits)
        except Exception as error:
            if type(error).__name__ == "QueryCanceled":
                raise _too_slow(limits) from None
            raise
        return _answer(cursor.description, rows)


def _answer(description: Sequence[Any] | None, rows: Sequence[Sequence[Any]]) -> Answer:
    names: list[str] = []
    for column in description or ():
        name, number = str(column[0]), 1
        while name in names:
            number += 1
            name = f"{column[0]}_{number}"
        names.append(name)
    return Answer(tuple(names), [tuple(_plain(value) for value in row) for row in rows])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, Decimal):
        return float(value)
    return value


def _wrong(error: Exception) -> UsageError:
    reason = reason_of(error)
    if "not authorized" in reason or "prohibited" in reason or "read-only transaction" in reason:
        return UsageError(f"SQL: {reason}: the registry is only read here")
    return UsageError(f"SQL: {reason.rstrip('.')}; `fltk sql --schema` lists the views and their columns")
