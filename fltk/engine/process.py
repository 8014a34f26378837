"""Clients in spawned worker processes, one torch thread each.

The samples travel once, through shared memory. Tasks are dealt in groups, largest first, two of them at most on their
way to a worker, so that a slow core gets fewer. What a group reads and what it results in lies in memory that driver
and worker share, one room for each of the two groups; a room is free again when its group has been answered. What lies
on the driver's shelf (`fltk.memory.shared`) is read and written there, and goes through no room.

Workers need a second or two until they can work. The driver does not wait for them: until the first one is there it
plays groups itself. A worker that ends is replaced, and its groups are dealt again: client work depends on its task
alone, so that repeating it changes no bit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from multiprocessing import reduction, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch.multiprocessing as mp

from fltk.engine.base import Bench, Job, Reduce, Take, Work, check_device, settle
from fltk.engine.lockstep import fold_through, succeeded, work_through
from fltk.engine.transport import pack, unpack
from fltk.errors import FltkError
from fltk.lifeline import Lifeline, serve
from fltk.memory.shared import SHELF, Borrowed, SharedFile, rooms
from fltk.own_code import Carried, blame
from fltk.signals import FROM_TERMINAL, leave_to_driver

PATIENCE = 0.5  # seconds that a worker gets to end by itself
IN_FLIGHT = 2  # groups on their way to a worker: one at work, and one so that it need not wait
GROUPS = 8  # a worker's share of a map comes in about so many groups
ROWS, LEAST, MOST = 32, 1 << 20, 1 << 26  # models that a room holds, and its bytes at least and at most
PIPE = 1 << 14  # bytes that surely fit into a pipe which nobody reads yet
LENDING = bytes([255])  # begins a message that is no group but says what is on the shelf
DEATHS = 3  # workers that may end in a row, without an answer between

Play = Callable[[Bench, Sequence[Any]], Iterator[Any]]  # results of items: tasks, or parts of them


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    tasks: list[memoryview]  # rooms of what goes there, by turn
    results: list[memoryview]  # and of what comes back
    ready: bool = False
    sent: int = 0
    borrowed: set[int] = field(default_factory=set)  # blocks of the shelf
    flight: deque[tuple[int, list[int], list[Any]]] = field(default_factory=deque)  # turn, numbers of the items, and
    # these themselves: the rows that they name must stay where they are until the worker has answered


class Pool:
    """Workers that live as long as the run.

    after: seconds of client work in the driver before any worker is started; short runs end before.
    """

    def __init__(self, job: Job, workers: int, after: float = 0.0):
        check_device(job.device)
        settle()
        self._job = job
        self._count = workers
        self._left = after
        self._bench = Bench(job)
        self._workers: list[_Worker] = []
        self._in_flight = IN_FLIGHT
        self._deaths = 0
        self._begun = False  # whether a worker is or was ready; what ends workers must not end the driver
        if not after:
            self._hire()

    @property
    def ready(self) -> bool:
        return all(worker.ready for worker in self._workers)

    def map(self, work: Work, tasks: Sequence[Any], sizes: Sequence[int], take: Take | None = None) -> list[Any]:
        results: list[Any] = [None] * len(tasks)
        groups = deque(deal(sizes, *self._together(1)))
        for k, result in self._results(partial(_map, work), tasks, groups, copy=take is None):
            results[k] = result if take is None or isinstance(result, Exception) else take(k, result)
        failures = [r for r in results if isinstance(r, Exception)]
        if failures:
            raise failures[0]
        return results

    def fold(
        self, work: Work, reduce: Reduce, parts: Sequence[Sequence[Any]], sizes: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        groups = deque(deal_in_order(sizes, *self._together(max(map(len, parts), default=1))))
        for k, result in self._results(partial(_fold, work, reduce), parts, groups, copy=False):
            yield k, succeeded(result)

    def close(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.pipe.close()
            if worker.flight or not worker.ready:  # its work is of no use any more
                worker.process.terminate()
        end = time.monotonic() + PATIENCE
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []

    def _together(self, each: int) -> tuple[int, int, int]:
        """For items of `each` tasks, how many are best worked at in one go; the workers; the most items of a group."""
        rows = max(1, min(ROWS, MOST // (4 * self._job.width)))  # models of one group fit into a room
        return max(1, min(self._bench.backend.together, rows) // each), self._count, max(1, rows // each)

    def _results(
        self, play: Play, items: Sequence[Any], groups: deque[list[int]], copy: bool = True
    ) -> Iterator[tuple[int, Any]]:
        """Numbers of items and what playing them gives, an exception as a value, in the order in which it comes.

        Without `copy` tensors lie where the worker has put them, and are gone when the next item is asked for.
        """
        self._drain()
        while groups or any(worker.flight for worker in self._workers):
            self._fill(play, items, groups)
            waiting = [w for w in self._workers if w.flight or not w.ready]
            if self._begun:
                heard = wait([w.pipe for w in waiting])
            else:
                yield from self._play(play, items, groups.popleft())
                heard = wait([w.pipe for w in waiting], 0)
            for worker in waiting:
                if worker.pipe in heard:
                    yield from self._hear(worker, groups, copy)

    def _fill(self, play: Play, items: Sequence[Any], groups: deque[list[int]]) -> None:
        """Sends groups to workers that can take more; none gets a second one before all have one."""
        for flying in range(self._in_flight):
            for worker in self._workers:
                if worker.ready and groups and len(worker.flight) == flying:
                    self._send(worker, play, items, groups)

    def _drain(self) -> None:
        """Takes the answers to what an earlier call was not interested in any more."""
        for worker in self._workers[:]:
            while worker.flight and worker in self._workers:
                self._hear(worker, deque())

    def _play(self, play: Play, items: Sequence[Any], group: list[int]) -> list[tuple[int, Any]]:
        """A group in this process."""
        started = time.perf_counter()
        results = list(play(self._bench, [items[k] for k in group]))
        self._left -= time.perf_counter() - started
        if self._left <= 0 and not self._workers:
            self._hire()
        return list(zip(group, results, strict=True))

    def _hire(self) -> None:
        self._job.federation.share_memory()
        resource_tracker.ensure_running()  # it would let Ctrl-C through again if it started below
        self._workers += [_start(self._job) for _ in range(self._count - len(self._workers))]

    def _send(self, worker: _Worker, play: Play, items: Sequence[Any], groups: deque[list[int]]) -> None:
        group, turn = groups.popleft(), worker.sent % IN_FLIGHT
        some = [items[k] for k in group]
        message = bytes([turn]) + pack((play, some), worker.tasks[turn], SHELF)
        if len(message) > PIPE and worker.flight:  # both would wait for the other to read
            self._in_flight = 1
            groups.appendleft(group)
            return
        worker.flight.append((turn, group, some))
        worker.sent += 1
        with contextlib.suppress(OSError):  # a worker that has ended is noticed when it is heard
            _lend(worker)
            worker.pipe.send_bytes(message)

    def _hear(self, worker: _Worker, groups: deque[list[int]], copy: bool = True) -> list[tuple[int, Any]]:
        """A worker's answer; one that has ended is replaced, and its groups are dealt again."""
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._replace(worker, groups)
            return []
        if not worker.ready:
            worker.ready = self._begun = True
            return []
        self._deaths = 0
        turn, group, _ = worker.flight.popleft()
        return list(zip(group, unpack(message, worker.results[turn], copy), strict=True))

    def _replace(self, worker: _Worker, groups: deque[list[int]]) -> None:
        worker.process.join(PATIENCE)
        self._deaths += 1
        self._workers.remove(worker)
        if self._deaths > DEATHS:
            raise FltkError(
                f"--engine: worker processes end again and again (exit code {worker.process.exitcode}); "
                "continue with `fltk resume`, with fewer workers if memory was short"
            )
        groups.extendleft(group for _, group, _ in reversed(worker.flight))
        self._hire()


