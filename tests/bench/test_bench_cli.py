"""`fltk bench` as a user calls it: what it prints, what it stores, what it refuses."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from fltk.bench.run import with_share
from fltk.bench.workloads import ALL, FEW, GROUPS, WORKLOADS, Aggregation, Training, Writes, choose
from fltk.cli.main import run
from fltk.errors import UsageError
from fltk.registry import Store

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds; only a hanging program needs them


def as_process(folder: Path, *args: str) -> tuple[str, str]:
    """stdout and stderr of `fltk ARGS` as a process of its own, without any data set but the embedded one."""
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "FLTK_DATA": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fltk", "--db", str(folder / "b.db"), *args]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done
    return done.stdout, done.stderr


def called(folder: Path, *args: str, code: int = 0) -> tuple[str, str]:
    """The same in this process, where only errors are told on stderr."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            found = run(["--db", str(folder / "b.db"), "--data-dir", str(folder), "-q", *args])
    finally:
        torch.set_num_threads(threads)
    assert found == code, (out.getvalue(), err.getvalue())
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    """A small measurement, stored as run1."""
    out, err = as_process(
        folder,
        "bench",
        "--quick",
        "--workload",
        "w3,w1-mlp-eval",
        "--workload",
        "registry",
        "--rounds",
        "2",
        "--json",
        "--engine",
        "serial",
    )
    assert [line.partition(":")[0] for line in err.splitlines()] == ["w3", "w1-mlp-eval", "registry"]
    return dict(json.loads(out))


def test_json_holds_rows_machine_and_notes(report: dict[str, Any]) -> None:
    assert (report["schema"], report["run"], report["dataset"]) == (1, "run1", "digits")
    rows = {row["workload"]: row for row in report["rows"]}
    assert list(rows) == ["w3", "w1-mlp-eval", "registry-write", "registry-read"]
    assert {"cpu", "cores", "torch", "threads", "device", "gemm_flops"} <= set(report["machine"])
    assert report["machine"]["threads"] == 1
    assert any("digits" in note for note in report["notes"]) and any("warm-up" in note for note in report["notes"])
    for row in rows.values():
        assert len(row["seconds"]) == 2 and row["seconds_min"] == min(row["seconds"]) > 0
        assert row["seconds_min"] <= row["seconds_median"] <= max(row["seconds"])


def test_a_training_row_says_what_was_done_and_against_what(report: dict[str, Any]) -> None:
    plain, evaluated = report["rows"][:2]
    assert (plain["clients"], plain["samples"], plain["network"], plain["workers"]) == (4, 200, "resnet8", 1)
    assert (plain["against"], evaluated["against"]) == ("plain loop", "no evaluation")
    assert plain["faster"] == plain["against_min"] / plain["seconds_min"] and "slower" not in plain
    assert evaluated["slower"] == evaluated["seconds_min"] / evaluated["against_min"] and "faster" not in evaluated
    assert plain["seconds_eval"] < evaluated["seconds_eval"]
    for row in (plain, evaluated):
        peak = report["machine"]["gemm_flops"]
        assert row["share"] == pytest.approx(row["flops"] / (row["seconds_min"] * peak * row["workers"]))
        assert row["parameters"] > 0 and row["data_mib"] > 0 and row["driver_mib"] > row["data_mib"]
    # 20 clients x 100 samples are trained on, 50 of each are scored
    assert evaluated["flops"] == 20 * (100 * 319_600 + 50 * 158_800)


def test_a_measurement_is_stored_as_a_run_that_is_never_the_latest(folder: Path, report: dict[str, Any]) -> None:
    with Store(folder / "b.db") as store:
        (run,) = store.runs()
        assert (run.kind, run.status, run.method, run.dataset) == ("bench", "done", "bench", "digits")
        assert run.config["bench"] == {
            "workloads": [row["workload"] for row in report["rows"]],
            "engine": "serial",
            "device": "cpu",
            "quick": True,
        }
        assert run.last["w3.faster"] == report["rows"][0]["faster"]
        kept = store.evaluations(run.id)[0].summary
        assert [row | {"model": row["workload"]} for row in report["rows"]] == kept["rows"]
        for refs in (lambda: store.find_run("latest"), lambda: store.find_runs(["latest"])):
            with pytest.raises(UsageError, match="latest"):
                refs()
        assert store.find_run("run1").id == store.find_runs(["1"])[0].id == 1
        with pytest.raises(UsageError, match="is a bench run and no train run"):
            store.find_run("run1", "train")


