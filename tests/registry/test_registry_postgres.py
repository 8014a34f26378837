"""The same registry on a PostgreSQL server, which the tests start from Debian's packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from postgres import server
from stored import contents, copy_stored, verified

from fltk.cli.main import run as fltk
from fltk.errors import FltkError, UsageError
from fltk.registry import Store
from fltk.registry.database import upgrade_database
from fltk.registry.info import info
from fltk.registry.merge import merge
from fltk.registry.migrations.versions.v0004_seals import SEALED
from fltk.registry.query import query
from fltk.registry.schema import HEAD_REVISION
from fltk.registry.views import VIEWS

pytestmark = pytest.mark.slow
Begin = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]
TINY = ("--subset", "300", "--clients", "4", "--newcomers", "1")


@pytest.fixture(scope="module")
def running() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture
def url(running: str, tmp_path: Path) -> str:
    """An empty database of its own, with its artifacts in the test's folder."""
    from sqlalchemy import create_engine

    name = f"t{abs(hash(str(tmp_path)))}"
    engine = create_engine(running, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return running.replace("/postgres?", f"/{name}?") + f"&artifacts={tmp_path / 'files'}"


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_everything_comes_to_the_server_and_back(url: str, tmp_path: Path) -> None:
    old = copy_stored("schema-0001", tmp_path / "old.db")
    with Store(old, readonly=True, upgrade=False) as source, Store(url, create=True) as store:
        expected = contents(source)
        assert {m.state for m in merge(store, source)} == {"new"}
        assert {m.state for m in merge(store, source)} == {"present"}
        assert contents(store) == expected and verified(store).problems == []
        for view in VIEWS:
            statement = f"SELECT * FROM {view.name}"
            ours, theirs = query(store, statement), query(source, statement)
            assert ours.columns == theirs.columns == tuple(view.columns)
            assert sorted(map(repr, ours.rows)) == sorted(map(repr, theirs.rows)), view.name
    with Store(url, readonly=True) as source, Store(tmp_path / "back.db", create=True) as store:
        assert {m.state for m in merge(store, source)} == {"new"}
        assert contents(store) == expected and verified(store).problems == []
    assert info(url).counts["run"] == 4 and info(url).software.startswith("PostgreSQL")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE scalar SET value = .99 WHERE run_id = 1", "round"),
        ("DELETE FROM round WHERE run_id = 1 AND round = 3", "round 3 is missing"),
        ("UPDATE run SET seed = 9 WHERE id = 1", "does not match its seal"),
        ("DELETE FROM ledger", "is missing"),
        ("CREATE OR REPLACE VIEW v_tags AS SELECT run_id AS run, key, 'x'::text AS value FROM tag", "view v_tags"),
        ("DROP VIEW v_tags", "view v_tags is missing"),
        ("DROP INDEX ix_run_config_hash", "ix_run_config_hash"),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            "CREATE TRIGGER better BEFORE INSERT ON scalar FOR EACH ROW EXECUTE FUNCTION f()",
            "trigger better",
        ),
    ],
)
def test_edits_are_told(url: str, tmp_path: Path, statement: str, told: str) -> None:
    with (
        Store(copy_stored("schema-0001", tmp_path / "old.db"), readonly=True, upgrade=False) as source,
        Store(url, create=True) as store,
    ):
        merge(store, source)
        store.set_note(2, "sealed by this fltk")
        assert verified(store).problems == []
        with store._db.write() as connection:
            for part in statement.split("';"):
                connection.exec_driver_sql(part + ("'" if part.startswith("CREATE FUNCTION") else ""))
        problems = verified(store).problems
        assert any(told in problem.told for problem in problems) and not all(problem.harmless for problem in problems)


