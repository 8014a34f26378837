"""Several cells at once, each worker a spawned process with a registry connection of its own.

A worker that dies takes one cell with it: the cell is told as failed, and another worker takes over. One that loses its
driver, or is asked to end by SIGTERM, saves where its run is like a run that is stopped with Ctrl-C.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from fltk.engine.base import settle
from fltk.engine.process import no_interrupt
from fltk.experiment import Place
from fltk.lifeline import Lifeline, serve
from fltk.own_code import Carried
from fltk.registry import Store
from fltk.signals import leave_to_driver
from fltk.sweep.play import Errand, Event, Player, Tell, play
from fltk.sweep.state import FAILED

PATIENCE = 60.0  # seconds that a worker gets to store the round it is in
Message = Event | None  # None: the errand is over


@dataclass
class _Worker:
    """A process, our end of its pipe, and the errand it is on."""

    process: SpawnProcess
    pipe: Connection
    errand: Errand


def play_in_workers(errands: Sequence[Errand], db: str, place: Place, name: str, jobs: int, tell: Tell) -> None:
    """Deal the errands to `jobs` workers, the next one to whoever is free."""
    waiting = list(reversed(errands))
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                worker = _start(db, place, name, waiting.pop())
                workers[worker.pipe] = worker
            for pipe in wait(list(workers)):
                assert isinstance(pipe, Connection)
                _hear(workers, workers[pipe], waiting, tell)
    finally:
        _end(list(workers.values()))


def _start(db: str, place: Place, name: str, errand: Errand) -> _Worker:
    context = get_context("spawn")
    resource_tracker.ensure_running()  # it would let Ctrl-C through if it started below
    here, there = context.Pipe()
    # No daemon: a daemon may have no children, which --engine process:N needs. It ends with its pipe.
    process = context.Process(target=serve, args=(Lifeline(), _serve, there, Carried(), db, place, name), daemon=False)
    with no_interrupt():
        process.start()
    there.close()
    _hand(here, errand)
    return _Worker(process, here, errand)


def _hand(pipe: Connection, errand: Errand) -> None:
    with contextlib.suppress(OSError):  # a worker that is dead by now is found so when it is listened to
        pipe.send(errand)


def _hear(workers: dict[Connection, _Worker], worker: _Worker, waiting: list[Errand], tell: Tell) -> None:
    """One message of a worker; it gets the next errand, goes home when there is none, or is found dead."""
    try:
        message: Message = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(PATIENCE)
        reason = f"its process has ended (exit code {worker.process.exitcode}); run the sweep again to go on"
        tell(Event(worker.errand.cell.digest, FAILED, message=reason))
        _dismiss(workers, worker)
        return
    if message is not None:
        tell(message)
    elif waiting:
        worker.errand = waiting.pop()
        _hand(worker.pipe, worker.errand)
    else:
        _dismiss(workers, worker)


def _dismiss(workers: dict[Connection, _Worker], worker: _Worker) -> None:
    del workers[worker.pipe]
    worker.pipe.close()
    worker.process.join(PATIENCE)


def _end(workers: Sequence[_Worker]) -> None:
    """Ask all at once to save and end, then wait for them; Ctrl-C is held back so that a second one loses nothing."""
    with no_interrupt():
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(PATIENCE)


def _serve(pipe: Connection, own: Carried, db: str, place: Place, name: str) -> None:
    """A worker: errand after errand until the pipe is closed. `own` is the user's own code, loaded as it arrives."""
    leave_to_driver()
    signal.signal(signal.SIGTERM, _stop_once)
    settle()
    with contextlib.suppress(KeyboardInterrupt, EOFError), Store(db) as store:
        player = Player(store, place, name, lambda event: _send(pipe, event))
        while True:
            player(pipe.recv())
            _send(pipe, None)


def _stop_once(number: int, frame: FrameType | None) -> None:
    """Stops the run like Ctrl-C. A second signal must not disturb what saves it: the driver sends one, and whoever
    stops a group of processes sends one to each.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _send(pipe: Connection, message: Message) -> None:
    """A driver that is gone stops the worker's run as Ctrl-C would: there is nobody left to play for."""
    try:
        pipe.send(message)
    except OSError:
        raise KeyboardInterrupt from None


def send(errands: Sequence[Errand], store: Store, db: str, place: Place, name: str, jobs: int, tell: Tell) -> None:
    """Play errands into a registry, in this process or, with several `jobs`, in processes of their own."""
    if jobs > 1 and len(errands) > 1:
        play_in_workers(errands, db, place, name, min(jobs, len(errands)), tell)
    else:
        play(errands, store, place, name, tell)
