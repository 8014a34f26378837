"""`--profile`: the parts add up to the time of the rounds, and nothing else changes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import toys

from fltk.bench.profile import PARTS, Profile
from fltk.cli.main import run
from fltk.registry import Store

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds; only a hanging program needs them
TINY = ("--method", "attn", "--subset", "300", "--clients", "4", "--newcomers", "1", "--rounds", "3")


def called(db: Path, *args: str) -> tuple[str, str]:
    """stdout and stderr of `fltk ARGS` in this process; it has to succeed."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            assert run(["--db", str(db), *args]) == 0, err.getvalue()
    finally:
        torch.set_num_threads(threads)
    return out.getvalue(), err.getvalue()


def check(found: dict[str, Any], rounds: int) -> None:
    """What holds of every profile."""
    parts = {row["part"]: row for row in found["parts"]}
    assert list(parts) == list(PARTS) and found["rounds"] == rounds
    assert sum(row["seconds"] for row in parts.values()) == pytest.approx(found["seconds"])
    assert sum(row["share"] for row in parts.values()) == pytest.approx(1.0)
    assert found["outside"] == pytest.approx(1 - parts["training"]["share"])
    for row in parts.values():
        assert row["seconds"] >= 0 and row["a_round"] == pytest.approx(row["seconds"] / rounds)
    worked = ("training", "evaluation", "aggregation", "digest", "registry", "checkpoints")
    assert all(parts[name]["seconds"] > 0 for name in worked)


def test_a_process_tells_where_its_time_went(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("FLTK_")} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fltk", "--db", str(tmp_path / "r.db"), "train", *TINY, "--profile", "--json"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    check(row["profile"], 3)
    assert row["profile"]["before"] > 0
    assert all(part in done.stderr for part in PARTS) and "% of the time is not training" in done.stderr
    with Store(tmp_path / "r.db") as store:
        _, seconds = store.scalars(1, "seconds_train")["seconds_train"]
    told = {part["part"]: part["seconds"] for part in row["profile"]["parts"]}
    assert told["training"] == pytest.approx(sum(seconds))


def test_a_profile_changes_no_bit_and_a_resumed_run_counts_its_own_rounds(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    out, err = called(db, "train", *TINY, "--json")
    assert "profile" not in json.loads(out)["rows"][0] and "not training" not in err
    called(db, "train", *TINY, "--profile", "-q")
    out, err = called(db, "resume", "run1", "--from-round", "0", "--profile", "--json", "-q")
    check(json.loads(out)["rows"][0]["profile"], 3)
    assert err == ""
    with Store(db) as store:
        assert store.digests(1) == store.digests(2)


def test_every_run_of_a_command_has_a_profile_of_its_own(tmp_path: Path) -> None:
    out, _ = called(tmp_path / "r.db", "train", *TINY, "--seed", "0,1", "--profile", "--json", "-q")
    first, second = (row["profile"] for row in json.loads(out)["rows"])
    check(first, 3)
    check(second, 3)
    assert first["parts"] != second["parts"]


def test_time_inside_and_outside_of_rounds_is_told_apart() -> None:
    profile = Profile()
    for done in toys.play(toys.job("fedavg")):
        with profile.watch("round"):
            pass
        with profile.watch("registry"):
            pass
        profile.add(done)
    with pytest.raises(KeyError), profile.watch("round"):
        raise KeyError("a part that fails is counted as well")
    found = profile.report()
    assert found["rounds"] == 2 and found["seconds"] > 0
    assert profile.watched["checkpoints"] == 0.0 and profile.watched["round"] > 0
