"""Very large states are written where they are, and nothing of the round before is lost by that."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import federation, job, play, random, staffed

from fltk import cohort, experiment, runner
from fltk.engine.base import Job
from fltk.engine.process import Pool
from fltk.engine.serial import Serial
from fltk.errors import FltkError
from fltk.methods.base import Context, State
from fltk.undo import Undo

KEEPING: Mapping[str, Mapping[str, Any]] = {"ditto": {}, "fedper": {}, "scaffold": {}}


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state counts as very large, too large for the shelf."""
    monkeypatch.setattr(cohort, "MOST", 0)


def toy(method: str, **settings: Any) -> Job:
    return job(method, data=federation(sizes=[12, 9, 15, 7, 20, 11]), **{"rounds": 4, "participation": 0.7, **settings})


def test_rows_come_back_as_they_were() -> None:
    rows, other, undo = random(5, 7), random(3, 2, seed=1), Undo()
    then = rows.clone(), other.clone()
    assert undo.room(rows)
    assert undo.room(other)
    undo.put(rows, 3, torch.ones(7))
    undo.put(other, 0, torch.zeros(2))
    undo.put(rows, 1, torch.ones(7))
    assert int((rows != then[0]).any(1).sum()) == 2
    undo.back()
    assert torch.equal(rows, then[0])
    assert torch.equal(other, then[1])
    undo.put(rows, 2, torch.ones(7))
    undo.forget()
    undo.put(rows, 4, torch.zeros(7))
    undo.back()
    undo.back()
    assert torch.equal(rows[2], torch.ones(7))
    assert torch.equal(rows[4], then[0][4])


def test_without_a_disk_there_is_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert not Undo().room(torch.empty(1).expand(1 << 60))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: (tmp_path / "missing" / "file").open("w+b"))
    assert not Undo().room(random(3, 3))


def test_a_full_disk_is_told_in_one_line_and_nothing_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, undo = random(5, 7), Undo()
    assert undo.room(rows)
    undo.put(rows, 0, torch.ones(7))
    then = rows.clone()

    def full(self: Any, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(undo, "_file", type("Full", (), {"write": full})())
    with pytest.raises(FltkError, match=r"old rows .* No space left on device; set TMPDIR to a folder") as caught:
        undo.put(rows, 1, torch.ones(7))
    assert "\n" not in str(caught.value)
    assert torch.equal(rows, then)


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals to send")
def test_nothing_interrupts_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, undo = random(5, 7), Undo()
    then, handlers = rows.clone(), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert undo.room(rows)
    undo.put(rows, 2, torch.ones(7))
    forget = undo.forget
    monkeypatch.setattr(undo, "forget", lambda: (signal.raise_signal(signal.SIGINT), forget()))
    undo.back()
    assert torch.equal(rows, then)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("method", KEEPING)
@pytest.mark.parametrize("parallel", [False, True])
def test_no_bit_depends_on_it(method: str, parallel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = toy(method)
    engine = Pool(made, 2) if parallel else Serial(made)
    try:
        staffed(engine)
        got = [done.digest for done in runner.rounds(made, engine)]
    finally:
        engine.close()
    monkeypatch.setattr(cohort, "MOST", 1 << 40)
    assert got == [done.digest for done in play(made)]


def test_a_state_is_really_written_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, same in ((0, True), (1 << 40, False)):
        monkeypatch.setattr(cohort, "MOST", limit)
        places = {done.state.client["v"].data_ptr() for done in play(toy("ditto", participation=1.0))}
        assert (len(places) == 1) == same


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("method", KEEPING)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_round_that_fails_leaves_the_one_before(
    method: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind half of the work, and when all of it is done."""
    made = toy(method)
    for late in (False, True):
        rounds = runner.rounds(made, Serial(made))
        next(rounds)
        done = next(rounds)
        with monkeypatch.context() as patch:
            if late:
                patch.setattr(type(made.method), "aggregate", failing(error))
            else:
                patch.setattr(Serial, "fold", half(Serial.fold, error))
            with pytest.raises(error):
                next(rounds)
        assert runner.digest(done.state) == done.digest
        again = [d.digest for d in play(made, resume=(2, done.state))]
        assert again == [d.digest for d in play(made)[2:]]


def failing(error: type[BaseException]) -> Any:
    def aggregate(self: Any, state: Any, uploads: Any, ctx: Context) -> Any:
        raise error

    return aggregate


def half(fold: Any, error: type[BaseException]) -> Any:
    """A fold that breaks off behind its first result."""

    def folded(self: Serial, *given: Any) -> Iterator[Any]:
        yield next(iter(fold(self, *given)))
        raise error

    return folded


@pytest.mark.usefixtures("in_place")
def test_a_round_can_be_withdrawn() -> None:
    rounds = runner.rounds(made := toy("ditto"), Serial(made))
    first = next(rounds)
    second = next(rounds)
    assert runner.digest(first.state) != first.digest
    second.withdraw()
    assert runner.digest(first.state) == first.digest


class Registry:
    """As much of a registry as a run needs; round 3 cannot be recorded."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.saved: list[tuple[int, bool]] = []  # round, and whether the state is the one that was recorded

    def start_attempt(self, run: int, changed: Any) -> None: ...

    def finish(self, run: int, status: str, message: str = "") -> None: ...

    def record_round(self, run: int, round: int, *given: Any) -> None:
        if round == 3:
            raise self.error

    def add_checkpoint(self, run: int, round: int, tensors: Any, meta: Mapping[str, str], keep: int) -> None:
        self.saved.append((round, runner.digest(State.from_tensors(tensors)) == meta["digest"]))


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("error", [KeyboardInterrupt, FltkError])
def test_who_cannot_record_a_round_saves_the_one_before(error: type[BaseException]) -> None:
    made, registry = toy("ditto"), Registry(error)
    with pytest.raises(error):
        experiment.play(1, made, made.task(), Serial(made), registry, experiment.Place())  # type: ignore[arg-type]
    assert registry.saved == [(2, True)]
