"""The script that makes results.db.example, in small: it runs, and what README says of the registry works on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, clean_environment

from fltk.cli.main import run
from fltk.registry import Store

# fltk with fewer rounds, clients and samples than the script asks for.
SMALLER = """
import sys
from fltk.cli.main import main
words = sys.argv[1:]
for at, word in enumerate(words):
    if word == "--rounds":
        words[at + 1] = "2"
if words[0] == "train":
    words += ["--subset", "400", "--clients", "4", "--groups", "2"]
main(words)
"""


@pytest.mark.slow
def test_the_example_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shim = tmp_path / "smaller.py"
    shim.write_text(SMALLER)
    scripts = tmp_path / "experiments"
    shutil.copytree(ROOT / "experiments", scripts)
    sweep = scripts / "example-sweep.toml"
    small = "rounds = 2"
    assert "rounds = 10" in sweep.read_text()
    sweep.write_text(sweep.read_text().replace("rounds = 10", small))
    db = tmp_path / "results.db.example"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = clean_environment({"FLTK": f"{sys.executable} {shim}", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    command = ["sh", str(scripts / "example.sh"), str(db)]
    told = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert told.returncode == 0, told.stderr

    with Store(db, readonly=True) as store:
        runs = {run.id: run for run in store.runs()}
    kinds = {number: run.kind for number, run in runs.items()}
    assert len(runs) == 64 and {run.status for run in runs.values()} == {"done"}
    assert (runs[42].method, runs[42].config["partition"]["scheme"]) == ("attn", "permuted-labels")
    assert {number for number, kind in kinds.items() if kind == "attack"} == set(range(49, 57))
    assert {runs[number].parent for number in range(49, 57)} == {44, 48}
    assert {number for number, kind in kinds.items() if kind == "join"} == {59, 60}
    assert {number for number, run in runs.items() if "sweep" in run.tags} == {61, 62, 63, 64}

    shutil.rmtree(tmp_path / "results.db.artifacts")  # it is not shipped
    wanted = (
        ("plot", "attack", "-o", str(tmp_path / "attack.png")),
        ("plot", "join", "run59", "run60", "-o", str(tmp_path / "join.png")),
        ("report", "--sweep", "example-sweep", "-o", str(tmp_path / "sweep.html")),
        ("join-new-client", "--finetune-head"),
    )
    for words in wanted:
        assert run(["--db", str(db), *words]) == 0, words
    assert "trained again" in capsys.readouterr().err
