"""`fltk sweep`: plays what is missing, resumes what is unfinished, and survives cells, workers and drivers that die."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from calls import PATIENCE, descendants, done, fltk, kill, played, start, wait_for, wait_until_gone

from fltk.errors import FltkError
from fltk.registry import Store

SMALL = """
[partition]
subset = 200
clients = 3
newcomers = 0
"""
GRID = 'method = ["local", "fedprox"]\nseed = [0, 1]\n[train]\nrounds = 2\nlr = [0.05, 0.1]\n' + SMALL
ENDLESS = 'method = ["local", "fedavg"]\n[train]\nrounds = 1_000_000\n' + SMALL  # not over before it is stopped
LEFT = "fltk: interrupted; the same command goes on with what is left\n"
PATIENT = 3 * PATIENCE  # two workers import torch while others use the machine
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found through /proc")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "r.db"


def write(db: Path, text: str, name: str = "grid.toml") -> str:
    path = db.with_name(name)
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows(db: Path, *args: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done(db, "sweep", *args, "--json"))["rows"]
    return found


def test_a_grid_is_played_once(db: Path) -> None:
    grid = write(db, GRID)
    before = rows(db, grid, "--dry-run")
    assert len(before) == 8 and {(r["state"], r["next"], r["run"]) for r in before} == {("new", "start", None)}
    assert not db.exists()
    first = rows(db, grid)
    assert [r["config_hash"] for r in first] == [r["config_hash"] for r in before]
    assert {r["state"] for r in first} == {"done"} and {r["rounds"] for r in first} == {2}
    with Store(db) as store:
        numbers = {run.id: played(store, run.id) for run in store.runs(tag="sweep=grid")}
        assert len(numbers) == 8 and len({run.partition_id for run in store.runs()}) == 2
        origin = store.find_run("latest").origin
        assert (origin["train.lr"], origin["train.momentum"], origin["method"]) == ("file", "default", "file")
    assert rows(db, grid) == first == rows(db, grid, "--status")
    with Store(db) as store:
        assert {run.id: played(store, run.id) for run in store.runs()} == numbers
        assert all(len(store.attempts(run)) == 1 for run in numbers)
    longer = rows(db, write(db, GRID.replace("seed = [0, 1]", "seed = [0, 1, 2]")), "--dry-run")
    assert [r["next"] for r in longer] == ["skip"] * 8 + ["start"] * 4


def test_a_cell_is_the_run_that_train_makes(db: Path) -> None:
    settings = ("--subset", "200", "--clients", "3", "--newcomers", "0", "--rounds", "2", "--lr", "0.1", "--seed", "1")
    done(db, "train", "--method", "fedprox", *settings)
    found = rows(db, write(db, GRID))
    assert [r["run"] for r in found if (r["method"], r["train.lr"], r["seed"]) == ("fedprox", 0.1, 1)] == ["run1"]
    with Store(db) as store:
        assert "sweep" not in store.find_run(1).tags and len(store.runs()) == 8


def test_a_failing_cell_stops_no_other(db: Path) -> None:
    """One is refused before it has a run, one diverges and fails again, and is told so."""
    growing = '[[also]]\nmethod = "fedavg"\ntrain.lr_schedule = "exponential"\ntrain.lr_decay = 1e9\ntrain.rounds = 9\n'
    refused = '[[also]]\nmethod = "oracle"\n'
    grid = write(db, 'method = "local"\nseed = [0, 1]\n[train]\nrounds = 2\n' + SMALL + growing + refused)
    for attempt in (1, 2):
        called = fltk(db, "sweep", grid, "--format", "csv")
        assert called.code == 1 and called.err.count("\n") == 1 and "4 cells of 6 failed, the first: " in called.err
        lines = [line.split(",") for line in called.out.splitlines()[1:]]
        assert sorted(line[0] for line in lines if "done" in line) == ["local", "local"]
        assert sorted(line[0] for line in lines if "failed" in line) == ["fedavg", "fedavg", "oracle", "oracle"]
        assert "known groups" in called.out and "no longer finite" in called.out
        with Store(db) as store:
            assert len(store.runs()) == 4
            diverged = store.runs(method="fedavg")
            assert [len(store.attempts(run.id)) for run in diverged] == [attempt, attempt]
    assert [r["state"] for r in rows(db, grid, "--status") if r["method"] == "oracle"] == ["new", "new"]


def test_an_unfinished_cell_goes_on_and_one_of_other_code_starts_anew(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = write(db, ENDLESS.replace("1_000_000", "24"))
    record, resumed = Store.record_round, importlib.import_module("fltk.resume")

    def stopping(self: Store, run: int, round: int, *more: Any) -> None:
        if (run, round) == (2, 14):
            raise KeyboardInterrupt
        record(self, run, round, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", stopping)
        assert fltk(db, "sweep", grid).code == 130
    assert [(r["state"], r["next"]) for r in rows(db, grid, "--dry-run")] == [
        ("done", "skip"),
        ("interrupted", "resume"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(resumed, "_changed", lambda *_, **__: (_ for _ in ()).throw(resumed.Changed("other code")))
        assert [r["run"] for r in rows(db, grid)] == ["run1", "run3"]
    with Store(db) as store:
        assert store.find_run(2).status == "interrupted" and len(store.attempts(2)) == 1
        undisturbed = played(store, 3)
    with Store(db) as store, store._db.write() as connection:
        connection.exec_driver_sql("UPDATE run SET status = 'interrupted' WHERE id = 3")
        connection.exec_driver_sql("UPDATE run SET config_hash = 'x' WHERE id = 3")
    assert [r["run"] for r in rows(db, grid)] == ["run1", "run2"]
    with Store(db) as store:
        assert len(store.attempts(2)) == 2 and played(store, 2) == undisturbed


def test_a_cell_that_is_stopped_before_it_begins_is_played_later(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, attempt = write(db, ENDLESS.replace("1_000_000", "3")), Store.start_attempt

    def stopping(self: Store, run: int, *more: Any) -> int:
        if run == 2:
            raise KeyboardInterrupt
        return attempt(self, run, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "start_attempt", stopping)
        assert fltk(db, "sweep", grid).code == 130
    with Store(db) as store:
        stopped = store.find_run(2)
        assert (stopped.status, stopped.rounds_done) == ("interrupted", 0)
        assert stopped.message == "stopped by a signal before its first round"
    assert fltk(db, "sweep", grid).code == 0
    with Store(db) as store:
        assert [(run.status, run.rounds_done) for run in store.runs()] == [("done", 3), ("done", 3)]


@pytest.mark.parametrize("status", ["running", "done"])
def test_a_cell_that_another_sweep_has_claimed_is_not_played(
    db: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one begins after this one has looked, and before this one begins."""
    grid = write(db, ENDLESS.replace("1_000_000", "2"))
    begin, claims = Store.begin_run, [0]

    def slower(self: Store, config: Any, digest: str, **more: Any) -> int:
        claims[0] += 1
        if claims[0] == 1:
            with Store(db) as other:
                run = begin(other, config, digest, **{**more, "claim": False})
                other.start_attempt(run)
                if status == "done":
                    other.finish(run, "done")
        return begin(self, config, digest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "begin_run", slower)
        found = rows(db, grid)
    assert [(r["run"], r["state"], r["rounds"]) for r in found] == [("run1", status, 0), ("run2", "done", 2)]
    with Store(db) as store:
        assert len(store.runs()) == 2


