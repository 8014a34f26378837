"""SQL of users: documented views with the numbers of the store, and no way to change anything."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fltk.errors import FltkError, UsageError
from fltk.registry import Store
from fltk.registry.query import Limits, query
from fltk.registry.views import VIEWS

Begin = Callable[..., int]

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.1, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1.1754944e-38, 1e-40, 3.4028235e38]


def test_every_view_has_the_documented_columns(lab: Path) -> None:
    with Store(lab, readonly=True) as store:
        for view in VIEWS:
            answer = query(store, f"SELECT * FROM {view.name}")
            assert answer.columns == tuple(view.columns) and answer.rows, view.name
            assert view.help and all(view.columns.values())


def test_the_views_tell_what_the_store_tells(lab: Path) -> None:
    with Store(lab, readonly=True) as store:

        def asked(sql: str) -> list[tuple[object, ...]]:
            return query(store, sql).rows

        for row in store.runs():
            (found,) = asked(
                f"SELECT name, method, alpha, clients, model, rounds, parent FROM v_runs WHERE run = {row.id}"
            )
            partition, train = row.config["partition"], row.config["train"]
            expected = (row.name, row.method, partition["alpha"], partition["clients"], train["model"])
            assert found == (*expected, row.rounds_done, row.parent)
            settings = dict(asked(f"SELECT key, value FROM v_settings WHERE run = {row.id}"))
            assert settings["train.lr"] == str(train["lr"]) and settings["method"] == row.method
            assert settings["partition.balance"] == "true"
            rounds = asked(f"SELECT round, digest FROM v_rounds WHERE run = {row.id} ORDER BY round")
            assert dict(rounds) == store.digests(row.id)
            for key, (numbers, values) in store.scalars(row.id).items():
                got = asked(f"SELECT round, value FROM v_metrics WHERE run = {row.id} AND key = '{key}' ORDER BY round")
                assert [r for r, _ in got] == numbers.tolist()
                assert all(g == v or (g is None and math.isnan(v)) for (_, g), v in zip(got, values, strict=True))
            last = asked(f"SELECT personal_test_acc FROM v_runs WHERE run = {row.id}")[0][0]
            assert last == row.last.get("personal_test_acc")
        (model, value) = asked("SELECT model, value FROM v_evaluations WHERE key = 'acc_mean' ORDER BY model LIMIT 1")[
            0
        ]
        stored = {r["model"]: r["acc_mean"] for r in store.evaluations(2)[0].summary["rows"]}
        assert stored[model] == value
        assert asked("SELECT key, value FROM v_tags ORDER BY key") == [("keep", ""), ("paper", "icml")]
        assert len(asked("SELECT * FROM v_checkpoints WHERE run = 1")) == 2


def test_each_bit_of_a_clients_value_is_decoded(store: Store, begin: Begin) -> None:
    run = begin(store)
    bits = np.random.default_rng(0).integers(0, 2**32, 3000, np.uint32)
    every = np.concatenate([np.array(SPECIAL, np.float32), bits.view(np.float32)])
    store.record_round(run, 1, {}, {"a": every, "empty": np.zeros(0, np.float32)}, None, "d")
    rows = query(store, "SELECT client, value FROM v_client_metrics WHERE key = 'a' ORDER BY client").rows
    assert [client for client, _ in rows] == list(range(len(every)))
    for value, (_, found) in zip(every.tolist(), rows, strict=True):
        assert found == value or (found is None and math.isnan(value))
    assert query(store, "SELECT count(*) FROM v_client_metrics WHERE key = 'empty'").rows == [(0,)]


def test_special_numbers_and_settings(store: Store, begin: Begin, config: dict[str, object]) -> None:
    config["params"] = {"top": math.inf, "low": -math.inf, "x": math.nan, "text": "ü", "list": [1, 2]}
    run = begin(store, config=config, name="試 'x'", kind="join")
    store.record_round(run, 1, {"a": math.nan, "b": math.inf, "c": -math.inf}, {}, None, "d")
    values = dict(query(store, "SELECT key, value FROM v_metrics").rows)
    assert values == {"a": None, "b": math.inf, "c": -math.inf}
    settings = dict(query(store, "SELECT key, value FROM v_settings WHERE key LIKE 'params.%'").rows)
    assert settings["params.text"] == "ü" and settings["params.list"] == "[1,2]" and settings["params.x"] is None
    assert query(store, "SELECT name, kind, alpha FROM v_runs").rows == [("試 'x'", "join", 0.1)]


def test_removed_runs_are_in_no_view(lab: Path) -> None:
    with Store(lab) as store:
        store.remove_runs([row.id for row in store.runs()])
        for view in VIEWS:
            assert query(store, f"SELECT * FROM {view.name}").rows == [], view.name


WRITING = (
    "DELETE FROM run",
    "UPDATE run SET note = 'x'",
    "INSERT INTO tag VALUES (1, 'a', 'b')",
    "DROP TABLE tag",
    "CREATE TABLE theirs (a)",
    "CREATE TEMP TABLE theirs (a)",
    "ALTER TABLE run RENAME TO walk",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "PRAGMA query_only = OFF",
    "PRAGMA journal_mode = DELETE",
    "ATTACH 'other.db' AS other",
    "REINDEX",
    "ANALYZE",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "SELECT 1; DELETE FROM run",
    "SELECT load_extension('x')",
    "WITH x AS (SELECT 1) DELETE FROM run",
    "-- a comment\nDELETE FROM run",
    "SELECT * FROM pragma_journal_mode('delete')",
    "",
    "  -- nothing",
)


@pytest.mark.parametrize("statement", WRITING)
def test_nothing_can_be_written(lab: Path, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, names = lab.read_bytes(), sorted(path.name for path in lab.parent.iterdir())
    monkeypatch.chdir(lab.parent)
    for readonly in (True, False):
        with Store(lab, readonly=readonly) as store:
            with pytest.raises(UsageError, match="SQL: ") as caught:
                query(store, statement)
            assert "\n" not in str(caught.value)
            assert len(store.runs()) == 4
    assert sorted(path.name for path in lab.parent.iterdir()) == names and lab.read_bytes() == before


def test_reading_in_many_ways(lab: Path) -> None:
    with Store(lab, readonly=True) as store:
        assert query(store, "SELECT 1 AS a, 2 AS a, x'00ff' AS b, NULL").columns == ("a", "a_2", "b", "NULL")
        assert query(store, "SELECT x'00ff'").rows == [("00ff",)]
        assert query(store, "/* c */ VALUES (1), (2)").rows == [(1,), (2,)]
        assert query(
            store, "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select sum(i) from n"
        ).rows == [(15,)]
        assert query(store, "EXPLAIN QUERY PLAN SELECT * FROM v_runs").rows
        assert query(store, "SELECT run FROM v_runs WHERE method = 'none'").rows == []


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SELECT nope FROM v_runs", "no such column: nope; `fltk sql --schema` lists"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT FROM", "syntax error"),
        ("FETCH everything", "one SELECT is taken, not FETCH"),
    ],
)
def test_wrong_sql_says_what_is_wrong(lab: Path, statement: str, told: str) -> None:
    with Store(lab, readonly=True) as store, pytest.raises(UsageError, match="SQL: ") as caught:
        query(store, statement)
    assert told in str(caught.value)


def test_ctrl_c_ends_a_long_query(lab: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Store(lab, readonly=True) as store:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                query(store, endless)
            assert len(store.runs()) == 4
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_a_query_sees_no_half_round(store: Store, begin: Begin) -> None:
    """A reader beside a writer: the writer's transaction is not seen before it ends."""
    run = begin(store)
    with Store(store.shown, readonly=True) as reader, store._db.write() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO round (run_id, round, digest, recorded) VALUES ({run}, 1, 'd', {time.time()})"
        )
        assert query(reader, "SELECT count(*) FROM v_rounds").rows == [(0,)]


def test_a_damaged_database_is_told_as_such(lab: Path) -> None:
    data = bytearray(lab.read_bytes())
    data[8192:] = b"\xa5" * (len(data) - 8192)
    lab.write_bytes(data)
    with pytest.raises(FltkError, match="damaged"), Store(lab, readonly=True) as store:
        query(store, "SELECT * FROM v_metrics")


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


def test_a_query_without_an_end_is_ended(store: Store) -> None:
    with pytest.raises(UsageError, match=r"no answer within 0\.1 s; .*--timeout"):
        query(store, f"{ENDLESS} SELECT max(x) FROM c", Limits(seconds=0.1))
    with pytest.raises(UsageError, match=r"more than 1,000 rows; .*--max-rows"):
        query(store, f"{ENDLESS} SELECT x FROM c", Limits(rows=1000))
    with pytest.raises(UsageError, match="too big"):
        query(store, "SELECT hex(zeroblob(1000000000))")
    limited = query(store, f"{ENDLESS} SELECT x FROM c LIMIT 1000", Limits(rows=1000))
    assert len(limited.rows) == 1000 and query(store, "SELECT 1", Limits(seconds=0)).rows == [(1,)]
