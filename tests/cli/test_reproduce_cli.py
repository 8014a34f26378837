"""`fltk reproduce`: identical where nothing changed, and every planted change is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from calls import ROOT, Called, done, fltk
from folders import folder_of_pfllib
from processes import RunCli

from fltk.registry import Store

SMALL = ("--subset", "240", "--clients", "4", "--newcomers", "1", "--rounds", "3", "--hidden", "16")
MISMATCH = 3


def reproduced(db: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """Exit code and row of `fltk reproduce`."""
    called = fltk(db, "reproduce", *args, "--json")
    assert called.err == "", called
    (row,) = json.loads(called.out)["rows"]
    return called.code, row


def content(db: Path) -> list[str]:
    """All that a database holds, as SQL."""
    with closing(sqlite3.connect(db)) as connection:
        return list(connection.iterdump())


def execute(db: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute(statement, values).rowcount == 1
        connection.commit()


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A registry with one run of fedprox."""
    path = tmp_path / "r.db"
    done(path, "train", "--method", "fedprox", "--set", "mu=0.1", *SMALL)
    return path


def test_a_database_alone_is_enough(db: Path) -> None:
    shutil.rmtree(db.with_suffix(".artifacts"))
    code, row = reproduced(db, "run1")
    assert (code, row["verdict"], row["rounds"]) == (0, "identical", 3)


def test_but_not_where_the_partition_came_out_otherwise(db: Path) -> None:
    shutil.rmtree(db.with_suffix(".artifacts"))
    execute(db, "UPDATE partition SET fingerprint = 'other'")
    assert "came without its folder" in fltk(db, "reproduce", "run1").line


# The contract suite holds every method to the same bits; these stand for what a registry has to bring back.
@pytest.mark.parametrize("method", ["fedavg", "ditto", "scaffold", "cluster-gmm", "attn", "feddf", "fedmd", "fedsoft"])
def test_every_kind_of_method_is_identical(tmp_path: Path, method: str) -> None:
    db = tmp_path / "r.db"
    done(
        db,
        "train",
        "--method",
        method,
        *SMALL,
        "--scheme",
        "rotated",
        "--groups",
        "2",
        "--participation",
        "0.5",
        "--public",
        "30",
    )
    before = content(db)
    code, row = reproduced(db, "run1")
    assert (code, row["verdict"], row["rounds"], row["first"]) == (0, "identical", 3, None)
    assert row["largest_difference"] == 0 and row["changes"] == row["notes"] == []
    assert content(db) == before


def test_a_prefix_of_rounds(tmp_path: Path) -> None:
    """The learning rate follows the whole run, and what was not measured then is not asked for."""
    db = tmp_path / "r.db"
    done(db, "train", "--method", "fedavg", *SMALL, "--lr-schedule", "cosine", "--eval-every", "2")
    for rounds in (1, 2, 3):
        code, row = reproduced(db, "run1", "--rounds", str(rounds))
        assert (code, row["verdict"], row["rounds"]) == (0, "identical", rounds) and row["notes"] == []


def test_other_engines_come_to_the_same(db: Path) -> None:
    assert reproduced(db, "run1", "--engine", "process:2")[1]["verdict"] == "identical"


def test_several_runs_are_all_told_and_one_mismatch_counts(db: Path) -> None:
    done(db, "train", "--method", "local", *SMALL)
    execute(db, "UPDATE round SET digest = 'x' WHERE run_id = 2 AND round = 2")
    called = fltk(db, "reproduce", "run1", "run2", "--tolerance", "0")
    assert called.code == MISMATCH and called.err == ""
    first, second = (line.split() for line in called.out.splitlines()[1:3])
    assert first == ["run1", "fedprox", "3", "identical", "-", "-"]
    assert second == ["run2", "local", "2", "different", "2", "-"]
    assert "code and environment are those of the run" in called.out


def test_one_option_that_was_changed_in_the_registry(db: Path) -> None:
    with Store(db) as store:
        config = store.find_run(1).config
    config["params"]["mu"] = 0.1000001
    execute(db, "UPDATE run SET config = ?", json.dumps(config, sort_keys=True))
    code, row = reproduced(db, "run1", "--tolerance", "0")
    assert (code, row["verdict"], row["first"]) == (MISMATCH, "different", 1)
    assert "settings were changed" in row["notes"][0]


def test_one_number_that_was_changed_in_the_registry(db: Path) -> None:
    execute(db, "UPDATE scalar SET value = value + 0.5 WHERE round = 2 AND key = 'personal_test_acc'")
    code, row = reproduced(db, "run1", "--rounds", "2")
    assert (code, row["verdict"], row["first"], row["first_weights_equal"]) == (MISMATCH, "different", 2, True)
    assert row["largest_difference"] > 0.2 and row["largest"].endswith("in personal_test_acc")
    code, row = reproduced(db, "run1")
    assert (code, row["verdict"], row["first"], row["largest_difference"]) == (MISMATCH, "different", 2, 0)
    assert reproduced(db, "run1", "--tolerance", "0.6")[1]["verdict"] == "same within tolerance"