def test_labels_removal_and_garbage(url: str, tmp_path: Path) -> None:
    with (
        Store(copy_stored("schema-0001", tmp_path / "old.db"), readonly=True, upgrade=False) as source,
        Store(url, create=True) as store,
    ):
        merge(store, source)
        before = contents(store)
        store.set_note(2, "ø\n" * 5_000)
        store.set_tag(2, "größe", "ü")
        store.rename(3, "試")
        assert store.find_run("試").id == 3 and store.runs(tag="größe=ü")[0].note == "ø\n" * 5_000
        assert [row.id for row in store.runs(where=["rounds=3", "alpha<0.5"])] == [2, 3]
        with pytest.raises(UsageError, match="'試' is taken by run3"):
            store.rename(2, "試")
        store.remove_runs([1, 2])
        done = store.collect_garbage()
        assert [row.id for row in done.runs] == [2] and [held.run.id for held in done.held] == [1]
        assert len(done.files) == 1 and verified(store).problems == []
        store.restore_runs([1])
        assert contents(store)[store.find_run(1).uuid] == before[store.find_run(1).uuid]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM run", "one SELECT is taken"),
        ("SELECT 1; DROP TABLE run", "multiple commands"),
        ("SELECT 1; COMMIT; DROP TABLE run", "multiple commands"),
        ("WITH x AS (DELETE FROM tag RETURNING *) SELECT * FROM x", "read-only"),
        ("SELECT nextval('run_id_seq')", "read-only"),
        ("SELECT set_config('transaction_read_only', 'off', false)", "read-write mode"),
        ("EXPLAIN ANALYZE DELETE FROM tag", "read-only"),
        ("SELECT 1 INTO theirs", "read-only"),
        ("SELECT nope FROM v_runs", "nope"),
    ],
)
def test_sql_only_reads(url: str, statement: str, told: str) -> None:
    with Store(url, create=True) as store:
        with pytest.raises(UsageError, match="SQL: ") as caught:
            query(store, statement)
        assert told in str(caught.value) and "\n" not in str(caught.value)
        assert query(store, "SELECT count(*) FROM run").rows == [(0,)]


def test_an_older_schema_is_upgraded_by_hand(url: str, begin: Begin) -> None:
    with Store(url, create=True) as store:
        begin(store)
        with store._db.write() as connection:
            for view in reversed(VIEWS):
                connection.exec_driver_sql(f"DROP VIEW {view.name}")
            for index in ("ix_run_parent", "ix_run_diff_sha256", "ix_partition_sha256"):
                connection.exec_driver_sql(f"DROP INDEX {index}")
            for table in SEALED:
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN seal")
            connection.exec_driver_sql("ALTER TABLE run DROP COLUMN contents, DROP COLUMN sealed, DROP COLUMN removed")
            connection.exec_driver_sql("DROP TABLE ledger")
            connection.exec_driver_sql("ALTER TABLE attempt DROP COLUMN changes")
            connection.exec_driver_sql("UPDATE fltk_schema_version SET version_num = '0001'")
    for readonly in (True, False):
        with pytest.raises(FltkError, match="save it with pg_dump, then run `fltk db upgrade`"):
            Store(url, readonly=readonly)
    assert info(url).schema == "0001"
    done = upgrade_database(url)
    assert (done.before, done.after, done.backup) == ("0001", HEAD_REVISION, None)
    with Store(url) as store:
        assert len(store.runs()) == 1 and query(store, "SELECT count(*) FROM v_runs").rows == [(1,)]
        assert verified(store).problems == [] and verified(store).sealed_late == 1
        with store._db.write() as connection:
            connection.exec_driver_sql("UPDATE fltk_schema_version SET version_num = '9999'")
    with Store(url) as store, pytest.raises(FltkError, match="was written by a newer fltk"):
        store.set_note(1, "x")


def test_what_is_no_registry_is_refused(url: str, running: str) -> None:
    with pytest.raises(FltkError, match="no registry at"):
        Store(url)
    with pytest.raises(FltkError, match="does not exist"):
        Store(running.replace("/postgres?", "/nowhere?"), create=True)
    from sqlalchemy import create_engine

    engine = create_engine(url.rpartition("&")[0])
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE run (wine TEXT)")
    engine.dispose()
    with pytest.raises(FltkError, match=r"holds tables of another program \(run\)"):
        Store(url, create=True)


