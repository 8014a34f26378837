"""Engines: how work is dealt, what travels, and what happens when a worker dies."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import SIZES, aggregated, federation, job, play, random, uploads

from fltk import engine
from fltk.engine.base import Bench, Job, default_model
from fltk.engine.process import GROUPS, Pool, deal, deal_in_order
from fltk.engine.serial import Serial
from fltk.engine.transport import pack, unpack
from fltk.engine.work import ScoreTask, score_client
from fltk.errors import Diverged, FltkError, UsageError
from fltk.memory.shared import SharedFile, rooms
from fltk.rounds import loop


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 16), st.integers(1, 8))
def test_every_task_is_dealt_once_in_groups_for_all_workers(sizes: list[int], together: int, workers: int) -> None:
    groups = deal(sizes, together, workers)
    dealt = [k for group in groups for k in group]
    assert sorted(dealt) == list(range(len(sizes)))
    assert [sizes[k] for k in dealt] == sorted(sizes, reverse=True)
    assert len(groups) % workers == 0 or len(groups) == len(sizes)
    assert max(map(len, groups), default=0) - min(map(len, groups), default=0) <= 1
    assert len(sizes) > together * workers * GROUPS or max(map(len, groups), default=0) <= together


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 16), st.integers(1, 8))
def test_items_dealt_in_order_make_groups_of_about_equal_size(sizes: list[int], together: int, workers: int) -> None:
    groups = deal_in_order(sizes, together, workers)
    assert [k for group in groups for k in group] == list(range(len(sizes)))
    count = len(deal(sizes, together, workers))
    assert len(groups) <= count + workers
    share = sum(sizes) / max(1, len(groups))
    assert all(sum(sizes[k] for k in group) <= share + max(sizes) + 1 for group in groups)


def test_messages_return_as_they_were() -> None:
    message = {
        "float": random(3, 4),
        "double": random(5).double(),
        "whole": torch.arange(4),
        "yes": torch.tensor([True, False]),
        "number": torch.tensor(3),
        "empty": torch.zeros(0, 7),
        "rest": [1, "two", None, (3.5,)],
    }
    got = unpack(pack(message))
    assert got["rest"] == message["rest"]
    for key, value in message.items():
        if isinstance(value, torch.Tensor):
            assert got[key].dtype == value.dtype
            assert got[key].shape == value.shape
            assert torch.equal(got[key], value)


def test_strided_views_travel_by_value() -> None:
    base = random(6, 8)
    views = [base.t(), base[::2], base[1], base[:, 3], base[0].expand(4, -1), base[0]]
    for mine, got in zip(views, unpack(pack(views)), strict=True):
        assert torch.equal(mine, got)


def test_equal_tensors_travel_once() -> None:
    w = random(50_000)
    once, twice = len(pack([w])), len(pack([w, w, w[:], w.view(-1)]))
    assert twice < once + 500
    assert len(pack([w, w.clone()])) > 2 * once - 500
    got = unpack(pack([w, w]))
    assert got[0].data_ptr() == got[1].data_ptr()  # by which a shared model is scored once


def test_the_same_memory_in_another_form_is_another_tensor() -> None:
    w = random(12)
    a, b, c = unpack(pack([w, w.view(3, 4), w[:6]]))
    assert torch.equal(a, w)
    assert torch.equal(b, w.view(3, 4))
    assert torch.equal(c, w[:6])


def test_large_tensors_lie_in_a_room_and_small_ones_in_the_message() -> None:
    one, two = rooms(SharedFile.of(1 << 21), 2)
    large, small, whole = random(300, 400), random(5), torch.arange(3000)
    data = pack([large, small, whole, large[1:], large], one)
    assert len(data) < 2000
    got = unpack(data, one)
    for mine, other in zip([large, small, whole, large[1:], large], got, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)
    assert got[0].data_ptr() == got[4].data_ptr()
    views = unpack(data, one, copy=False)
    pack([torch.zeros(300, 400)], one)  # the room is given out again
    assert torch.equal(got[0], large)
    assert torch.equal(views[0], torch.zeros(300, 400))
    assert not any(two[:4096])


def test_what_finds_no_room_travels_in_the_message() -> None:
    room = rooms(SharedFile.of(1 << 13), 1)[0]
    message = [random(1500), random(1500, seed=1), random(520, seed=2)]
    data = pack(message, room)
    assert 6000 < len(data) < 7000
    for mine, other in zip(message, unpack(data, room), strict=True):
        assert torch.equal(mine, other)


def test_received_tensors_may_be_written() -> None:
    sent = random(4)
    assert torch.equal(unpack(pack(sent)).add_(1), sent + 1)


@pytest.mark.parametrize(
    "spec", ["", "process", "process:0", "process:-1", "process:two", "serial:2", "ray", "thread:2"]
)
def test_other_engines_are_refused_by_name(spec: str) -> None:
    with pytest.raises(UsageError, match="--engine takes auto, serial or process:N"):
        engine.make(spec, job("fedavg"))


def test_serial_is_an_engine_by_name() -> None:
    made = engine.make("serial", job("fedavg"))
    assert isinstance(made, Serial)
    made.close()
    made.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_missing_device_is_told() -> None:
    from dataclasses import replace

    with pytest.raises(UsageError, match="--device cuda"):
        Serial(replace(job("fedavg"), device="cuda"))


def test_newcomers_come_behind_the_clients() -> None:
    bench = Bench(job("fedavg"))
    assert [bench.client(i).id for i in range(len(SIZES))] == list(range(len(SIZES)))


def test_the_default_network_follows_the_shape() -> None:
    assert default_model((6, 128)) == "cnn1d"
    assert default_model((1, 8, 8)) == "mlp"
    made = job("fedavg", data=federation((5, 5), (3, 64)), model="")
    assert any(e.name == "0.weight" and len(e.shape) == 3 for e in made.task().layout.entries)


def test_one_model_for_everybody_is_scored_once_and_alike() -> None:
    made = job("fedavg")
    w = made.task().w0
    bench = Bench(made)
    shared = score_client(bench, ScoreTask(0, 0, w, w))
    copied = score_client(bench, ScoreTask(0, 0, w, w.clone()))
    assert shared == copied
    assert score_client(bench, ScoreTask(0, 0, w, None)).shared_val is None


def big_job(**settings: Any) -> Job:
    """A network with convolutions and running statistics, on clients of unequal size."""
    data = federation((12, 23, 8, 17), (1, 8, 8), groups=(0, 1, 0, 1))
    return job("fedper", data=data, model="resnet8-bn", **settings)


def where(bench: Bench, task: Any) -> int:
    """The process that works."""
    return os.getpid()


def echo(bench: Bench, task: Any) -> Any:
    return task


def total(results: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(results)).sum(0)


def fail(bench: Bench, task: Any) -> Any:
    """Errors of both kinds, by task."""
    if task == "user":
        raise Diverged("client 3, round 7: told in one line")
    if task == "bug":
        raise KeyError("deep inside")
    return task


def threads(bench: Bench, task: Any) -> int:
    return torch.get_num_threads()


@pytest.fixture(scope="module")
def pool_and_job() -> Any:
    made = big_job(eval_every=1, momentum=0.5)
    pool = Pool(made, 2)
    started(pool)
    yield pool, made
    pool.close()


def test_two_processes_give_the_bits_of_one(pool_and_job: tuple[Pool, Job]) -> None:
    pool, made = pool_and_job
    parallel = list(loop.rounds(made, pool))
    serial = play(made)
    assert [r.digest for r in parallel] == [r.digest for r in serial]
    for a, b in zip(parallel, serial, strict=True):
        assert a.clients.keys() == b.clients.keys()
        assert all(np.array_equal(a.clients[k], b.clients[k]) for k in b.clients)


def test_results_come_in_the_order_of_the_tasks(pool_and_job: tuple[Pool, Job]) -> None:
    pool, _ = pool_and_job
    tasks = list(range(20))
    assert pool.map(echo, tasks, [(7 * k) % 11 for k in tasks]) == tasks
    assert pool.map(echo, [], []) == []
    assert pool.map(echo, ["one"], [1]) == ["one"]
    assert set(pool.map(threads, tasks, [1] * 20)) == {1}


def test_all_parts_are_folded_and_may_be_left(pool_and_job: tuple[Pool, Job]) -> None:
    pool, made = pool_and_job
    parts = [[torch.full((3000,), float(10 * k + j)) for j in range(1 + k % 4)] for k in range(40)]
    sizes, heard = [len(part) for part in parts], set[int]()
    for k, got in pool.fold(echo, total, parts, sizes):
        assert torch.equal(total(parts[k]), got)
        heard.add(k)
    assert heard == set(range(len(parts)))
    k, got = next(pool.fold(echo, total, parts, sizes))
    assert torch.equal(got, total(parts[k]))
    with pytest.raises(Diverged, match="client 3"):
        list(pool.fold(fail, total, [["a", "user", "b"]] * 9, [3] * 9))
    assert pool.map(echo, list(range(40)), [1] * 40) == list(range(40))
    with pytest.raises(Diverged, match="client 3"):
        list(Serial(made).fold(fail, total, [["a", "user", "b"]], [3]))


@pytest.mark.parametrize("method", ["fedavg", "fedper", "fedprox"])
def test_models_added_up_as_they_come_give_the_bits_of_all_at_once(method: str) -> None:
    made = job(method, rounds=1, participation=0.8)
    state = made.method.init(made.task())
    ids = loop.sample(made.task(), made.train, made.streams(), 0)
    kept = aggregated(made, uploads(made, state, ids), state=state)
    assert loop.digest(kept) == play(made)[0].digest


def test_large_answers_do_not_block(pool_and_job: tuple[Pool, Job]) -> None:
    pool, _ = pool_and_job
    tasks = [torch.full((300_000,), float(k)) for k in range(6)]
    for mine, got in zip(tasks, pool.map(echo, tasks, [1] * 6), strict=True):
        assert torch.equal(mine, got)


def test_tasks_and_answers_that_find_no_room_do_not_wait_for_each_other(pool_and_job: tuple[Pool, Job]) -> None:
    pool, _ = pool_and_job
    tasks = [torch.full((300_000,), float(k)) for k in range(40)]
    for mine, got in zip(tasks, pool.map(echo, tasks, [1] * 40), strict=True):
        assert torch.equal(mine, got)
    assert pool.map(echo, list(range(40)), [1] * 40) == list(range(40))


def test_an_error_in_a_shared_step_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    made = job("fedavg")
    serial = Serial(made)

    def broken(self: Any, orders: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr("fltk.train.backend.Backend.play", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(loop.rounds(made, serial))


def test_errors_cross_the_process_and_leave_it_usable(pool_and_job: tuple[Pool, Job]) -> None:
    pool, _ = pool_and_job
    with pytest.raises(Diverged, match="client 3, round 7: told in one line"):
        pool.map(fail, ["a", "user", "b"], [1, 1, 1])
    with pytest.raises(RuntimeError, match=r"KeyError.*deep inside.*in fail, line \d+"):
        pool.map(fail, ["bug", "b"], [1, 1])
    assert pool.map(fail, ["a", "b"], [1, 1]) == ["a", "b"]


def alive(pid: int) -> bool:
    """Whether a process runs; a dead child that nobody waited for does not count."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started(pool: Pool, work: Any = where) -> list[int]:
    """The workers' process ids, once all of them work."""
    for _ in range(600):
        pids = set(pool.map(work, list(range(40)), [1] * 40)) - {os.getpid()}
        if len(pids) == 2:
            return sorted(pids)
        time.sleep(0.05)
    raise AssertionError("two workers did not start within 30 seconds")


