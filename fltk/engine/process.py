"""Clients in spawned worker processes, one torch thread each.

The data travel once, through shared memory. Per round every worker gets one message with all its tasks, dealt
largest first; equal tensors in a message (FedAvg's global model) travel once.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp

from fltk.engine.base import Bench, Job, Work, check_device, pin_threads
from fltk.errors import FltkError

PATIENCE = 2.0  # seconds that a worker gets to end by itself


class Pool:
    """A fixed set of workers that live as long as the run."""

    def __init__(self, job: Job, workers: int):
        check_device(job.device)
        pin_threads()
        job.federation.share_memory()
        context = mp.get_context("spawn")
        resource_tracker.ensure_running()  # it would let Ctrl-C through again if it started below
        self._workers: list[tuple[BaseProcess, Connection]] = []
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, job), daemon=True)
            with no_interrupt():
                process.start()
            there.close()
            self._workers.append((process, here))

    def map(self, work: Work, tasks: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
        hands = deal(sizes, len(self._workers))
        for (_, pipe), hand in zip(self._workers, hands, strict=True):
            if hand:
                self._send(pipe, pack((work, [tasks[k] for k in hand])))
        results: list[Any] = [None] * len(tasks)
        open_hands = {
            pipe: (process, iter(hand)) for (process, pipe), hand in zip(self._workers, hands, strict=True) if hand
        }
        left = {pipe: len(hand) for (_, pipe), hand in zip(self._workers, hands, strict=True) if hand}
        while left:  # whoever is ready: a worker whose answer waits in a full pipe would stand idle
            for pipe in _ready(left):
                process, hand_iter = open_hands[pipe]
                results[next(hand_iter)] = self._receive(process, pipe)
                left[pipe] -= 1
                if not left[pipe]:
                    del left[pipe]
        failures = [r for r in results if isinstance(r, Exception)]
        if failures:
            raise failures[0]
        return results

    def close(self) -> None:
        for _, pipe in self._workers:
            with contextlib.suppress(OSError):
                pipe.close()
        for process, _ in self._workers:
            process.join(PATIENCE)
            if process.is_alive():
                process.terminate()
                process.join(PATIENCE)
        self._workers = []

    def _send(self, pipe: Connection, message: bytes) -> None:
        try:
            pipe.send_bytes(message)
        except OSError:
            raise FltkError("--engine: a worker process has ended; continue with `fltk resume`") from None

    def _receive(self, process: BaseProcess, pipe: Connection) -> Any:
        try:
            return unpack(pipe.recv_bytes())
        except (EOFError, OSError):
            process.join(PATIENCE)
            raise FltkError(
                f"--engine: a worker process has ended (exit code {process.exitcode}); "
                "continue with `fltk resume`, or use fewer workers if memory was short"
            ) from None


@contextlib.contextmanager
def no_interrupt() -> Iterator[None]:
    """Holds Ctrl-C back; a worker inherits this, so that none dies with a traceback while it still imports."""
    if not hasattr(signal, "pthread_sigmask"):  # no such call on this system
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ready(pipes: Iterable[Connection]) -> list[Connection]:
    """The pipes with an answer, or whose worker has ended; waits for the first."""
    return [pipe for pipe in wait(list(pipes)) if isinstance(pipe, Connection)]


def deal(sizes: Sequence[int], workers: int) -> list[list[int]]:
    """Task indices per worker, largest first to the least loaded, each hand in task order."""
    hands: list[list[int]] = [[] for _ in range(workers)]
    load = [0] * workers
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        least = load.index(min(load))
        hands[least].append(k)
        load[least] += max(1, sizes[k])
    return [sorted(hand) for hand in hands]


class _Pickler(pickle.Pickler):
    """Tensors as numpy arrays; the same tensor (same memory, same shape) is written once per message."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=5)
        self._seen: dict[tuple[Any, ...], np.ndarray[Any, Any]] = {}

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        key = (obj.data_ptr(), obj.dtype, tuple(obj.shape), obj.stride())
        array = self._seen.setdefault(key, obj.detach().contiguous().numpy())
        return torch.from_numpy, (array,)


def pack(message: Any) -> bytes:
    """A message as bytes; its tensors are alive while it is packed, so their addresses identify them."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(message)
    return buffer.getvalue()


def unpack(data: bytes) -> Any:
    """The inverse of `pack`, for messages of our own workers."""
    return pickle.loads(data)


def _serve(pipe: Connection, job: Job) -> None:
    """A worker: one message is a list of tasks, one answer per task. It ends when the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    pin_threads()
    try:
        bench: Bench | Exception = Bench(job)
    except FltkError as error:
        bench = error
    while True:
        try:
            work, tasks = unpack(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        for task in tasks:
            try:
                pipe.send_bytes(pack(_attempt(work, bench, task)))
            except OSError:
                return


def _attempt(work: Work, bench: Bench | Exception, task: Any) -> Any:
    """The result, or the error as a value: an exception must not end the worker."""
    if isinstance(bench, Exception):
        return bench
    try:
        return work(bench, task)
    except FltkError as error:
        return error
    except Exception as error:  # a bug in client work: told with its place, since the traceback stays here
        place = traceback.extract_tb(error.__traceback__)[-1]
        return RuntimeError(f"{type(error).__name__}: {error} (in {place.name}, line {place.lineno})")