def test_the_commands(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def called(*args: str) -> str:
        assert fltk(["--db", url, "-q", *args]) == 0, capsys.readouterr()
        return capsys.readouterr().out

    called("train", *TINY, "--method", "attn,local", "--rounds", "12")
    called("evaluate", "run1", "run2")
    assert "identical" in called("reproduce", "run1")
    assert "run2" in called("runs", "--where", "alpha<0.5") and "attn" in called("runs", "run1")
    called("plot", "attention-maps", "run1", "-o", str(tmp_path / "maps.png"))
    assert "verdict: sound" in called("verify")
    called("runs", "tag", "a=b", "run1")
    assert called("sql", "SELECT method FROM v_runs ORDER BY run", "--format", "csv") == "method\nattn\nlocal\n"
    called("runs", "rm", "run2")
    assert "deleted: yes" in called("db", "gc", "--yes")
    assert "PostgreSQL" in called("db", "info")


WRITER = """
import sys
import numpy as np
from fltk.config import RunConfig
from fltk.registry import MapBlob, Store
with Store(sys.argv[1], create=True) as store:
    run = store.begin_run(RunConfig().to_dict(), "c", seed=0, data_fingerprint="d", environment={}, git={})
    store.start_attempt(run)
    for number in range(1, int(sys.argv[2]) + 1):
        vector, blob = np.full(300, number, np.float32), MapBlob("k", ("s",), np.full((1, 20, 20), number))
        store.record_round(run, number, {"a": number}, {"b": vector}, blob, str(number))
        store.save_partition({}, {"weights": vector}, f"{run}-{number}", "d", {})
        print(run, number, flush=True)
    store.finish(run, "done")
"""


def check(store: Store, run: int, least: int) -> None:
    digests = store.digests(run)
    assert list(digests) == list(range(1, len(digests) + 1)) and len(digests) >= least
    assert store.client_values(run, "b")[1][:, -1].tolist() == list(digests)
    assert [m.array[0, 0, 0] for m in store.maps(run)] == list(digests)


def test_processes_create_and_write_at_once(url: str) -> None:
    writers = [start(WRITER, url, 60) for _ in range(6)]
    for writer in writers:
        writer.communicate(timeout=300)
    assert [writer.returncode for writer in writers] == [0] * 6
    with Store(url, readonly=True) as store:
        assert len(store.runs()) == 6 and {row.status for row in store.runs()} == {"done"}
        for row in store.runs():
            check(store, row.id, 60)
        assert all(np.all(store.partition_arrays(p.id)["weights"] > 0) for p in store.partitions())


def test_a_writer_killed_at_any_moment_leaves_whole_rounds(url: str) -> None:
    reported: dict[int, int] = {}
    for rounds in (1, 3, 7, 12):
        writer = start(WRITER, url, 100_000)
        assert writer.stdout is not None
        for _ in range(rounds):
            run, number = map(int, writer.stdout.readline().split())
            reported[run] = number
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    with Store(url) as store:
        for run, number in reported.items():
            check(store, run, number)
        assert {row.status for row in store.runs()} == {"stale"}
        store.remove_runs(list(reported))
        assert len(store.collect_garbage().runs) == 4 and store.runs(removed=True) == []


def test_a_reader_is_not_blocked_by_a_writer(url: str, begin: Begin) -> None:
    with Store(url, create=True) as store, Store(url, readonly=True) as reader:
        begin(store)
        with store._db.write() as connection:
            connection.exec_driver_sql("UPDATE run SET note = 'half'")
            assert [row.note for row in reader.runs()] == [""]
            assert query(reader, "SELECT note FROM v_runs").rows == [("",)]
