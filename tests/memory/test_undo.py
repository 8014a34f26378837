"""Very large states are written where they are, and nothing of the round before is lost by that."""

from __future__ import annotations

import errno
import math
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import federation, job, model_attn, play, random, staffed

from fltk import experiment
from fltk.engine.base import Job
from fltk.engine.process import Pool
from fltk.engine.serial import Serial
from fltk.errors import FltkError
from fltk.memory.undo import Undo
from fltk.methods import model_bank
from fltk.methods.attn import Attn
from fltk.partition.federation import ClientData
from fltk.protocol import mixing
from fltk.protocol.messages import Down, Upload
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.rounds import loop
from fltk.train.trainer import Trainer

KEEPING = {"ditto": "v", "fedper": "private", "scaffold": "c"}  # rows that come with uploads
BANKS: dict[str, dict[str, Any]] = {  # attn, whose starts and uploads take the place of its bank
    "attn": {},
    "attn-step": {"step": 0.5},
    "attn-model": {"token": "model"},
    "attn-layer": {"token": "model", "scope": "layer"},
    "attn-local": {"head": "local"},
    "attn-both": {"head": "both"},
    "attn-fedavg": {"tau": math.inf},
    "attn-warmup": {"warmup": 2},
}
BOUND: dict[str, dict[str, Any]] = {  # and attn where it wants to know what uploads came from
    "attn-trust": {"trust": "on"},
    "attn-clip": {"clip": 2.0},
    "attn-omega": {"token": "model", "omega": 0.5},
    "attn-secant": {"token": "model", "curvature": "secant"},
    "attn-surrogate": {"token": "model", "train": "surrogate"},
}
PLACES = {**KEEPING, **dict.fromkeys(BANKS, "bank"), "fedamp": "w", "heurfedamp": "w"}
CASES = [*PLACES, *BOUND]