def deal(sizes: Sequence[int], together: int, workers: int, limit: int = ROWS) -> list[list[int]]:
    """Item numbers in groups, the largest items first; as many groups for every worker.

    together: items that are best worked at in one go; a group has a multiple of it at most, and no more than `limit`.
    """
    order = sorted(range(len(sizes)), key=lambda k: -sizes[k])
    count = _group_count(len(order), together, workers, limit)
    cuts = [len(order) * k // count for k in range(count + 1)] if count else []
    return [order[a:b] for a, b in pairwise(cuts) if a < b]


def deal_in_order(sizes: Sequence[int], together: int, workers: int, limit: int = ROWS) -> list[list[int]]:
    """The same in the order of the items, so that few results come before their turn; groups of about equal size."""
    count = _group_count(len(sizes), together, workers, limit)
    ends = list(accumulate(sizes))
    groups: list[list[int]] = [[] for _ in range(count)]
    for k, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        groups[min(count - 1, int(count * (end - size / 2) / max(1, ends[-1])))].append(k)
    return [group for group in groups if group]


def _group_count(items: int, together: int, workers: int, limit: int) -> int:
    most = together * max(1, min(limit // together, items // (together * workers * GROUPS)))
    return workers * -(-items // (workers * most))


def _start(job: Job) -> _Worker:
    """A new worker, which says so when it can work."""
    context = mp.get_context("spawn")
    here, there = context.Pipe()
    size = IN_FLIGHT * min(MOST, max(LEAST, ROWS * 4 * job.width))
    tasks, results = SharedFile.of(size), SharedFile.of(size)
    process = context.Process(
        target=serve, args=(Lifeline(), _serve, there, Carried(), job, tasks, results), daemon=True
    )
    with no_interrupt():
        process.start()
    there.close()
    return _Worker(process, here, rooms(tasks, IN_FLIGHT), rooms(results, IN_FLIGHT))


@contextlib.contextmanager
def no_interrupt() -> Iterator[None]:
    """Holds back what a terminal sends. A worker inherits this, so that none dies with a traceback while it imports."""
    if not hasattr(signal, "pthread_sigmask"):  # no such call on this system
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lend(worker: _Worker) -> None:
    """Lets a worker map what is on the shelf."""
    blocks = SHELF.blocks()
    new, gone = blocks.keys() - worker.borrowed, worker.borrowed - blocks.keys()
    if not new and not gone:
        return
    worker.borrowed = set(blocks)
    worker.pipe.send_bytes(LENDING + pack(([(key, blocks[key][1]) for key in new], gone)))
    for key in new:
        reduction.send_handle(worker.pipe, blocks[key][0], worker.process.pid)


def _borrow(pipe: Connection, borrowed: Borrowed, message: bytes) -> None:
    """The other side of it."""
    new, gone = unpack(message)
    borrowed.leave(gone)
    for key, size in new:
        borrowed.take(key, reduction.recv_handle(pipe), size)


def _serve(pipe: Connection, own: Carried, job: Job, tasks: SharedFile | None, results: SharedFile | None) -> None:
    """A worker: says that it is ready, then answers every group of tasks at once. It ends when the pipe is closed.

    own: the user's own code. It stands before the job, so that its classes are there when the job is unpickled.
    """
    leave_to_driver()
    settle()
    _give_way()
    bench = Bench(job)
    reads, writes, borrowed = rooms(tasks, IN_FLIGHT), rooms(results, IN_FLIGHT), Borrowed()
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"")
        while True:
            message = pipe.recv_bytes()
            if message[:1] == LENDING:
                _borrow(pipe, borrowed, message[1:])
                continue
            turn = message[0]
            play, items = unpack(message[1:], reads[turn], copy=False, borrowed=borrowed)
            pipe.send_bytes(pack([_told(result) for result in play(bench, items)], writes[turn]))


def _give_way() -> None:
    """Tells the scheduler that this process only computes: woken, it does not displace the driver in mid-sending."""
    with contextlib.suppress(AttributeError, OSError):  # another system
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _map(work: Work, bench: Bench, tasks: Sequence[Any]) -> Iterator[Any]:
    return work_through(bench, work, tasks)


def _fold(work: Work, reduce: Reduce, bench: Bench, parts: Sequence[Sequence[Any]]) -> Iterator[Any]:
    return fold_through(bench, work, reduce, parts)


def _told(result: Any) -> Any:
    """A result as it travels: a bug in client work is told with its place, since the traceback stays here."""
    if not isinstance(result, Exception) or isinstance(result, FltkError):
        return result
    own = blame(result)
    if own is not None:
        return own
    place = traceback.extract_tb(result.__traceback__)[-1]
    return RuntimeError(f"{type(result).__name__}: {result} (in {place.name}, line {place.lineno})")
