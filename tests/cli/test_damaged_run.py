"""A registry with damaged runs: each is named, everything else is listed, and it can be removed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from calls import fltk
from stored_runs import add_run

from fltk.errors import DamagedRun
from fltk.registry import MapBlob, Store
from fltk.registry.merge import REFUSED, merge

ROW = {
    "config": "UPDATE run SET config = '{' WHERE id = 2",
    "list": "UPDATE run SET config = '[]' WHERE id = 2",
    "without method": "UPDATE run SET config = json_remove(config, '$.method') WHERE id = 2",
    "without params": "UPDATE run SET config = json_remove(config, '$.params') WHERE id = 2",
    "without rounds": "UPDATE run SET config = json_remove(config, '$.train.rounds') WHERE id = 2",
    "partition": "UPDATE run SET config = json_set(config, '$.partition', 3) WHERE id = 2",
    "alpha": "UPDATE run SET config = json_set(config, '$.partition.alpha', 'small') WHERE id = 2",
    "origin": "UPDATE run SET origin = 'x' WHERE id = 2",
    "git": "UPDATE run SET git = '{\"a\":' WHERE id = 2",
    "last": 'UPDATE run SET last = \'{"personal_test_acc": "high"}\' WHERE id = 2',
    "seed": "UPDATE run SET seed = 'one' WHERE id = 2",
    "created": "UPDATE run SET created = 'today' WHERE id = 2",
    "rounds": "UPDATE run SET rounds_done = 'all' WHERE id = 2",
}
VALUES = (
    "UPDATE scalar SET value = 'high' WHERE run_id = 4",
    "UPDATE client_vector SET data = x'000000' WHERE run_id = 5",
    "UPDATE evaluation SET data = x'00' WHERE run_id = 6",
    "UPDATE evaluation SET summary = '{' WHERE run_id = 7",
    "UPDATE run SET note = CAST(x'fffe' AS TEXT) WHERE id = 8",
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight finished and evaluated runs of two methods."""
    path = tmp_path_factory.mktemp("runs") / "runs.db"
    with Store(path, create=True) as store:
        for seed in range(4):
            for method in ("fedavg", "local"):
                add_run(store, method, seed, 0.5 + seed / 10, evaluated=0.6)
    return path


