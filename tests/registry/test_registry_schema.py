"""The schema and its migrations agree; upgrades keep what was there."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url
from sqlalchemy.schema import CreateTable

from fltk.errors import FltkError
from fltk.registry import Store, database, migrate, schema, views

Begin = Callable[..., int]

AHEAD = f"{int(schema.HEAD_REVISION) + 1:04}"
NEXT = f'''"""Only for tests."""
import sqlalchemy as sa
from alembic import op

revision = "{AHEAD}"
down_revision = "{schema.HEAD_REVISION}"


def upgrade() -> None:
    with op.batch_alter_table("run") as batch:
        batch.alter_column("note", new_column_name="remark")
'''


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    return ScriptDirectory.from_config(config)


def test_the_constant_is_alembics_head() -> None:
    assert scripts().get_heads() == [schema.HEAD_REVISION]
    assert tuple(s.revision for s in reversed(list(scripts().walk_revisions()))) == schema.REVISIONS


def test_the_migrations_make_the_schema(store: Store) -> None:
    with store._db.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSION_TABLE})
        assert compare_metadata(context, schema.metadata) == []


def test_ids_are_not_used_twice_and_details_survive_the_migration(store: Store, begin: Begin) -> None:
    begin(store)
    with store._db.write() as connection:
        connection.exec_driver_sql("DELETE FROM run")
    assert begin(store) == 2
    with store._db.read() as connection:
        sql = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'scalar'").scalar_one()
        assert "WITHOUT ROWID" in sql and "ON DELETE CASCADE" in sql


def test_connections_are_set_up(store: Store) -> None:
    expected = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1, "busy_timeout": 30_000}
    with store._db.read() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in expected}
    assert found == expected


def test_postgresql_can_express_every_table() -> None:
    dialect = make_url("postgresql+psycopg://").get_dialect()()
    for table in schema.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=dialect))


def test_seals_can_be_taken_back(store: Store, begin: Begin) -> None:
    """The downgrade of 0004 leaves the schema of 0003, with all values."""
    store.set_note(begin(store), "kept")
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    with store._db.write() as connection:
        config.attributes["connection"] = connection
        views.drop(connection)
        command.downgrade(config, "0003")
        names = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(run)")]
        assert names[-1] == "removed" and not {"seal", "sealed", "contents"} & set(names)
        assert migrate.revision(connection) == "0003"
        assert connection.exec_driver_sql("SELECT note FROM run").scalar() == "kept"
        assert connection.exec_driver_sql("SELECT count(*) FROM sqlite_master WHERE name = 'ledger'").scalar() == 0
    store.close()
    with Store(store.shown) as again:  # and the upgrade can be made once more
        assert again.runs()[0].note == "kept"


@pytest.fixture
def future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An fltk with one more revision."""
    folder = tmp_path / "100% migrations"
    shutil.copytree(migrate.SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / f"v{AHEAD}_next.py").write_text(NEXT)
    monkeypatch.setattr(migrate, "SCRIPTS", folder)
    monkeypatch.setattr(migrate, "HEAD_REVISION", AHEAD)
    monkeypatch.setattr(database, "HEAD_REVISION", AHEAD)
    monkeypatch.setattr(database, "REVISIONS", (*schema.REVISIONS, AHEAD))


@pytest.mark.parametrize("readonly", [False, True])
def test_an_older_database_is_backed_up_and_upgraded(
    database: Path, begin: Begin, readonly: bool, request: pytest.FixtureRequest
) -> None:
    with Store(database, create=True) as store:
        store.set_note(begin(store), "kept")
    request.getfixturevalue("future")
    with Store(database, readonly=readonly) as store:
        assert store.notice is not None and f"upgraded to schema {AHEAD}" in store.notice
        with store._db.read() as connection:
            assert connection.exec_driver_sql("SELECT remark FROM run").scalar() == "kept"
    with Store(database) as store:
        assert store.notice is None
    with closing(sqlite3.connect(database.with_name(f"results.db.before-{AHEAD}"))) as copy:
        assert copy.execute("SELECT note FROM run").fetchone() == ("kept",)
    assert len(list(database.parent.glob("*.before-*"))) == 1


def test_a_failed_upgrade_changes_nothing(database: Path, begin: Begin, request: pytest.FixtureRequest) -> None:
    with Store(database, create=True) as store:
        begin(store)
    request.getfixturevalue("future")
    broken = NEXT + '    op.execute("SELECT * FROM nowhere")\n'
    (migrate.SCRIPTS / "versions" / f"v{AHEAD}_next.py").write_text(broken)
    with pytest.raises(FltkError, match="nowhere"):
        Store(database)
    with closing(sqlite3.connect(database)) as connection:
        stored = connection.execute("SELECT version_num FROM fltk_schema_version").fetchone()
        assert stored == (schema.HEAD_REVISION,)
        assert connection.execute("SELECT note FROM run").fetchone() == ("",)


def test_a_newer_database_opens_for_reading_only(database: Path, begin: Begin) -> None:
    with Store(database, create=True) as store:
        begin(store, name="a")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE fltk_schema_version SET version_num = '9999'")
        connection.commit()
    with Store(database, create=True) as store:
        assert store.readonly and store.notice is not None and "written by a newer fltk (schema 9999" in store.notice
        assert store.find_run("a").id == 1
        with pytest.raises(FltkError, match="newer fltk"):
            begin(store)
    assert [path.name for path in database.parent.iterdir()] == ["results.db"]
