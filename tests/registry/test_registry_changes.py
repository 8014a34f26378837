"""Attempts: what they may differ in, who holds a run, and that a long round is no crash."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fltk.errors import FltkError
from fltk.registry import Store, attempts, runs
from fltk.registry.changes import changes
from fltk.registry.heartbeat import beating
from fltk.registry.processes import Process, current

Begin = Callable[..., int]
ENVIRONMENT: dict[str, Any] = {
    "python": "CPython 3.11.7",
    "cpu": "Some 4",
    "variables": {"OMP_NUM_THREADS": "1"},
    "torch": {"version": "2.12.0", "config": "MKL 1\n - CPU capability usage: AVX2\n", "threads": 1, "gpus": ["A"]},
    "packages": {"numpy": "2.0", "rich": "13"},
    "streams": 1,
    "device": "cpu",
}
GIT: dict[str, Any] = {"commit": "a" * 40, "fltk_sha256": "b" * 64, "core_sha256": "c" * 64}


def changed(*path: Any, value: Any, of: dict[str, Any] = ENVIRONMENT) -> dict[str, Any]:
    """A copy with one entry replaced."""
    found = copy.deepcopy(of)
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


def test_equal_circumstances_have_no_changes() -> None:
    assert changes((ENVIRONMENT, GIT), (copy.deepcopy(ENVIRONMENT), dict(GIT))) == []


@pytest.mark.parametrize(
    ("now", "name", "decisive"),
    [
        ((changed("torch", "version", value="2.13.0"), GIT), "torch", True),
        ((changed("torch", "config", value="MKL 2\n - CPU capability usage: AVX2\n"), GIT), "torch build", True),
        ((changed("torch", "config", value="MKL 1\n - CPU capability usage: AVX512\n"), GIT), "CPU capability", True),
        ((changed("streams", value=2), GIT), "random streams", True),
        ((changed("packages", "numpy", value="2.1"), GIT), "numpy", True),
        ((ENVIRONMENT, changed("core_sha256", value="d" * 64, of=GIT)), "fltk code", True),
        ((ENVIRONMENT, changed("fltk_sha256", value="d" * 64, of=GIT)), "fltk package", False),
        ((ENVIRONMENT, changed("commit", value="d" * 40, of=GIT)), "git commit", False),
        ((changed("packages", "rich", value="14"), GIT), "package rich", False),
        ((changed("variables", "OMP_NUM_THREADS", value="2"), GIT), "OMP_NUM_THREADS", False),
        ((changed("torch", "gpus", value=["B"]), GIT), None, False),
    ],
)
def test_a_change_is_named_and_judged(now: Any, name: str | None, decisive: bool) -> None:
    found = [(change.name, change.decisive) for change in changes((ENVIRONMENT, GIT), now)]
    assert found == ([] if name is None else [(name, decisive)])


def test_the_graphics_processor_counts_on_a_graphics_processor() -> None:
    then = changed("device", value="cuda")
    now = changed("torch", "gpus", value=["B"], of=then)
    assert [(c.name, c.then, c.now, c.decisive) for c in changes((then, GIT), (now, GIT))] == [("GPU", "A", "B", True)]


def test_what_was_not_recorded_is_a_change() -> None:
    assert {c.then for c in changes(({}, {}), (ENVIRONMENT, GIT))} == {"-"}


def test_an_attempt_keeps_what_it_was_allowed(store: Store, begin: Begin) -> None:
    run = begin(store)
    store.start_attempt(run)
    store.start_attempt(run, [("torch", "2.12", "2.13"), ("numpy", "-", "2.0")])
    assert [a.changes for a in store.attempts(run)] == [(), (("torch", "2.12", "2.13"), ("numpy", "-", "2.0"))]


def test_a_process_that_lost_its_run_writes_nothing_more(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a night of sleep: the other one went on meanwhile, and has even finished."""
    run = begin(store)
    store.start_attempt(run)
    store.record_round(run, 1, {"a": 1.0}, {}, None, "mine")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "current", lambda: Process("elsewhere", 7, None))
        patch.setattr(attempts, "is_gone", lambda *_: True)  # so it looked from there
        store.start_attempt(run)
        store.record_round(run, 2, {"a": 2.0}, {}, None, "theirs")
    for _ in range(2):
        with pytest.raises(FltkError, match=f"run{run} was taken up by process 7 on elsewhere"):
            store.record_round(run, 2, {"a": 3.0}, {}, None, "mine")
        with pytest.raises(FltkError, match="taken up"):
            store.finish(run, "failed")
        with pytest.raises(FltkError, match="taken up"):
            store.heartbeat(run)
        with monkeypatch.context() as patch:
            patch.setattr(runs, "current", lambda: Process("elsewhere", 7, None))
            store.finish(run, "done")
    assert store.digests(run) == {1: "mine", 2: "theirs"} and store.find_run(run).status == "done"


def test_a_heart_beats_through_a_long_round(store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    run, beaten = begin(store), threading.Event()
    store.start_attempt(run)
    heartbeat = Store.heartbeat

    def told(self: Store, run_id: int) -> None:
        heartbeat(self, run_id)
        beaten.set()

    monkeypatch.setattr(Store, "heartbeat", told)
    before = store.attempts(run)[-1].heartbeat
    with beating(store, run, seconds=0.01):
        assert beaten.wait(60)
    threads = threading.active_count()
    assert store.attempts(run)[-1].heartbeat > before and threads == threading.active_count()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("heartbeat")]
    assert store.attempts(run)[-1].pid == current().pid


def test_a_beat_that_fails_is_left_out(database: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def failing(self: Store, run_id: int) -> None:
        tried.set()
        raise FltkError("the disk is full")

    monkeypatch.setattr(Store, "heartbeat", failing)
    with Store(database, create=True) as store, beating(store, begin(store), seconds=0.01):
        assert tried.wait(60)
