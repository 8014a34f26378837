"""The registry from the shell: labels, removal, merging, SQL, verification, and what a user sees of damage."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from calls import TINY, done, fltk
from processes import clean_environment
from stored import copy_stored

from fltk.registry import Store
from fltk.registry.schema import HEAD_REVISION
from fltk.registry.views import VIEWS


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Four runs: run1 (größe) with two checkpoints, run2 evaluated, run3, and run4 (unfinished) made of run1."""
    path = copy_stored("schema-0001", tmp_path / "lab.db")
    Store(path).close()
    path.with_name(f"lab.db.before-{HEAD_REVISION}").unlink()
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of this fltk, so that their code is the present one: fedavg and local, on one partition."""
    db = tmp_path_factory.mktemp("trained") / "r.db"
    done(db, "train", *TINY, "--method", "fedavg,local")
    return db


def rows(db: Path, *args: str) -> list[dict[str, Any]]:
    """The rows of a command that has to succeed."""
    found: list[dict[str, Any]] = json.loads(done(db, *args, "--json"))["rows"]
    return found


def names(db: Path, *args: str) -> list[str]:
    return [row["run"] for row in rows(db, "runs", *args)]


# Runs


def test_runs_lists_and_shows_as_before(lab: Path) -> None:
    assert names(lab) == names(lab, "list") == ["run1", "run2", "run3", "run4"]
    assert names(lab, "--method", "attn") == ["run1", "run4"]
    assert done(lab, "runs", "run1") == done(lab, "runs", "list", "run1") == done(lab, "runs", "größe")
    assert "went on" not in done(lab, "runs", "-h") and "Commands:" in done(lab, "runs", "-h")
    assert "no run 'frob'" in fltk(lab, "runs", "frob").line
    assert "filters, --by-seed and --best-on go with the list" in fltk(lab, "runs", "run1", "--tag", "keep").line


def test_global_options_may_stand_anywhere(lab: Path) -> None:
    other = lab.with_name("none.db")
    for args in (
        ("runs", "--db", str(lab)),
        ("runs", f"--db={lab}", "-v"),
        ("runs", "--db", str(lab), "rm", "run3"),
        ("runs", "--no-color", "restore", "--db", str(lab), "run3"),
        ("runs", "restore", "-h"),
    ):
        assert fltk(other, *args).code == 0, args


def test_removing_and_restoring(lab: Path) -> None:
    out = rows(lab, "runs", "rm", "größe", "run3")
    assert [(row["run"], row["state"]) for row in out] == [("run1", "removed"), ("run3", "removed")]
    assert names(lab) == ["run2", "run4"] and names(lab, "--removed") == ["run1", "run3"]
    assert "'run1' was removed; `fltk runs restore run1` brings it back" in fltk(lab, "runs", "run1").line
    for args in (
        ("evaluate", "run1"),
        ("resume", "run1"),
        ("plot", "curves", "run1", "-o", "a.png"),
        ("runs", "rm", "run1"),
    ):
        assert "was removed" in fltk(lab, *args).line
    assert "no run 'run9'" in fltk(lab, "runs", "rm", "run2", "run9").line
    assert names(lab) == ["run2", "run4"], "none is removed when one cannot be"
    done(lab, "runs", "restore", "größe", "run3")
    assert names(lab) == ["run1", "run2", "run3", "run4"]
    assert "is not removed" in fltk(lab, "runs", "restore", "run1").line


def test_a_removed_run_does_not_count_as_done(trained: Path, tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    shutil.copyfile(trained, db)
    shutil.copytree(trained.with_name("r.artifacts"), tmp_path / "r.artifacts")
    again = ("train", *TINY, "--method", "fedavg", "--skip-done")
    done(db, *again)
    assert names(db) == ["run1", "run2"]
    done(db, "runs", "rm", "run1")
    done(db, *again)
    assert names(db) == ["run2", "run3"]


def test_tags(lab: Path) -> None:
    out = rows(lab, "runs", "tag", "paper=Tabelle 1", "run1", "run2", "run1")
    assert [(row["run"], row["tags"]) for row in out] == [
        ("run1", ["keep", "paper=Tabelle 1"]),
        ("run2", ["paper=Tabelle 1"]),
    ]
    assert names(lab, "--tag", "paper=Tabelle 1") == ["run1", "run2"]
    done(lab, "runs", "tag", "--remove", "paper", "run1")
    assert names(lab, "--tag", "paper") == ["run2"] and names(lab, "--tag", "keep") == ["run1"]
    assert "--tag takes KEY" in fltk(lab, "runs", "tag", "=x", "run1").line
    assert "no run 'run9'" in fltk(lab, "runs", "tag", "a", "run1", "run9").line
    assert names(lab, "--tag", "a") == []


def test_notes(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "ø\n試 " * 2_500
    assert len(long) == 10_000
    done(lab, "runs", "note", "run2", long)
    assert done(lab, "runs", "note", "run2") == long + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("from\na pipe\n"))
    done(lab, "runs", "note", "run2", "-")
    assert done(lab, "runs", "note", "run2") == "from\na pipe\n"
    done(lab, "runs", "note", "run2", "")
    assert done(lab, "runs", "note", "run2") == ""
    assert "--note" in fltk(lab, "runs", "note", "run2", "\udcff").line


# SQL


def test_sql_in_every_format(lab: Path) -> None:
    statement = "SELECT run, name, alpha FROM v_runs WHERE method = 'attn' ORDER BY run"
    expected = [{"run": 1, "name": "größe", "alpha": 0.1}, {"run": 4, "name": "unfinished", "alpha": 0.1}]
    assert rows(lab, "sql", statement) == expected
    assert [json.loads(line) for line in done(lab, "sql", statement, "--format", "jsonl").splitlines()] == expected
    table = list(csv.DictReader(io.StringIO(done(lab, "sql", statement, "--format", "csv"))))
    assert table[0] == {"run": "1", "name": "größe", "alpha": "0.1"}
    assert done(lab, "sql", statement).splitlines()[0].split() == ["run", "name", "alpha"]
    assert r"\toprule" in done(lab, "sql", statement, "--format", "latex")
    assert rows(lab, "sql", "SELECT 1 WHERE 0") == []


def test_sql_schema_names_every_column(tmp_path: Path) -> None:
    found = rows(tmp_path / "none.db", "sql", "--schema")
    assert [(row["view"], row["column"]) for row in found] == [(v.name, c) for v in VIEWS for c in v.columns]


def test_sql_refuses_in_one_line(lab: Path) -> None:
    before = lab.read_bytes()
    for args, told in (
        (("DELETE FROM run",), "one SELECT is taken, not DELETE"),
        (("SELECT 1; DROP TABLE run",), "SQL: "),
        (("SELECT nope FROM v_runs",), "no such column: nope"),
        ((), "name a SELECT"),
        (("SELECT 1", "--schema"), "--schema takes no statement"),
    ):
        called = fltk(lab, "sql", *args)
        assert called.code == 2 and told in called.line
    assert "no registry" in fltk(lab.with_name("none.db"), "sql", "SELECT 1").line
    assert lab.read_bytes() == before


# The database as a whole


def test_info(lab: Path, tmp_path: Path) -> None:
    facts = {row["key"]: row["value"] for row in rows(lab, "db", "info")}
    assert (facts["runs"], facts["removed runs"], facts["partitions"], facts["rounds"]) == (4, 0, 1, 18)
    assert facts["schema"] == f"{HEAD_REVISION} (the newest)" and facts["bytes"] == lab.stat().st_size
    sizes = [path.stat().st_size for path in (tmp_path / "lab.artifacts").rglob("*") if path.is_file()]
    assert (facts["artifacts"], facts["artifact bytes"]) == (len(sizes), sum(sizes))
    done(lab, "runs", "rm", "run2")
    facts = {row["key"]: row["value"] for row in rows(lab, "db", "info")}
    assert (facts["runs"], facts["removed runs"]) == (3, 1)
    old = copy_stored("schema-0001", tmp_path / "old.db")
    before = old.read_bytes()
    assert f"0001 (older than {HEAD_REVISION} of this fltk)" in done(old, "db", "info")
    assert old.read_bytes() == before and not list(tmp_path.glob("old.db?*"))
    assert "no registry" in fltk(tmp_path / "none.db", "db", "info").line


def test_upgrading_is_told_once(tmp_path: Path) -> None:
    old = copy_stored("schema-0001", tmp_path / "old.db")
    called = fltk(old, "runs", quiet=False)
    assert called.code == 0 and called.out.count("\n") == 5
    assert called.err == (
        f"fltk: {old} was upgraded to schema {HEAD_REVISION}; its previous state is in {old}.before-{HEAD_REVISION}\n"
    )
    assert fltk(old, "runs", quiet=False).err == ""
    second = copy_stored("schema-0001", tmp_path / "second.db")
    facts = {row["key"]: row["value"] for row in rows(second, "db", "upgrade")}
    assert (facts["before"], facts["after"]) == ("0001", HEAD_REVISION) and Path(facts["previous state"]).exists()
    assert {row["key"]: row["value"] for row in rows(second, "db", "upgrade")}["previous state"] is None


def test_a_newer_database_is_read_and_not_written(lab: Path) -> None:
    with closing(sqlite3.connect(lab)) as connection:
        connection.execute("UPDATE fltk_schema_version SET version_num = '9999'")
        connection.commit()
    before = lab.read_bytes()
    called = fltk(lab, "runs", quiet=False)
    assert called.code == 0 and called.out.count("\n") == 5
    assert called.err.count("\n") == 1 and "written by a newer fltk (schema 9999" in called.err
    for args in (
        ("runs", "rm", "run1"),
        ("runs", "note", "run1", "x"),
        ("runs", "tag", "a", "run1"),
        ("db", "gc", "--yes"),
        ("db", "upgrade"),
        ("train", *TINY),
        ("partition", *TINY[:-2]),
        ("resume", "run1"),
        ("attack", "--kind", "sign-flip", "--run", "run1"),
    ):
        called = fltk(lab, *args, quiet=False)
        assert called.code == 1 and called.line.count("written by a newer fltk") == 1, args
        assert called.line.count("--db") == 1, args
    assert lab.read_bytes() == before


def test_merging(lab: Path, trained: Path, tmp_path: Path) -> None:
    db = tmp_path / "all.db"
    assert "no registry" in fltk(db, "db", "merge", str(tmp_path / "none.db")).line and not db.exists()
    told = rows(db, "db", "merge", str(trained), str(lab))
    assert [(row["there"], row["here"], row["state"]) for row in told] == [
        ("run1", "run1", "new"),
        ("run2", "run2", "new"),
        *[(f"run{i}", f"run{i + 2}", "new") for i in (1, 2, 3, 4)],
    ]
    assert {row["from"] for row in told} == {str(trained), str(lab)}
    assert {row["state"] for row in rows(db, "db", "merge", str(lab))} == {"present"}
    assert len(names(db)) == 6
    done(db, "verify")
    done(db, "evaluate", "run1")
    assert "is the registry itself" in fltk(db, "db", "merge", str(db)).line
    assert not (tmp_path / "none.db").exists()


def test_a_merge_that_refuses_a_run_says_so(lab: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(lab)) as connection:
        connection.execute("UPDATE checkpoint SET sha256 = '/etc/passwd' WHERE run_id = 2")
        connection.commit()
    called = fltk(tmp_path / "here.db", "db", "merge", str(lab), "--json")
    told = json.loads(called.out)["rows"]
    assert called.code == 1 and [row["state"] for row in told] == ["new", "refused", "new", "new"]
    assert told[1]["here"] is None and "checkpoint 3 does not match its seal" in told[1]["note"]


def test_garbage(lab: Path, tmp_path: Path) -> None:
    assert "nothing was deleted" not in fltk(lab, "db", "gc", quiet=False).err
    done(lab, "runs", "rm", "run1", "run2")
    folder = tmp_path / "lab.artifacts"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    called = fltk(lab, "db", "gc", quiet=False)
    assert called.err == "nothing was deleted; `fltk db gc --yes` does it\n"
    assert "run2" in called.out and "stays: run4, which is kept, was made of it" in called.out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    told = json.loads(done(lab, "db", "gc", "--yes", "--json"))
    assert (told["deleted"], told["runs"], told["files"]) == (True, 1, 1)
    assert names(lab) == ["run3", "run4"] and names(lab, "--removed") == ["run1"]
    done(lab, "verify")


# Damage: a clear line, an exit code, and everything else is still readable


def test_a_sound_registry_verifies(trained: Path) -> None:
    out = done(trained, "verify")
    assert "verdict: sound" in out and "checked: 2 runs, 4 rounds" in out
    told = json.loads(done(trained, "verify", "run1", "--json"))
    assert told["verdict"] == "sound" and told["rows"] == []
    assert "no run 'run9'" in fltk(trained, "verify", "run9").line


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained registry to damage."""
    shutil.copyfile(trained, tmp_path / "r.db")
    shutil.copytree(trained.with_name("r.artifacts"), tmp_path / "r.artifacts")
    return tmp_path / "r.db"


