"""SQL of a user, which can read and nothing else."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection

from fltk.errors import UsageError
from fltk.registry.database import advice, explain, guard, reason_of
from fltk.registry.store import Store

# A comment, blanks and parentheses may stand before the first word.
_FIRST = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]*)", re.DOTALL)
_READING = ("SELECT", "WITH", "VALUES", "EXPLAIN")
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_STEPS = 10_000  # of SQLite's machine between two calls


@dataclass(frozen=True)
class Answer:
    """Column names, each once, and rows of plain values; bytes come as hexadecimal text."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def query(store: Store, statement: str) -> Answer:
    """Run one SELECT. UsageError, with what the database says, for anything else and for wrong SQL."""
    match = _FIRST.match(statement)
    word = match[1].upper() if match else ""
    if word not in _READING:
        raise UsageError(f"SQL: one SELECT is taken, not {word or 'nothing'}: the registry is only read here")
    with guard(store.shown), closing(store._db.engine.raw_connection()) as connection:
        try:
            return _on_server(connection, statement) if store._db.on_server else _on_file(connection, statement)
        except (sqlite3.Error, SQLAlchemyError) as error:
            if advice(error):
                raise explain(error, store.shown) from error
            raise _wrong(error) from error
        except Exception as error:
            # The driver of a server has errors of its own, and is no dependency.
            if type(error).__module__.partition(".")[0] != "psycopg":
                raise
            raise _wrong(error) from error
        finally:
            connection.invalidate()  # its restrictions must not meet another user of the pool


def _on_file(connection: PoolProxiedConnection, statement: str) -> Answer:
    driver = connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.set_authorizer(_authorize)
    # SQLite computes outside Python, which looks for Ctrl-C only when it is called; raising in there ends the query.
    driver.set_progress_handler(lambda: 0, _STEPS)
    try:
        with closing(driver.execute(statement)) as cursor:
            return _answer(cursor.description, cursor.fetchall())
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            raise KeyboardInterrupt from None
        raise


def _authorize(action: int, name: str | None, *_: str | None) -> int:
    dangerous = action == sqlite3.SQLITE_FUNCTION and (name or "").lower() == "load_extension"
    return sqlite3.SQLITE_OK if action in _ALLOWED and not dangerous else sqlite3.SQLITE_DENY


def _on_server(connection: PoolProxiedConnection, statement: str) -> Answer:
    driver: Any = connection.driver_connection
    driver.rollback()  # the transaction that the pool's own look has begun
    driver.read_only = True
    with closing(driver.cursor()) as cursor:
        # A prepared statement is one statement: "SELECT 1; COMMIT; DROP ..." is refused by the server.
        cursor.execute(statement, prepare=True)
        return _answer(cursor.description, cursor.fetchall())


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