def test_two_sweeps_at_once_store_one_evaluation(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one stores its evaluation after this one has looked, and before this one stores the same."""
    grid = write(db, 'method = "local"\n[train]\nrounds = 1\n' + SMALL + '[evaluate]\ndeploy = "vote"\n')
    save = Store.save_evaluation

    def slower(self: Store, *values: Any, **more: Any) -> int:
        with Store(db) as other:
            save(other, *values)
        return save(self, *values, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save_evaluation", slower)
        done(db, "sweep", grid)
    with Store(db) as store:
        assert len(store.evaluations(1)) == 1

    done(db, "evaluate", "run1")
    with Store(db) as store:
        assert len(store.evaluations(1)) == 2, "one that is asked for by name is stored again"


def test_a_run_that_another_sweep_has_taken_up_is_no_failure(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = write(db, ENDLESS.replace("1_000_000", "2"))
    done(db, "sweep", grid)
    with Store(db) as store, store._db.write() as connection:
        connection.exec_driver_sql("UPDATE run SET status = 'interrupted' WHERE id = 1")

    start_attempt = Store.start_attempt

    def slower(self: Store, run: int, *more: Any) -> int:
        with Store(db) as other:
            start_attempt(other, run)
        with other._db.write() as connection:
            connection.exec_driver_sql("UPDATE attempt SET pid = 1, process = NULL WHERE ended IS NULL")
        return start_attempt(self, run, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "start_attempt", slower)
        called = fltk(db, "sweep", grid, "--json", quiet=False)
    assert called.code == 0 and "failed" not in called.err
    assert [row["state"] for row in json.loads(called.out)["rows"]] == ["running", "done"]


def test_several_processes_come_to_the_bits_of_one(db: Path, tmp_path: Path) -> None:
    grid = write(db, GRID)
    process = start(db, "sweep", grid, "--jobs", "2", "--json")
    out, err = process.communicate(timeout=PATIENT)
    assert process.returncode == 0 and "Traceback" not in err, err
    told = [line for line in err.splitlines() if line.startswith("grid ")]
    assert [line.split(":")[0] for line in told] == [f"grid {k}/8" for k in range(1, 9)]
    other = tmp_path / "other.db"
    alone = rows(other, grid)
    for together, one in zip(json.loads(out)["rows"], alone, strict=True):
        with Store(db) as store, Store(other) as stored:
            assert played(store, int(together["run"][3:])) == played(stored, int(one["run"][3:]))


@needs_proc
def test_kill_9_of_the_driver_leaves_no_worker_and_loses_nothing(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = write(db, ENDLESS)
    process = start(db, "sweep", grid, "--jobs", "2")
    wait_until_played(process, db, rounds=12)
    workers = descendants(process.pid)
    assert len(workers) >= 2
    kill(process)
    wait_until_gone(workers)
    check_resumed(db, grid, monkeypatch)


@needs_proc
@pytest.mark.parametrize(
    "stop",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_saves_every_cell(db: Path, stop: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = write(db, ENDLESS)
    process = start(db, "sweep", grid, "--jobs", "2")
    wait_until_played(process, db, rounds=12)
    workers = descendants(process.pid)
    os.killpg(process.pid, stop)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "") and "Traceback" not in err and err.endswith(LEFT)
    wait_until_gone(workers)
    with Store(db) as store:
        runs = store.runs()
        assert {run.status for run in runs} == {"interrupted"}
        # The signal may come just when a round has been stored: then the checkpoint is that of the round before.
        behind = [run.rounds_done - (store.latest_checkpoint(run.id) or (0,))[0] for run in runs]
        assert set(behind) <= {0, 1}
    check_resumed(db, grid, monkeypatch)


@needs_proc
def test_a_worker_that_is_killed_costs_one_cell(db: Path) -> None:
    """The victim never ends by itself; the other cell is short, and starts before the victim is killed or after."""
    endless = 'method = "local"\n[train]\nrounds = 1_000_000\n' + SMALL
    grid = write(db, endless + '[[also]]\nmethod = "fedavg"\ntrain.rounds = 3\n')
    process = start(db, "sweep", grid, "--jobs", "2")
    wait_until_played(process, db, rounds=12)
    with Store(db) as store:
        (victim,) = store.runs(method="local")
        os.kill(store.attempts(victim.id)[-1].pid, signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "1 cell of 2 failed" in err and "exit code -9" in err and "Traceback" not in err
    with Store(db) as store:
        assert {run.method: run.status for run in store.runs()} == {"local": "stale", "fedavg": "done"}
    assert [row["next"] for row in rows(db, grid, "--dry-run")] == ["resume", "skip"]


def wait_until_played(process: Any, db: Path, rounds: int) -> None:
    """Returns when a run of the sweep has so many rounds."""

    wait_for(process, "cells")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with Store(db, readonly=True) as store:
            if any(run.rounds_done >= rounds for run in store.runs()):
                return
        time.sleep(0.05)
    raise AssertionError("the sweep came to nothing")


def check_resumed(db: Path, grid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same runs go on, and have the numbers of a sweep that was not disturbed."""
    with Store(db) as store:
        begun = {run.method: run for run in store.runs()}
    ends = {method: 3 + (begun[method].rounds_done if method in begun else 0) for method in ("local", "fedavg")}

    play_up_to(db, grid, ends, monkeypatch)
    undisturbed = db.with_name("undisturbed.db")
    play_up_to(undisturbed, grid, ends, monkeypatch)

    with Store(db) as store, Store(undisturbed) as other:
        for method, last in ends.items():
            (run,), (same,) = store.runs(method=method), other.runs(method=method)
            assert run.rounds_done == last
            assert method not in begun or run.id == begun[method].id
            assert played(store, run.id) == played(other, same.id)


def play_up_to(db: Path, grid: str, ends: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Plays every cell of the sweep up to the end of its method's last round here, where the cell fails."""
    record = Store.record_round

    def stopping(self: Store, run: int, round: int, *more: Any) -> None:
        record(self, run, round, *more)
        if round == ends[self.find_run(run).method]:
            raise FltkError("as far as the test goes")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", stopping)
        called = fltk(db, "sweep", grid)
    assert called.code == 1 and "2 cells of 2 failed" in called.err and "as far as the test goes" in called.err


def test_the_best_cell_on_validation_data(db: Path) -> None:
    grid = write(db, GRID)
    assert "no setting has all its seeds finished" in fltk(db, "sweep", grid, "--status", "--best-on", "val").line
    everything = rows(db, grid)
    best = rows(db, grid, "--best-on", "val")
    assert [r["method"] for r in best] == ["local", "fedprox"]
    for row in best:
        means = {
            lr: sum(r["val"] for r in everything if (r["method"], r["train.lr"]) == (row["method"], lr)) / 2
            for lr in (0.05, 0.1)
        }
        assert row["val"] == pytest.approx(max(means.values())) and means[row["train.lr"]] == max(means.values())
        assert row["seeds"] == 2 and len(row["runs"]) == 2
    without = write(db, GRID + "val_share = 0\n", "bare.toml")
    done(db, "sweep", without)
    assert "on validation data" in fltk(db, "sweep", without, "--status", "--best-on", "val").line


def test_cells_are_evaluated_once(db: Path) -> None:
    grid = write(db, 'method = ["local", "fedavg"]\n[train]\nrounds = 2\n' + SMALL + '[evaluate]\ndeploy = "ft1"\n')
    told = fltk(db, "sweep", grid, quiet=False).err
    assert "2/2: fedavg seed=0: done" in told and "evaluation 1: local" in told and "evaluation 2: fedavg" in told
    first = rows(db, grid)
    with Store(db) as store:
        stored = {run.id: store.evaluations(run.id) for run in store.runs()}
        assert [len(found) for found in stored.values()] == [1, 1]
        for row in first:
            summary = stored[int(row["run"][3:])][0].summary
            assert row["deployed"] == next(r["acc_mean"] for r in summary["rows"] if r["model"] == "deployed")
        against = next(r for r in stored[2][0].summary["rows"] if r["model"] == "deployed")
        assert "gain_vs_local" in against, "local was done before the others were scored"
    assert rows(db, grid) == first == rows(db, grid, "--status")
    with Store(db) as store:
        assert [len(store.evaluations(run.id)) for run in store.runs()] == [1, 1]
    Path(grid).write_text(Path(grid).read_text().replace("ft1", "mixed"))
    assert {r["state"] for r in rows(db, grid)} == {"done"}
    with Store(db) as store:
        assert [len(store.evaluations(run.id)) for run in store.runs()] == [2, 2]


def test_a_sweep_tells_what_was_not_chosen(db: Path) -> None:
    grid = 'method = "local"\n[train]\nrounds = 1\n' + SMALL + "val_share = 0\n[evaluate]\ndeploy = 'vote'\n"
    told = fltk(db, "sweep", write(db, grid), quiet=False).err
    assert "run1, round 1: there are no validation data, so that no deployment was chosen" in told


def test_what_a_sweep_refuses(db: Path) -> None:
    grid = write(db, GRID)
    for args, part in (
        (("none.toml",), "none.toml"),
        ((grid, "--jobs", "0"), "--jobs"),
        ((grid, "--dry-run", "--status"), "--dry-run"),
        ((grid, "--best-on", "test"), "--best-on"),
        ((write(db, GRID + "[evaluate]\ndeploy = 'votes'\n", "e.toml"),), "did you mean vote"),
        ((write(db, "method = 'fedavgg'", "m.toml"),), "did you mean fedavg"),
        ((write(db, "", "empty.toml"),), "name a method"),
    ):
        called = fltk(db, "sweep", *args)
        assert called.code == 2 and part in called.line
    assert not db.exists()


SEARCH = """
method = ["local", "fedprox"]
seed = [0, 1]
[train]
rounds = 2
lr = { log_uniform = [0.01, 0.5] }
[for.local]
train.lr = 0.1
[for.fedprox]
params.mu = { choice = [0.0, 0.1] }
train.batch_size = { integers = [8, 12] }
[search]
trials = 3
"""


def test_a_search_without_optuna_says_what_to_install(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'fltk[optuna]'" in fltk(db, "sweep", write(db, SEARCH + SMALL)).line


def test_a_search_goes_on_where_it_was(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = pytest.importorskip("optuna")
    grid = write(db, SEARCH + SMALL)
    assert [r["method"] for r in rows(db, grid, "--dry-run")] == ["local", "local"]
    record = Store.record_round

    def stopping(self: Store, run: int, *more: Any) -> None:
        if run == 6:
            raise KeyboardInterrupt
        record(self, run, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", stopping)
        assert fltk(db, "sweep", grid).code == 130
    before = rows(db, grid, "--status")
    assert [r["state"] for r in before] == ["done"] * 5 + ["interrupted"]
    after = rows(db, grid)
    assert {r["state"] for r in after} == {"done"} and len(after) == 2 + 3 * 2
    assert [r["run"] for r in after[:6]] == [r["run"] for r in before]
    assert rows(db, grid) == after
    storage = f"sqlite:///{db.with_name('r.optuna.db')}"
    (summary,) = optuna.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    values = [t.value for t in study.trials if t.value is not None]
    means = [sum(r["val"] for r in after[k : k + 2]) / 2 for k in (2, 4, 6)]
    assert values == pytest.approx(means) and study.best_value == pytest.approx(max(means))
    (best,) = [r for r in rows(db, grid, "--best-on", "val") if r["method"] == "fedprox"]
    assert best["val"] == pytest.approx(study.best_value)


def test_a_search_needs_validation_data(db: Path) -> None:
    grid = write(db, SEARCH + SMALL + "val_share = 0\n")
    called = fltk(db, "sweep", grid)
    assert called.code == 2 and "val_share" in called.line
