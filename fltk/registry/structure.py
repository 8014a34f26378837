"""Whether the tables, views and triggers of a database are those that this fltk makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.pool import StaticPool

from fltk.registry import migrate
from fltk.registry.schema import VERSION_TABLE, metadata
from fltk.registry.views import VIEWS

Objects = dict[tuple[str, str], str]  # (type, name) -> definition


@dataclass(frozen=True)
class Difference:
    """A line about what is not as fltk makes it. harmless: an addition that changes nothing that is stored."""

    told: str
    harmless: bool = False


def differences(connection: Connection) -> Iterator[Difference]:
    """What differs from a new database of this fltk."""
    if connection.dialect.name == "sqlite":
        yield from _compared(_objects(connection), _expected())
    else:
        yield from _on_server(connection)


def _compared(found: Objects, expected: Objects) -> Iterator[Difference]:
    for (kind, name), definition in expected.items():
        there = found.get((kind, name))
        if there is None:
            yield Difference(f"the {kind} {name} is missing")
        elif there != definition:
            yield Difference(f"the {kind} {name} is not as fltk makes it")
    for kind, name in found:
        if (kind, name) not in expected:
            yield Difference(f"the {kind} {name} was not made by fltk", harmless=kind != "trigger")


def _objects(connection: Connection) -> Objects:
    """All objects of an SQLite database, without those that SQLite makes by itself."""
    statement = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    rows = connection.exec_driver_sql(statement).all()
    return {(str(kind), str(name)): f"{table}: {sql}" for kind, name, table, sql in rows}


@cache
def _expected() -> Objects:
    """The objects of a new database, which is made in memory."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    try:
        migrate.upgrade(engine)
        with engine.connect() as connection:
            return _objects(connection)
    finally:
        engine.dispose()


def _on_server(connection: Connection) -> Iterator[Difference]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    for change in compare_metadata(context, metadata):
        told = _described(change)
        yield Difference(f"the tables are not as fltk makes them: {told}", harmless=told.startswith("remove_"))
    yield from _server_triggers(connection)
    yield from _server_views(connection)


def _described(change: Any) -> str:
    """One change of alembic's comparison, such as ("add_column", None, "run", Column(...))."""
    first = change[0] if isinstance(change, list) else change
    names = [str(getattr(part, "name", part)) for part in first[1:] if part is not None]
    return f"{first[0]} {' '.join(names)}"


def _server_triggers(connection: Connection) -> Iterator[Difference]:
    """Triggers and rules of a PostgreSQL database, of which fltk makes none."""
    triggers = connection.exec_driver_sql("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal").scalars().all()
    for name in triggers:
        yield Difference(f"the trigger {name} was not made by fltk")
    statement = "SELECT rulename FROM pg_rules WHERE schemaname = current_schema()"
    for name in connection.exec_driver_sql(statement).scalars().all():
        yield Difference(f"the rule {name} was not made by fltk")


def _server_views(connection: Connection) -> Iterator[Difference]:
    """Views as PostgreSQL writes them back, beside temporary ones of the definitions here, which go at once."""
    statement = "SELECT viewname, definition FROM pg_views WHERE schemaname = current_schema()"
    found = _definitions(connection, statement)
    with connection.engine.connect() as other:
        transaction = other.begin()
        for view in VIEWS:
            other.exec_driver_sql(f"CREATE TEMPORARY VIEW expected_{view.name} AS {view.postgresql}")
        temporary = "SELECT viewname, definition FROM pg_views WHERE viewname LIKE 'expected\\_%%'"
        expected = _definitions(other, temporary)
        transaction.rollback()
    for view in VIEWS:
        if view.name not in found:
            yield Difference(f"the view {view.name} is missing")
        elif found[view.name] != expected[f"expected_{view.name}"]:
            yield Difference(f"the view {view.name} is not as fltk makes it")


def _definitions(connection: Connection, statement: str) -> dict[str, str]:
    """The answer of two columns, name and definition."""
    found: dict[str, str] = {}
    for name, definition in connection.exec_driver_sql(statement):
        found[str(name)] = str(definition)
    return found