def suicide(bench: Bench, task: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_killed_worker_is_replaced_and_no_bit_changes() -> None:
    made = big_job(eval_every=1, rounds=4)
    pool = Pool(made, 2)
    try:
        digests = []
        for done in loop.rounds(made, pool):
            digests.append(done.digest)
            os.kill(started(pool)[done.round % 2], signal.SIGKILL)
    finally:
        pool.close()
    assert digests == [r.digest for r in play(made)]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_workers_that_end_again_and_again_are_told_in_one_line_and_closing_ends_the_others() -> None:
    pool = Pool(job("fedavg"), 2)
    try:
        pids = started(pool)
        with pytest.raises(FltkError, match=r"--engine: worker processes end again and again.*fltk resume") as caught:
            pool.map(suicide, list(range(8)), [1] * 8)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 1
    finally:
        pool.close()
    assert not any(alive(pid) for pid in pids)
    pool.close()


def test_auto_begins_alone_and_goes_on_with_workers() -> None:
    made = big_job(rounds=3)
    pool = Pool(made, 2, after=1e-6)
    try:
        assert set(pool.map(where, [0], [1])) == {os.getpid()}
        digests = [done.digest for done in loop.rounds(made, pool)]
        assert len(started(pool)) == 2
    finally:
        pool.close()
    assert digests == [r.digest for r in play(made)]


def test_auto_takes_no_workers_for_a_second_of_work_or_a_single_client() -> None:
    short = engine.make("auto", job("fedavg"))
    assert set(short.map(where, list(range(9)), [1] * 9)) == {os.getpid()}
    short.close()
    assert isinstance(engine.make("auto", job("fedavg", data=federation((9,)))), Serial)


def test_errors_survive_pickling() -> None:
    for error in (FltkError("one line"), UsageError("one line"), Diverged("one line")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == "one line"
        assert again.exit_code == error.exit_code
