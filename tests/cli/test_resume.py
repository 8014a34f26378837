"""Killed, interrupted and failed runs go on to the same bits, and harm nothing beside them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from calls import (
    PATIENCE,
    descendants,
    done,
    fltk,
    kept,
    kill,
    lines_told,
    played,
    start,
    wait_for,
    wait_until_gone,
    wait_until_held,
)

from fltk.errors import FltkError
from fltk.registry import Store

ROUNDS = 60
LONG = ("--subset", "300", "--clients", "4", "--newcomers", "1", "--rounds", str(ROUNDS), "--participation", "0.5")
ATTN = ("train", "--method", "attn", *LONG)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the long run comes to when nobody disturbs it."""
    db = tmp_path_factory.mktemp("whole") / "r.db"
    done(db, *ATTN)
    with Store(db) as store:
        assert [c.round for c in store.checkpoints(1)] == [ROUNDS - 10, ROUNDS]
        return played(store, 1)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A registry with a finished neighbour, run1."""
    path = tmp_path / "r.db"
    done(path, "train", "--method", "ditto", *LONG[:-4], "--rounds", "3")
    return path


def check(db: Path, run: int, expected: dict[str, Any], attempts: int) -> None:
    """The run is finished and equals the undisturbed one in every number."""
    with Store(db) as store:
        row = store.find_run(run)
        assert (row.status, row.rounds_done, row.message) == ("done", ROUNDS, None)
        found = played(store, run)
        assert list(found["digests"]) == list(range(1, ROUNDS + 1))
        assert found == expected
        assert len(store.attempts(run)) == attempts
        assert store.latest_checkpoint(run)[0] == ROUNDS


def told(run: int, rounds: int) -> list[list[str]]:
    """What may be said of a stopped run: the last round may just have been stored."""
    behind = f"of {ROUNDS} rounds; continue it with `fltk resume run{run}`"
    return [[f"fltk: interrupted; run{run} has finished {played} {behind}"] for played in (rounds, rounds - 1)]


def test_kill_9_at_two_moments_and_resume(db: Path, undisturbed: dict[str, Any]) -> None:
    """Killed before the first checkpoint and again between two; the neighbour keeps every bit."""
    with Store(db) as store:
        neighbour = kept(store, 1)
    process = start(db, *ATTN, hold=7)
    wait_until_held(process)
    kill(process)
    with Store(db) as store:
        assert store.find_run(2).status == "stale"
        had = store.digests(2)
    assert len(had) == 6 and had.items() <= undisturbed["digests"].items()
    process = start(db, "resume", "run2", hold=25)
    wait_until_held(process)
    kill(process)
    with Store(db) as store:
        assert store.latest_checkpoint(2)[0] == 20
    out = done(db, "resume", "run2", "--format", "csv")
    assert out.splitlines()[1].startswith("run2,attn,") and out.splitlines()[1].endswith(",done")
    check(db, 2, undisturbed, attempts=3)
    with Store(db) as store:
        assert kept(store, 1) == neighbour
        assert len(store.runs()) == 2
    files = {path.name for path in db.with_name("r.artifacts").rglob("*") if path.is_file()}
    assert not [name for name in files if len(name) != 64], "no half-written file is left"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found through /proc")
def test_kill_9_leaves_no_orphan_worker(db: Path, undisturbed: dict[str, Any]) -> None:
    process = start(db, *ATTN, "--engine", "process:2", hold=13)
    wait_until_held(process)
    workers = descendants(process.pid)
    assert len(workers) >= 2
    kill(process)
    wait_until_gone(workers)
    done(db, "resume", "latest")
    check(db, 2, undisturbed, attempts=2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["serial", "process:2"])
@pytest.mark.parametrize("moment", ["run2:", "round 6/", "round 18/", "round 30/", "round 54/"])
def test_kill_9_at_many_moments(db: Path, undisturbed: dict[str, Any], engine: str, moment: str) -> None:
    process = start(db, *ATTN, "--engine", engine)
    wait_for(process, moment)
    workers = descendants(process.pid)
    kill(process)
    wait_until_gone(workers)
    again = start(db, "resume", "run2", "--engine", engine)
    _, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0 and lines_told(err) == []
    check(db, 2, undisturbed, attempts=2)


@pytest.mark.parametrize(
    "stop",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_saves_and_resumes(db: Path, undisturbed: dict[str, Any], stop: signal.Signals) -> None:
    process = start(db, *ATTN, hold=13)
    wait_until_held(process)
    busy = fltk(db, "resume", "run2").line
    assert f"is being worked on by process {process.pid}" in busy
    os.killpg(process.pid, stop)
    os.killpg(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    with Store(db) as store:
        row = store.find_run("run2")
        assert lines_told(err) == told(2, 12)[0]
        assert (row.status, row.message) == ("interrupted", "stopped by a signal after round 12")
        assert row.rounds_done == store.latest_checkpoint(2)[0] == 12
    done(db, "resume", "run2")
    check(db, 2, undisturbed, attempts=2)
    assert "run2 is already complete" in fltk(db, "resume", "run2").line


def test_a_closed_terminal_stops_a_run_unless_it_was_started_with_nohup(tmp_path: Path) -> None:
    """The terminal tells workers as well, which leave it to their driver."""
    for nohup in (False, True):
        db = tmp_path / f"{nohup}.db"
        process = start(db, *ATTN, "--engine", "process:1", nohup=nohup, hold=13)
        wait_until_held(process)
        os.killpg(process.pid, signal.SIGHUP)
        os.killpg(process.pid, signal.SIGCONT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == (0 if nohup else 130), err
        with Store(db) as store:
            row = store.find_run(1)
        assert row.status == ("done" if nohup else "interrupted") and row.rounds_done >= 12
        assert lines_told(err) == [] if nohup else lines_told(err) in told(1, row.rounds_done)


def test_ctrl_c_while_workers_start(db: Path, undisturbed: dict[str, Any]) -> None:
    """The terminal sends Ctrl-C to workers too, which are still importing: none of them may complain."""
    process = start(db, *ATTN, "--engine", "process:2")
    wait_for(process, "run2: attn")
    workers = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert lines_told(err) in told(2, 0)
    wait_until_gone(workers)
    with Store(db) as store:
        assert store.find_run(2).status == "interrupted" and store.latest_checkpoint(2) is None
    done(db, "resume", "run2")
    check(db, 2, undisturbed, attempts=2)


@pytest.mark.slow
def test_ctrl_c_with_busy_workers(db: Path, undisturbed: dict[str, Any]) -> None:
    process = start(db, *ATTN, "--engine", "process:2")
    wait_for(process, "round 18/")
    workers = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    with Store(db) as store:
        assert process.returncode == 130 and lines_told(err) in told(2, store.find_run(2).rounds_done)
    wait_until_gone(workers)
    done(db, "resume", "run2")
    check(db, 2, undisturbed, attempts=2)


def test_an_interrupt_while_a_round_is_stored_leaves_no_gap(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    db, record = tmp_path / "r.db", Store.record_round

    def interrupted(self: Store, run: int, round: int, *more: Any) -> None:
        if round == 13:
            raise KeyboardInterrupt
        record(self, run, round, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", interrupted)
        called = fltk(db, *ATTN)
    assert (called.code, lines_told(called.err)) == (130, told(1, 12)[0])
    with Store(db) as store:
        assert store.latest_checkpoint(1)[0] == store.find_run(1).rounds_done == 12
    done(db, "resume", "run1")
    check(db, 1, undisturbed, attempts=2)


def test_a_dead_worker_fails_the_run_which_then_resumes(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stops a run, the last finished round is kept."""
    from fltk.engine.serial import Serial

    db, play, calls = tmp_path / "r.db", Serial.map, [0]

    def dying(self: Serial, *more: Any) -> list[Any]:
        calls[0] += 1
        if calls[0] == 2 * 17:  # a round trains, then scores
            raise FltkError("--engine: a worker process has ended")
        return play(self, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Serial, "map", dying)
        assert "a worker process has ended" in fltk(db, *ATTN, "--engine", "serial").line
    with Store(db) as store:
        assert (store.find_run(1).status, store.latest_checkpoint(1)[0]) == ("failed", 16)
    done(db, "resume", "run1")
    check(db, 1, undisturbed, attempts=2)


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """A registry with a done run of 23 rounds and its checkpoints of rounds 10, 20 and 23."""
    path = tmp_path / "r.db"
    done(path, "train", "--method", "fedavg", *LONG[:-3], "23", "--keep-checkpoints", "3")
    return path