def limit(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A state of more bytes counts as very large, too large for the shelf."""
    for module in ("rounds.cohort", "methods.model_bank", "memory.undo"):
        monkeypatch.setattr(f"fltk.{module}.MOST", size)


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 0)


def toy(case: str, **settings: Any) -> Job:
    """In rows that uploads replace as a whole everybody takes part."""
    params = {**BANKS, **BOUND}.get(case, {})
    share = 0.7 if case in KEEPING else 1.0
    data = federation(sizes=[12, 9, 15, 7, 20, 11])
    return job(case.split("-")[0], params, data, **{"rounds": 4, "participation": share, **settings})


def test_rows_come_back_as_they_were() -> None:
    some, other, undo = random(5, 7), random(3, 2, seed=1), Undo()
    then = some.clone(), other.clone()
    assert undo.room(some)
    assert undo.room(other)
    undo.put(some, 3, torch.ones(7))
    undo.put(other, 0, torch.zeros(2))
    undo.put(some, 1, torch.ones(7))
    assert int((some != then[0]).any(1).sum()) == 2
    undo.back()
    assert torch.equal(some, then[0])
    assert torch.equal(other, then[1])
    undo.put(some, 2, torch.ones(7))
    undo.forget()
    undo.put(some, 4, torch.zeros(7))
    undo.back()
    undo.back()
    assert torch.equal(some[2], torch.ones(7))
    assert torch.equal(some[4], then[0][4])


def test_kept_rows_are_free_and_come_back_one_by_one_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, other, undo = random(5, 7), random(3, 2, seed=1), Undo()
    then = kept.clone(), other.clone()
    assert undo.room(kept)
    assert undo.room(other)
    assert undo.kept is None
    assert not undo.keep(kept, 5)
    limit(monkeypatch, 0)
    assert not undo.keep(kept, 4)
    assert undo.kept is None
    assert undo.keep(kept, 5)
    assert undo.kept is kept
    kept.zero_()
    undo.put(other, 2, torch.ones(2))
    undo.again(3)
    undo.put(other, 0, torch.ones(2))
    assert (kept == then[0]).all(1).tolist() == [False, False, False, True, False]
    undo.back()
    assert torch.equal(kept, then[0])
    assert torch.equal(other, then[1])
    assert undo.kept is None


def test_without_a_disk_there_is_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert not Undo().room(torch.empty(1).expand(1 << 60))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: (tmp_path / "missing" / "file").open("w+b"))
    assert not Undo().room(random(3, 3))


def test_a_full_disk_is_told_in_one_line_and_nothing_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    some, undo = random(5, 7), Undo()
    assert undo.room(some)
    undo.put(some, 0, torch.ones(7))
    then = some.clone()

    def full(self: Any, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(undo, "_file", type("Full", (), {"write": full})())
    with pytest.raises(FltkError, match=r"old rows .* No space left on device; set TMPDIR to a folder") as caught:
        undo.put(some, 1, torch.ones(7))
    assert "\n" not in str(caught.value)
    assert torch.equal(some, then)


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals to send")
def test_nothing_interrupts_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    some, undo = random(5, 7), Undo()
    then, handlers = some.clone(), [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert undo.room(some)
    undo.put(some, 2, torch.ones(7))
    forget = undo.forget
    monkeypatch.setattr(undo, "forget", lambda: (signal.raise_signal(signal.SIGINT), forget()))
    undo.back()
    assert torch.equal(some, then)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize(
    ("case", "parallel"),
    [*((case, False) for case in CASES), *((case, True) for case in (*KEEPING, "attn", "attn-local"))],
)
def test_no_bit_depends_on_it(case: str, parallel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = toy(case)
    engine = Pool(made, 2) if parallel else Serial(made)
    try:
        staffed(engine)
        got = [done.digest for done in loop.rounds(made, engine)]
    finally:
        engine.close()
    limit(monkeypatch, 1 << 40)
    assert got == [done.digest for done in play(made)]


@pytest.mark.parametrize("case", PLACES)
def test_a_state_is_really_written_in_place(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, same in ((0, True), (1 << 40, False)):
        limit(monkeypatch, size)
        played = play(toy(case))
        assert (len({done.state.client[PLACES[case]].data_ptr() for done in played}) == 1) == same


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_round_that_fails_leaves_the_one_before(
    case: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind half of the work, and when all of it is done."""
    made = toy(case)
    for late in (False, True):
        rounds = loop.rounds(made, Serial(made))
        next(rounds)
        done = next(rounds)
        with monkeypatch.context() as patch:
            if late:
                patch.setattr(type(made.method), "aggregate", failing(error))
            else:
                patch.setattr(Serial, "fold", half(Serial.fold, error))
                patch.setattr(Serial, "map", half_taken(Serial.map, error))
            with pytest.raises(error):
                next(rounds)
        assert loop.digest(done.state) == done.digest
        again = [d.digest for d in play(made, resume=(2, done.state))]
        assert again == [d.digest for d in play(made)[2:]]


def failing(error: type[BaseException]) -> Any:
    def aggregate(self: Any, state: Any, uploads: Any, server: Server) -> Any:
        raise error

    return aggregate


def half(fold: Any, error: type[BaseException]) -> Any:
    """A fold that breaks off behind its first result."""

    def folded(self: Serial, *given: Any) -> Iterator[Any]:
        yield next(iter(fold(self, *given)))
        raise error

    return folded


def half_taken(map: Any, error: type[BaseException]) -> Any:
    """A map that breaks off when it comes to the fourth result."""

    def mapped(self: Serial, work: Any, tasks: Any, sizes: Any, take: Any = None) -> Any:
        def some(k: int, result: Any) -> Any:
            if k == 3:
                raise error
            return take(k, result)

        return map(self, work, tasks, sizes, some)

    return mapped


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("case", PLACES)
def test_a_round_can_be_withdrawn(case: str) -> None:
    rounds = loop.rounds(made := toy(case), Serial(made))
    first = next(rounds)
    second = next(rounds)
    assert loop.digest(first.state) != first.digest
    second.withdraw()
    assert loop.digest(first.state) == first.digest


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
        self.saved.append((round, loop.digest(State.from_tensors(tensors)) == meta["digest"]))


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("error", [KeyboardInterrupt, FltkError])
@pytest.mark.parametrize("case", ["ditto", "attn"])
def test_who_cannot_record_a_round_saves_the_one_before(case: str, error: type[BaseException]) -> None:
    made, registry = toy(case), Registry(error)
    with pytest.raises(error):
        experiment.play(1, made, made.task(), Serial(made), registry, experiment.Place())  # type: ignore[arg-type]
    assert registry.saved == [(2, True)]


@pytest.mark.parametrize("late", [0, 1])
def test_what_is_not_stored_leaves_the_rows_as_they_were(late: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that is far out of range, where it has already taken the place of its client's row."""
    honest = Attn.local_update

    def local_update(self: Attn, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        sent = honest(self, down, client, trainer)
        return replace(sent, w=sent.w + 1e6) if client.id in (1, 4) and trainer.round >= late else sent

    monkeypatch.setattr(Attn, "local_update", local_update)
    limit(monkeypatch, 1 << 40)
    known = play(toy("attn"))
    assert known[-1].scalars["screened"] == 2
    limit(monkeypatch, 0)
    played = play(toy("attn"))
    assert [done.digest for done in played] == [done.digest for done in known]


@pytest.mark.parametrize("options", [{}, {"scope": "layer"}, {"head": "both"}, {"tau": math.inf}])
def test_a_few_models_at_a_time_are_what_all_are(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows are a product here, and two clients a turn of the evaluation."""
    for module in (mixing, model_bank, loop):
        monkeypatch.setattr(module, "TOGETHER", 2)
    made = model_attn(options, data=federation(sizes=[12, 9, 15, 7, 20]), rounds=3, eval_every=1)
    known = play(made)
    limit(monkeypatch, 0)
    monkeypatch.setattr(loop, "MOST", 1)
    assert loop.in_turns(made.task()) == [range(2), range(2, 4), range(4, 5)]
    played = play(made)
    for got, whole in zip(played, known, strict=True):
        assert got.digest == whole.digest
        assert {name for name in got.clients if "personal" in name} >= {"personal_val_acc", "personal_test_loss"}
        for name, values in whole.clients.items():
            np.testing.assert_array_equal(got.clients[name], values)