def test_one_line_of_a_method(db: Path, tmp_path: Path, run_cli: RunCli) -> None:
    """A copy of the package with half the pull, run as a program of its own."""
    shutil.copytree(ROOT / "fltk", tmp_path / "copy" / "fltk", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "copy" / "fltk" / "methods" / "fedprox.py"
    text = path.read_text()
    assert text.count("self.mu)") == 1
    path.write_text(text.replace("self.mu)", "self.mu / 2)"))
    env = {"PYTHONPATH": str(tmp_path / "copy")}
    called = run_cli("--db", str(db), "-q", "reproduce", "run1", "--tolerance", "0", "--json", env=env)
    (row,) = json.loads(called.stdout)["rows"]
    assert (called.returncode, row["verdict"], row["first"], called.stderr) == (MISMATCH, "different", 1, "")
    assert [c["name"] for c in row["changes"] if c["decisive"]] == ["fltk code"]
    assert "fltk code" in run_cli("--db", str(db), "-q", "reproduce", "run1", env=env).stdout


def test_one_byte_of_the_data(tmp_path: Path) -> None:
    db, folder = tmp_path / "r.db", folder_of_pfllib(tmp_path / "data")
    done(db, "train", "--method", "local", "--from-pfllib", str(folder), "--rounds", "2", "--hidden", "8")
    assert reproduced(db, "run1")[1]["verdict"] == "identical"
    folder_of_pfllib(folder, flip=True)
    called = fltk(db, "reproduce", "run1")
    assert called.code == MISMATCH and called.out == "" and called.err.count("\n") == 1
    assert "run1 cannot be reproduced: the data of" in called.err
    assert "changed since part1 was created (fingerprint" in fltk(db, "resume", "run1", "--from-round", "0").line


def test_another_processor(db: Path, run_cli: RunCli) -> None:
    """Kernels for older processors round otherwise; within one round that is no more than rounding."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("torch has one set of kernels here")
    env = {"ATEN_CPU_CAPABILITY": "default"}
    called = run_cli("--db", str(db), "-q", "reproduce", "run1", "--rounds", "1", "--json", env=env)
    (row,) = json.loads(called.stdout)["rows"]
    assert row["verdict"] in ("identical", "same within tolerance") and called.returncode == 0
    assert [c["name"] for c in row["changes"] if c["decisive"]] == ["CPU capability"]


def test_what_the_registry_says_of_changed_attempts(db: Path) -> None:
    execute(db, """UPDATE attempt SET changes = '[["torch", "1.0", "2.0"]]'""")
    assert reproduced(db, "run1")[1]["notes"] == ["a part of it was trained with another torch: 1.0 at first, 2.0 then"]


def refused(called: Called, code: int, part: str) -> None:
    assert called.code == code and part in called.line, called


def test_what_cannot_be_reproduced(db: Path, tmp_path: Path) -> None:
    refused(fltk(db, "reproduce", "run9"), 2, "no run 'run9'")
    refused(fltk(db, "reproduce"), 2, "RUN")
    for rounds in ("0", "4", "-1"):
        refused(fltk(db, "reproduce", "run1", "--rounds", rounds), 2, "--rounds must lie in 1..3")
    for tolerance in ("-1", "nan", "inf", "1e999"):
        refused(fltk(db, "reproduce", "run1", "--tolerance", tolerance), 2, "--tolerance")
    refused(fltk(tmp_path / "none.db", "reproduce", "run1"), 1, "no registry")
    execute(db, "UPDATE run SET rounds_done = 0")
    refused(fltk(db, "reproduce", "run1"), 2, "no finished round")


def test_a_setting_of_another_fltk(db: Path) -> None:
    with Store(db) as store:
        config = store.find_run(1).config
    execute(db, "UPDATE run SET config = ?", json.dumps({**config, "train": {**config["train"], "warp": 9}}))
    refused(fltk(db, "reproduce", "run1"), 1, "cannot be rebuilt by this fltk")


def test_a_run_that_diverged_is_compared_up_to_there(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    growing = ("--lr-schedule", "exponential", "--lr-decay", "1e6", "--rounds", "20")
    assert fltk(db, "train", "--method", "fedavg", *SMALL, *growing).code == 1
    with Store(db) as store:
        rounds = store.find_run(1).rounds_done
    code, row = reproduced(db, "run1")
    assert (code, row["verdict"], row["rounds"]) == (0, "identical", rounds)


def test_a_run_that_diverges_only_now(db: Path) -> None:
    with Store(db) as store:
        config = store.find_run(1).config
    config["train"] |= {"lr": 1e30}
    execute(db, "UPDATE run SET config = ?", json.dumps(config))
    code, row = reproduced(db, "run1")
    assert (code, row["verdict"]) == (MISMATCH, "different") and "diverged" in row["largest"]