def test_a_repair_that_cannot_write_leaves_a_complete_run_complete(complete: Path) -> None:
    with Store(complete) as store:
        before, finished = played(store, 1), store.find_run(1).finished
        lost = store._files.path(store.checkpoints(1)[-1].sha256)
    lost.unlink()
    lost.mkdir()
    line = fltk(complete, "resume", "run1", "--from-round", "20").line
    assert f"{lost}: Is a directory" in line
    with Store(complete) as store:
        row = store.find_run(1)
        assert (row.status, row.rounds_done, row.finished, row.message) == ("done", 23, finished, None)
        assert played(store, 1) == before
        assert [a.status for a in store.attempts(1)] == ["done", "failed"]
        assert [c.round for c in store.checkpoints(1)] == [10, 20, 23]
    lost.rmdir()
    done(complete, "resume", "run1", "--from-round", "20")
    assert lost.is_file()


def test_an_interrupted_repair_leaves_a_complete_run_complete(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Store.record_round

    def interrupted(self: Store, run: int, round: int, *more: Any) -> None:
        if round == 22:
            raise KeyboardInterrupt
        record(self, run, round, *more)

    with Store(complete) as store:
        before = kept(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", interrupted)
        called = fltk(complete, "resume", "run1", "--from-round", "20")
    assert (called.code, called.err) == (130, "fltk: interrupted; run1 stays complete, as it was before\n")
    with Store(complete) as store:
        assert kept(store, 1) == before


def test_a_repair_that_has_replaced_the_last_checkpoint_has_to_be_ended(
    complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the weights of round 20 would pass for those of the end."""
    record = Store.record_round

    def failing(self: Store, run: int, round: int, *more: Any) -> None:
        if round == 21:
            raise FltkError("no more")
        record(self, run, round, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", failing)
        assert "no more" in fltk(complete, "resume", "run1", "--from-round", "0").line
    with Store(complete) as store:
        assert (store.find_run(1).status, store.latest_checkpoint(1)[0]) == ("failed", 20)
    done(complete, "resume", "run1")
    with Store(complete) as store:
        assert (store.find_run(1).status, store.latest_checkpoint(1)[0]) == ("done", 23)


def test_resuming_what_is_not_there(db: Path, tmp_path: Path) -> None:
    assert "no run 'run9'" in fltk(db, "resume", "run9").line
    assert (
        "run1 is already complete (3 rounds); to retrain its last rounds use --from-round N"
        in fltk(db, "resume", "run1").line
    )
    none = tmp_path / "none.db"
    assert "no registry" in fltk(none, "resume", "run1").line
    assert not none.exists()


def test_resume_takes_no_other_settings(db: Path) -> None:
    for args, flag in (
        (("--lr", "0.1"), "--lr"),
        (("--method", "fedavg"), "--method"),
        (("--set", "mu=1"), "--set"),
        (("--no-balance",), "--no-balance"),
        (("--rounds", "90"), "--rounds"),
        (("--skip-done",), "--skip-done"),
    ):
        called = fltk(db, "resume", "run1", *args)
        assert called.code == 2 and flag in called.line