@pytest.fixture
def db(stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(stored.with_suffix(".artifacts"), tmp_path / "runs.artifacts")
    return Path(shutil.copyfile(stored, tmp_path / "runs.db"))


def damage(db: Path, *statements: str) -> None:
    with closing(sqlite3.connect(db)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0
        connection.commit()


@pytest.mark.parametrize("name", ROW)
def test_a_row_that_cannot_be_read_names_its_run(db: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    damage(db, ROW[name])
    with Store(db) as store:
        assert [row.id for row in store.runs()] == [1, 3, 4, 5, 6, 7, 8]
        assert len(store.runs()) == 7 and caplog.text.count("run2 is damaged") == 1, "it is told once"
        for look in (store.find_run, lambda ref: store.find_runs([ref, "run1"])):
            with pytest.raises(DamagedRun, match=r"run2 is damaged: .*`fltk runs rm run2` removes it"):
                look("run2")
        store.remove_runs([2])
        assert store.garbage().runs[0].id == 2
        assert [row.id for row in store.collect_garbage().runs] == [2]
        assert store.runs(where=["method=local"])[0].id == 4


def test_values_that_cannot_be_read_name_their_run(db: Path) -> None:
    damage(db, *VALUES)
    with Store(db, readonly=True) as store:
        for number, read in {
            4: lambda: store.scalars(4),
            5: lambda: store.client_values(5, "personal_test_acc"),
            7: lambda: store.evaluations(7),
        }.items():
            with pytest.raises(DamagedRun, match=f"run{number} is damaged"):
                read()


@pytest.mark.parametrize(
    "words",
    [
        ("runs",),
        ("compare",),
        ("export", "--what", "client-metrics"),
    ],
    ids=lambda words: words[0],
)
def test_commands_on_many_runs_go_on(db: Path, words: tuple[str, ...]) -> None:
    damage(db, ROW["config"], *VALUES)
    more = ("-o", str(db.with_name("numbers.csv"))) if words[0] == "export" else ()
    called = fltk(db, *words, *more, quiet=False)
    assert called.code == 0 and "internal error" not in called.err, called
    assert "run2 is damaged" in called.err
    read = {"runs": "run2", "compare": "run7", "export": "run5"}[words[0]]
    assert f"{read} is damaged" in called.err


def test_a_report_leaves_damaged_runs_out_and_names_them(db: Path) -> None:
    """run2 cannot be read at all; of run4 a number, of run7 an evaluation."""
    damage(db, ROW["config"], *VALUES)
    page = db.with_name("page.html")
    called = fltk(db, "report", "run1", "run2", "run3", "run4", "run7", "-o", str(page), quiet=False)
    assert called.code == 0 and "internal error" not in called.err, called
    for number in (2, 4, 7):
        assert called.err.count(f"run{number} is damaged") == 1
        assert page.read_text().count(f"run{number} is damaged") == 1
        assert f'id="run{number}"' not in page.read_text()
    assert 'id="run1"' in page.read_text() and 'id="run3"' in page.read_text()


@pytest.mark.parametrize("number", [2, 4])
def test_a_report_of_a_damaged_run_alone_is_refused(db: Path, number: int) -> None:
    damage(db, ROW["config"], *VALUES)
    called = fltk(db, "report", f"run{number}", "-o", str(db.with_name("page.html")))
    assert f"run{number} is damaged" in called.line and not db.with_name("page.html").exists()


@pytest.mark.parametrize(
    ("view", "statement", "number"),
    [("v_runs", ROW["config"], 2), ("v_settings", ROW["config"], 2), ("v_evaluations", VALUES[3], 7)],
)
def test_a_query_over_broken_json_names_the_run(db: Path, view: str, statement: str, number: int) -> None:
    damage(db, statement)
    called = fltk(db, "sql", f"SELECT * FROM {view}")
    assert called.code == 1 and f"run{number} is damaged" in called.line and f"fltk runs rm run{number}" in called.line


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE map SET ids = '\"x\"' WHERE run_id = 1",
        "UPDATE map SET slices = '[null]' WHERE run_id = 1",
        "UPDATE map SET shape = '[1, 2]' WHERE run_id = 1",
    ],
)
def test_a_map_whose_description_is_damaged_is_left_out(db: Path, statement: str) -> None:
    blob = MapBlob("attention", ("whole",), np.full((1, 2, 2), 0.5, np.float32))
    with Store(db) as store:
        store.record_round(1, 3, {}, {}, blob, "digest")
    damage(db, statement)
    called = fltk(db, "export", "--what", "maps", "run1", "-o", str(db.with_name("maps.npz")), quiet=False)
    assert "internal error" not in called.err and "run1 is damaged" in called.err


def test_broken_json_in_the_statement_blames_no_run(db: Path) -> None:
    told = fltk(db, "sql", "SELECT json('{')").line
    assert "malformed JSON" in told and "run" not in told.split("malformed")[0]


def test_a_damaged_run_is_verified_and_removed(db: Path) -> None:
    damage(db, ROW["config"])
    assert "run2 is damaged" in fltk(db, "runs", "run2").line
    checked = fltk(db, "verify", "run2", "--json")
    assert checked.code == 1 and json.loads(checked.out)["rows"][0]["runs"] == ["run2"]
    others = json.loads(fltk(db, "verify", "run1", "--json").out)["rows"]
    assert [row for row in others if row["what"] == "run"] == []
    assert json.loads(fltk(db, "runs", "rm", "run2", "run3", "--json").out)["rows"][0]["state"] == "removed, damaged"
    called = fltk(db, "runs", "--json", quiet=False)
    assert called.err == "" and len(json.loads(called.out)["rows"]) == 6


def test_a_merge_takes_the_sound_runs_alone(db: Path, tmp_path: Path) -> None:
    damage(db, ROW["seed"], *VALUES)
    with Store(db, readonly=True) as source, Store(tmp_path / "here.db", create=True) as store:
        told = merge(store, source)
        assert [entry.there for entry in told if entry.state == REFUSED] == [2, 4, 5, 6, 7, 8]
        assert all("damaged there" in entry.notes[0] for entry in told if entry.state == REFUSED)
        assert len(store.runs()) == 2