def test_other_commands_list_it_show_it_and_leave_it_alone(folder: Path, report: dict[str, Any]) -> None:
    called(folder, "train", "--method", "fedavg", "--clients", "3", "--newcomers", "0", "--rounds", "1")
    called(folder, "bench", "--quick", "--workload", "registry", "--rounds", "1")
    listed = {row["run"]: row["kind"] for row in json.loads(called(folder, "runs", "--json")[0])["rows"]}
    assert listed == {"run1": "bench", "run2": "train", "run3": "bench"}
    shown = {row["key"]: row["value"] for row in json.loads(called(folder, "runs", "run1", "--json")[0])["rows"]}
    assert shown["last w3.faster"] == report["rows"][0]["faster"] and shown["kind"] == "bench"
    with Store(folder / "b.db") as store:
        assert (
            store.find_run("latest").id
            == store.find_run("latest", "train").id
            == store.find_runs(["latest"])[0].id
            == 2
        )
    called(folder, "evaluate", "latest")
    assert "bench run" in called(folder, "evaluate", "run1", code=2)[1]
    called(folder, "verify")
    assert len(json.loads(called(folder, "compare", "--json")[0])["rows"]) == 1
    query = "SELECT value FROM v_metrics WHERE run = 1 AND key = 'w3.faster'"
    assert json.loads(called(folder, "sql", query, "--json")[0])["rows"] == [{"value": report["rows"][0]["faster"]}]


@pytest.mark.slow
def test_workers_are_counted_and_have_memory_of_their_own(tmp_path: Path) -> None:
    args = ("bench", "--quick", "--workload", "w3", "--rounds", "1", "--no-store", "--json", "-q")
    (row,) = json.loads(as_process(tmp_path, *args, "--engine", "process:2")[0])["rows"]
    assert (row["engine"], row["workers"]) == ("process:2", 2)
    assert row["worker_mib"] > 0 and row["driver_mib"] > 0


def test_no_store_leaves_no_file_and_csv_has_the_columns_of_the_table(tmp_path: Path) -> None:
    args = ("bench", "--quick", "--workload", "registry", "--rounds", "1", "--no-store")
    out, err = called(tmp_path, *args, "--format", "csv")
    assert [row["workload"] for row in csv.DictReader(io.StringIO(out))] == ["registry-write", "registry-read"]
    assert err == "" and list(tmp_path.iterdir()) == []
    out, _ = called(tmp_path, *args)
    assert "GFLOP/s" in out and "note 1" in out and "stored as" not in out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--workload", "w1-mpl"), "w1-mlp"),
        (("--engine", "thread:2", "--workload", "w3", "--quick"), "--engine"),
        (("--step", "sideways"), "--step"),
        (("--rounds", "0"), "--rounds"),
        (("--device", "abacus", "--workload", "registry"), "--device"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, args: tuple[str, ...], told: str) -> None:
    out, err = called(tmp_path, "bench", *args, code=2)
    assert told in err and err.count("\n") == 1 and "Traceback" not in err and out == ""


def test_names_groups_and_the_usual_workloads() -> None:
    assert list(choose([], quick=False)) == list(ALL) and list(choose(["all"], quick=True)) == list(ALL)
    assert list(choose([], quick=True)) == list(FEW)
    assert list(choose(["w1", "w2,w1-mlp"], quick=False)) == ["w1-mlp", "w1-cnn", "w2"]
    assert all(name in WORKLOADS for names in GROUPS.values() for name in names)
    for workload in choose(WORKLOADS, quick=True).values():
        assert isinstance(workload, Writes) or workload.partition.clients >= 2
    with pytest.raises(UsageError, match="--workload"):
        choose(["nothing"], quick=False)


def test_every_reference_exists_and_quick_keeps_what_a_client_holds() -> None:
    for name, workload in WORKLOADS.items():
        if isinstance(workload, Training | Aggregation):
            whole, part = workload.partition, workload.smaller().partition
            assert whole.subset / whole.clients == part.subset / part.clients, name
            assert whole.subset <= 70_000, name


def test_a_share_counts_the_workers() -> None:
    row = {"flops": 6e9, "seconds_min": 0.5, "workers": 2}
    assert with_share(row, 12e9)["share"] == 0.5
    assert with_share({"seconds_min": 1.0}, 1.0) == {"seconds_min": 1.0}