def checkpoint(db: Path, run: int) -> Path:
    with Store(db, readonly=True) as store:
        return store._files.path(store.checkpoints(run)[-1].sha256)


def test_a_damaged_checkpoint(copy: Path) -> None:
    path = checkpoint(copy, 1)
    data = path.read_bytes()
    path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    called = fltk(copy, "evaluate", "run1")
    assert called.code == 1 and f"artifact file {path} is damaged" in called.line
    for args in (("evaluate", "run1"), ("join-new-client", "run1"), ("plot", "embeddings", "run1")):
        assert "or retrain it: `fltk resume run1 --from-round 0`" in fltk(copy, *args).line, args
    told = fltk(copy, "verify", "--json")
    (problem,) = json.loads(told.out)["rows"]
    assert told.code == 1 and told.err == "" and problem["runs"] == ["run1"] and "is damaged" in problem["problem"]
    assert fltk(copy, "verify", "run2").code == 0
    done(copy, "evaluate", "run2")
    done(copy, "runs")
    done(copy, "runs", "run1")
    done(copy, "plot", "curves", "run1", "-o", str(copy.with_name("a.png")))
    path.write_bytes(data)
    done(copy, "verify")
    done(copy, "evaluate", "run1")


def test_a_deleted_checkpoint_is_trained_again_where_it_is_needed(copy: Path) -> None:
    before = json.loads(done(copy, "evaluate", "run1", "--json"))["rows"]
    path = checkpoint(copy, 1)
    path.unlink()
    told = fltk(copy, "verify", "--json")
    (problem,) = json.loads(told.out)["rows"]
    assert told.code == 1 and problem["runs"] == ["run1"] and "is missing" in problem["problem"]

    called = fltk(copy, "evaluate", "run1", "--json", quiet=False)
    assert "its weights are not here; its 2 rounds are trained again" in called.err
    assert json.loads(called.out)["rows"] == before
    shutil.rmtree(copy.with_name("r.artifacts"))
    joined = json.loads(done(copy, "join-new-client", "run1", "--json"))
    assert any("run1 was trained again: its weights were not here" in note for note in joined["notes"])
    done(copy, "plot", "embeddings", "run1", "-o", str(copy.with_name("e.png")))
    done(copy, "export", "run1", "--what", "weights", "--client", "0", "-o", str(copy.with_name("w.safetensors")))
    assert not path.exists()


