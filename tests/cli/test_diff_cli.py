"""`fltk diff` as a user types it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from calls import TINY, done, fltk
from stored_runs import add_run

from fltk.registry import Store


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diff") / "r.db"
    with Store(path, create=True) as store:
        for method, lr in (("local", 0.1), ("attn", 0.25)):
            for seed in (0, 1):
                add_run(store, method, seed, 0.25 + seed / 2, lr=lr)
        add_run(store, "local", 0, 0.25, lr=0.1)
    return path


def rows(db: Path, *args: str) -> dict[str, dict[str, str]]:
    return {row["key"]: row for row in csv.DictReader(io.StringIO(done(db, "diff", *args, "--format", "csv")))}


def test_only_what_differs(db: Path) -> None:
    found = rows(db, "run1", "run3")
    assert list(found) == ["method", "train.lr"] and found["train.lr"]["run3"] == "0.25"
    assert "same" not in done(db, "diff", "run1", "run3")
    everything = rows(db, "run1", "run3", "--all")
    assert everything["partition.dataset"]["run1"] == "digits" and len(everything) > 40
    assert done(db, "diff", "run1", "run5").splitlines()[-1] == "note: nothing differs"


def test_two_runs_get_a_difference_and_seeds_a_mean(db: Path) -> None:
    two = rows(db, "run1", "run2")
    assert float(two["personal_test_acc"]["difference"]) == 0.5
    four = rows(db, "run1", "run2", "run3", "run4")
    assert four["personal_test_acc"]["local"] == "0.5 ± 0.354" and "difference" not in four["seed"]
    told = json.loads(done(db, "diff", "run1", "run2", "run3", "run4", "--json"))["rows"]
    line = next(row for row in told if row["key"] == "personal_test_acc")
    assert line["attn"]["mean"] == 0.5 and line["run2"] == 0.75


def test_long_hashes_are_short_for_the_eye_and_whole_in_json(db: Path) -> None:
    table = done(db, "diff", "run1", "run2")
    assert "000000000001" not in table and "0" * 12 in table
    told = json.loads(done(db, "diff", "run1", "run2", "--json"))["rows"]
    assert next(row["run2"] for row in told if row["key"] == "partition fingerprint") == f"{1:064d}"


def test_a_run_and_itself(db: Path) -> None:
    for refs in (("run1",), ("run1", "run1"), ("run1", "run2", "1")):
        assert "two or more different runs" in fltk(db, "diff", *refs).line
    assert "no run 'run77'" in fltk(db, "diff", "run1", "run77").line


def test_real_runs(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "local,fedavg", *TINY)
    done(db, "evaluate", "run1", "run2")
    found = rows(db, "run1", "run2")
    assert found["method"]["run2"] == "fedavg" and "deployed.mean" in rows(db, "run1", "run2", "--all")
    assert {row["section"] for row in found.values()} <= {"configuration", "result"}
    assert not any(key.startswith("seconds") for key in found)
