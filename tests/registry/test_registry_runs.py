"""Runs: what goes in comes out; references, filters, attempts and status."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fltk.errors import FltkError, UsageError
from fltk.registry import Store, processes

Begin = Callable[..., int]


def test_a_run_comes_back_as_it_was_begun(store: Store, begin: Begin, config: dict[str, Any]) -> None:
    number = begin(store, name="Größe 試行", origin={"train.lr": "flag"}, seed=2**62, kind="join")
    row = store.find_run(f"run{number}")
    assert (row.name, row.kind, row.seed, row.config) == ("Größe 試行", "join", 2**62, config)
    assert (row.method, row.dataset, row.origin) == ("attn", "digits", {"train.lr": "flag"})
    assert (row.rounds_done, row.last, row.finished, row.status) == (0, {}, None, "running")
    assert store.environment(number) == {"python": "3"}


def test_equal_environments_are_stored_once(store: Store, begin: Begin) -> None:
    first = begin(store, environment={"a": 1, "b": 2})
    second = begin(store, environment={"b": 2, "a": 1})
    third = begin(store, environment={"a": 2})
    ids = [store.find_run(number).environment_id for number in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]


def test_the_diff_is_an_artifact(store: Store, begin: Begin) -> None:
    number = begin(store, git={"present": True, "commit": "abc", "diff": b"\xff\x00 binary"})
    assert store.git_diff(number) == b"\xff\x00 binary"
    git = store.find_run(number).git
    assert git["commit"] == "abc" and "diff" not in git and len(git["diff_sha256"]) == 64
    assert store.git_diff(begin(store)) is None


@pytest.mark.parametrize("reference", ["run2", "2", 2, "latest", "été", "e\u0301te\u0301", " run2 "])
def test_references(store: Store, begin: Begin, reference: str | int) -> None:
    begin(store)
    begin(store, name="été")  # the composed spelling finds the decomposed one
    assert store.find_run(reference).id == 2


def test_a_uuid_prefix_finds_its_run_and_an_ambiguous_one_lists_the_candidates(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, prefix in enumerate(("abcd1", "abcd2", "12345678")):
        fake = type("Fake", (), {"hex": prefix.ljust(32, str(index))})
        monkeypatch.setattr("fltk.registry.runs.uuid.uuid4", lambda fake=fake: fake)
        begin(store, name=f"n{index}")
    monkeypatch.undo()
    assert store.find_run("ABCD1").id == 1
    assert store.find_run("12345678").id == 3
    with pytest.raises(UsageError, match=r"'abcd' is ambiguous: run1 \(n0\), run2 \(n1\)"):
        store.find_run("abcd")
    with pytest.raises(UsageError, match="no run '1234'"):  # too short: could be a mistyped number
        store.find_run("1234")


@pytest.mark.parametrize("reference", ["run43", "0", "9" * 30, "run" + "9" * 30, "-1", "", "%", "run²", "\ud800x"])
def test_an_unknown_run_says_how_many_there_are(store: Store, begin: Begin, reference: str) -> None:
    begin(store)
    begin(store)
    with pytest.raises(UsageError, match="it has 2, the latest is run2"):
        store.find_run(reference)


def test_an_unknown_run_says_what_is_near(store: Store, begin: Begin) -> None:
    begin(store, name="baseline-digits")
    with pytest.raises(UsageError, match="did you mean baseline-digits"):
        store.find_run("baseline-digit")


def test_an_empty_registry_says_so(store: Store) -> None:
    with pytest.raises(UsageError, match="has no runs yet"):
        store.find_run("latest")


@pytest.mark.parametrize("name", ["-1", "-inf", ",", "...", "--"])
def test_names_that_look_like_options_or_nothing(store: Store, begin: Begin, name: str) -> None:
    with pytest.raises(UsageError, match=r"--name .* (looks like an option|has no letter and no digit)"):
        begin(store, name=name)


@pytest.mark.parametrize("name", ["", "  ", "run42", "42", "Latest", "part3", "a\nb", "a\0b", "x" * 201, "\ud800"])
def test_names_that_cannot_be_used(store: Store, begin: Begin, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        begin(store, name=name)
    assert store.runs() == []


def test_names_are_unique_and_can_be_changed(store: Store, begin: Begin) -> None:
    first, second = begin(store, name="a"), begin(store)
    with pytest.raises(UsageError, match="'a' is taken by run1"):
        begin(store, name="a")
    with pytest.raises(UsageError, match="'a' is taken by run1"):
        store.rename(second, "a")
    store.rename(first, "a")
    store.rename(first, "b")
    store.rename(second, "a")
    assert [row.name for row in store.runs()] == ["b", "a"]


def test_a_parent_and_a_partition_must_exist(store: Store, begin: Begin) -> None:
    child = begin(store, parent=begin(store))
    assert store.find_run(child).parent == 1
    for wrong in ({"parent": 99}, {"partition_id": 99}):
        with pytest.raises(FltkError, match="must exist"):
            begin(store, **wrong)
    assert len(store.runs()) == 2


def test_tags_and_notes(store: Store, begin: Begin) -> None:
    number, other = begin(store), begin(store)
    note = "ø" * 10_000
    store.set_note(number, note)
    store.set_tag(number, "paper", "1")
    store.set_tag(number, "paper", "2")
    store.set_tag(number, "draft")
    store.set_tag(other, "paper", "1")
    row = store.find_run(number)
    assert row.note == note and row.tags == {"draft": "", "paper": "2"}
    assert [r.id for r in store.runs(tag="paper")] == [1, 2]
    assert [r.id for r in store.runs(tag="paper=2")] == [1]
    assert store.remove_tag(number, "paper") and not store.remove_tag(number, "paper")
    assert store.find_run(number).tags == {"draft": ""}
    with pytest.raises(UsageError, match="--tag"):
        store.set_tag(number, "a=b")
    with pytest.raises(UsageError, match="--note"):
        store.set_note(number, "\0")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["alpha<0.5"], [1]),
        (["alpha >= 0.5"], [2]),
        (["partition.alpha=0.1"], [1]),
        (["params.alpha=7"], [1]),
        (["params.alpha=0.1"], []),
        (["method=attn"], [1]),
        (["method!=attn"], [2]),
        (["seed==1", "rounds>=30"], [1]),
        (["partition-seed=0"], [1, 2]),
        (["balance=true"], [1, 2]),
        (["hidden=100"], [1, 2]),
        (["lr=5e-2"], [1, 2]),
        (["method<3"], []),
    ],
)
def test_where(store: Store, begin: Begin, config: dict[str, Any], where: list[str], expected: list[int]) -> None:
    begin(store)
    partition = {**config["partition"], "alpha": 0.5}
    begin(store, config={**config, "method": "fedavg", "seed": 2, "params": {}, "partition": partition})
    assert [row.id for row in store.runs(where=where)] == expected


@pytest.mark.parametrize("text", ["alpha", "alpha<", "<0.5", "alpha<half", "", "=", "a b=1", "alpha=<3"])
def test_a_condition_that_cannot_be_read_names_the_option(store: Store, begin: Begin, text: str) -> None:
    begin(store)
    with pytest.raises(UsageError, match="--where"):
        store.runs(where=[text])


def test_a_mistyped_setting_is_no_empty_result(store: Store, begin: Begin) -> None:
    begin(store)
    with pytest.raises(UsageError, match="no run has a setting 'alhpa'; did you mean alpha"):
        store.runs(where=["alhpa=1"])
    assert store.runs(method="fedavg", where=["heads=2"]) == []


def test_filters_combine(store: Store, begin: Begin, config: dict[str, Any]) -> None:
    begin(store)
    begin(store, config={**config, "method": "fedavg"})
    store.finish(2, "failed", "diverged")
    assert [r.id for r in store.runs(method="fedavg", dataset="digits", status="failed")] == [2]
    assert store.runs(dataset="mnist") == []
    assert store.find_run(2).message == "diverged"
    with pytest.raises(UsageError, match="--status"):
        store.runs(status="finished")


def test_a_resumed_run_has_two_attempts(store: Store, begin: Begin) -> None:
    number = begin(store)
    store.start_attempt(number)
    store.finish(number, "interrupted", "Ctrl-C")
    store.start_attempt(number)
    row = store.find_run(number)
    assert (row.status, row.finished, row.message) == ("running", None, None)
    store.finish(number, "done")
    assert [a.status for a in store.attempts(number)] == ["interrupted", "done"]
    assert {a.pid for a in store.attempts(number)} == {os.getpid()}
    with pytest.raises(ValueError, match="ends as one of"):
        store.finish(number, "finished")


def test_only_an_attempt_under_the_same_conditions_leaves_a_run_done(
    store: Store, begin: Begin, config: dict[str, Any]
) -> None:
    number = begin(store, config={**config, "train": {**config["train"], "rounds": 2}})
    store.start_attempt(number)
    for round in (1, 2):
        store.record_round(number, round, {"acc": round / 2}, {}, None, f"digest{round}")
    store.add_checkpoint(number, 2, {"w": torch.zeros(2)}, {}, keep=1)
    assert store.finish(number, "done")
    store.start_attempt(number)
    store.record_round(number, 1, {"acc": 0.5}, {}, None, "digest1")
    assert store.find_run(number).last == {"acc": 1.0}
    assert store.finish(number, "interrupted", "Ctrl-C")
    assert (store.find_run(number).status, store.find_run(number).message) == ("done", None)
    store.start_attempt(number, [("torch", "1", "2")])
    assert not store.finish(number, "failed", "no more")
    assert (store.find_run(number).status, store.find_run(number).message) == ("failed", "no more")
    assert [a.status for a in store.attempts(number)] == ["done", "interrupted", "failed"]


def test_any_reason_for_an_end_is_recorded(store: Store, begin: Begin) -> None:
    number = begin(store)
    store.finish(number, "failed", "no file \udcff\0 here")
    assert store.find_run(number).message == "no file ?  here"


def test_a_run_of_a_dead_process_is_stale_and_can_be_taken_up(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = begin(store)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = replace(processes.current(), pid=child.pid, mark=processes._mark(child.pid))
    with monkeypatch.context() as patch:
        patch.setattr("fltk.registry.runs.current", lambda: worker)
        store.start_attempt(number)
    assert store.find_run(number).status == "running"
    with pytest.raises(FltkError, match=f"run1 is being worked on by process {child.pid}"):
        store.start_attempt(number)
    child.kill()
    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    assert store.find_run(number).status == "stale"
    assert [row.id for row in store.runs(status="stale")] == [number] and store.runs(status="running") == []
    store.start_attempt(number)
    assert [a.status for a in store.attempts(number)] == ["stale", "running"]


def test_a_killed_process_that_nobody_collected_counts_as_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker = replace(processes.current(), pid=child.pid, mark=processes._mark(child.pid))
    if worker.mark is None:
        pytest.skip("this system does not tell when a process started")
    assert not processes.is_gone(worker, 0.0, 0.0)
    assert processes.is_gone(replace(worker, mark="another boot:1"), 0.0, 0.0)  # the number was given out again
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the process list
    assert processes.is_gone(worker, 0.0, 0.0)
    assert child.stdin is not None
    child.stdin.close()
    child.wait()


def test_on_another_host_the_age_of_the_heartbeat_decides() -> None:
    elsewhere = replace(processes.current(), host="elsewhere")
    assert not processes.is_gone(elsewhere, 0.0, 120.0)
    assert processes.is_gone(elsewhere, 0.0, 121.0)
    assert not processes.is_gone(processes.current(), 0.0, 1e9)  # a long round on this host is no crash


def test_a_heartbeat_of_the_far_future_is_no_sign_of_life(store: Store, begin: Begin) -> None:
    """Clocks differ by minutes; one that is wrong by days must not keep a run from being taken over."""
    elsewhere = replace(processes.current(), host="elsewhere")
    assert not processes.is_gone(elsewhere, 3600.0, 0.0)
    assert processes.is_gone(elsewhere, 3601.0, 0.0)
    assert processes.is_gone(elsewhere, math.inf, 0.0)

    number = begin(store)
    store.start_attempt(number)
    with store._db.write() as connection:
        connection.exec_driver_sql("UPDATE attempt SET host = 'elsewhere', heartbeat = heartbeat + 1e9")
    assert store.find_run(number).status == "stale"
    store.start_attempt(number)
    assert store.find_run(number).status == "running"


def test_a_run_that_never_started_becomes_stale(store: Store, begin: Begin) -> None:
    number = begin(store)
    started = store.find_run(number).started
    store._clock = lambda: started + 121
    assert store.find_run(number).status == "stale"
    store._clock = lambda: started - 1e9
    assert store.find_run(number).status == "stale"
    store.heartbeat(number)
    assert store.find_run(number).status == "running"


def test_unknown_runs_are_refused_everywhere(store: Store, begin: Begin) -> None:
    begin(store)
    calls: list[Callable[[], object]] = [
        lambda: store.start_attempt(9),
        lambda: store.finish(9, "done"),
        lambda: store.set_note(9, "x"),
        lambda: store.set_tag(9, "x"),
        lambda: store.rename(9, "x"),
        lambda: store.record_round(9, 1, {}, {}, None, "d"),
        lambda: store.scalars(9),
        lambda: store.client_keys(9),
        lambda: store.maps(9),
        lambda: store.digests(9),
        lambda: store.latest_checkpoint(9),
        lambda: store.evaluations(9),
        lambda: store.save_evaluation(9, 1, {}, {}),
        lambda: store.environment(9),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="no run 'run9'"):
            call()


def test_importing_the_registry_stays_light(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from fltk.registry import Store\n"
        "Store('a.db', create=True).close()\n"
        "created = {'alembic'} & set(sys.modules)\n"
        "assert created, 'a new database comes from the migrations'\n"
    )
    again = (
        "import sys\n"
        "from fltk.registry import Store\n"
        "Store('a.db').runs()\n"
        "heavy = {'torch', 'sklearn', 'matplotlib', 'alembic', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for program in (code, again):
        subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=_environment())


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