def test_weights_that_come_out_otherwise_are_not_used_in_silence(copy: Path) -> None:
    """Other rounding is told; other numbers are refused, and nothing is stored."""
    checkpoint(copy, 1).unlink()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE round SET digest = 'other' WHERE run_id = 1")
        connection.commit()
    called = fltk(copy, "join-new-client", "run1", "--json", quiet=False)
    assert called.code == 0 and "run1 was trained again, with other rounding" in called.err
    with Store(copy) as store:
        rounds, values = store.scalars(1, "personal_test_acc")["personal_test_acc"]
    assert rounds[-1] == 2 and values[-1] > 0
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE scalar SET value = value + 0.5 WHERE run_id = 1 AND key = 'personal_test_acc'")
        connection.commit()
    assert "run1 comes out otherwise: personal_test_acc" in fltk(copy, "evaluate", "run1").line


def test_a_deleted_partition(copy: Path) -> None:
    """It is dealt again, and stored again, where it is needed; that it is missing is told by who asks for that."""
    with Store(copy) as store:
        path = store._files.path(store.find_partition(1).sha256)
    path.unlink()
    told = fltk(copy, "verify", "--json")
    (problem,) = json.loads(told.out)["rows"]
    assert told.code == 1 and problem["runs"] == ["run1", "run2"] and f"{path} is missing" in problem["problem"]
    done(copy, "evaluate", "run1")
    done(copy, "verify")
    done(copy, "runs", "run1")
    done(copy, "train", *TINY, "--method", "fedprox", "--clients", "5")


def test_a_truncated_database(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)
    for args in (("runs",), ("verify",), ("db", "info"), ("sql", "SELECT * FROM v_metrics"), ("train", *TINY)):
        called = fltk(copy, *args)
        told = called.err + called.out
        assert called.code == 1 and "Traceback" not in told and ("damaged" in told or "malformed" in told), args


def test_a_limit_on_the_size_of_files_stops_a_run_that_is_kept(copy: Path) -> None:
    """It stands for a full disk where none can be mounted: one line, and what was stored is sound."""
    limit = copy.stat().st_size + 400_000
    program = (
        "import resource, sys\nfrom fltk.cli.main import run\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\nsys.exit(run(sys.argv[1:]))"
    )
    called = subprocess.run(
        [sys.executable, "-c", program, "--db", str(copy), "-q", "train", *TINY[:-1], "200", "--method", "ditto"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (called.returncode, called.stdout) == (1, "") and called.stderr.count("\n") == 1, called.stderr
    assert called.stderr.startswith("fltk: error: --db: ")
    with Store(copy, readonly=True) as store:
        row = store.find_run("latest")
        assert row.id == 3 and 1 <= row.rounds_done < 200 and len(store.digests(3)) == row.rounds_done
    done(copy, "verify")
