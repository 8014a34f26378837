"""Seconds of a round: fltk and its reference in turns of some rounds, so that a busy machine hits both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from fltk import engine as engines
from fltk import methods
from fltk.bench.data import federation
from fltk.bench.flops import forward_flops, layer_costs, training_flops
from fltk.bench.machine import MIB, memory_now, peak_memory, restart_peak, workers
from fltk.bench.plain import PlainLoop
from fltk.bench.workloads import PLAIN, UNEVALUATED, Training
from fltk.config import TrainConfig
from fltk.engine.base import Job
from fltk.experiment import Place
from fltk.rounds import loop

ROUNDS = 10_000  # of the runs that are measured: more than will be played
TURN, SPELL, MOST = 3, 0.4, 10  # rounds of a turn at least; seconds that it lasts at least, by up to so many rounds
WARM = 2.0  # seconds of rounds before a measurement at least, and until all workers can work
TRAINED = {"ditto": 2}  # models that a client trains in a round, where it is not one
PARTS = ("seconds_train", "seconds_aggregate", "seconds_eval")

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """How to measure: rounds (or repetitions) behind the one for warming up, and settings of the training."""

    rounds: int
    place: Place
    settings: Mapping[str, Any]
    quick: bool = False


class Played:
    """Rounds of a run without a registry, each played when it is asked for; the most memory that any of them took."""

    def __init__(self, job: Job, engine: str) -> None:
        before = workers()
        self.job = job
        self.engine = engines.make(engine, job)
        self.before = before
        self.driver: float | None = None
        self.parts: list[tuple[float, ...]] = []
        self._rounds = loop.rounds(job, self.engine, task=job.task())

    def round(self) -> None:
        """The next round."""
        restart_peak()
        done = next(self._rounds)
        peak = peak_memory()
        self.driver = peak if peak is None or self.driver is None else max(peak, self.driver)
        self.parts.append(tuple(done.scalars[part] for part in PARTS))

    def warm(self) -> Played:
        """Plays rounds until the engine is as fast as it will be."""
        began = time.perf_counter()
        while time.perf_counter() - began < WARM or not self.engine.ready:
            self.round()
        self.parts.clear()
        return self

    def workers(self) -> set[int]:
        """The processes of the engine."""
        return workers() - self.before

    def close(self) -> None:
        """End the engine."""
        self._rounds.close()  # type: ignore[attr-defined]  # a generator, promised as an iterator
        self.engine.close()


def measure(name: str, workload: Training, asked: Asked) -> Row:
    """One workload, as a row of the report."""
    job = job_of(workload, asked, workload.method, evaluated=workload.evaluated)
    before = memory_now()
    with ExitStack() as stack:
        other = _reference(workload, asked, job, stack)
        ours = stack.enter_context(closing(Played(job, asked.place.engine))).warm()
        seconds, others = in_turns((ours.round, other), asked.rounds, 0 if asked.quick else SPELL)
        found = ours.workers()
        peaks = [peak for pid in found if (peak := peak_memory(pid)) is not None]
        driver = ours.driver
    row = {
        **_described(name, workload, job),
        "engine": asked.place.engine,
        "workers": max(1, len(found)),
        **asked.settings,
    }
    row |= _told(workload, seconds, others)
    parts = zip(*ours.parts[1:], strict=True)
    row |= {part: median(values) for part, values in zip(PARTS, parts, strict=True)}
    row |= {"driver_mib": driver, "worker_mib": max(peaks, default=None)}
    return row | {"before_mib": before, "data_mib": _data(job)}


def in_turns(steps: Sequence[Callable[[], None]], rounds: int, spell: float = SPELL) -> list[list[float]]:
    """Seconds of the rounds of every step; the steps take turns of a few rounds, behind one each that is not told.

    Nobody plays single rounds: what a round leaves in the caches makes the next one faster. With turns of three that
    last some milliseconds every third round would be one that no run has; so turns of short rounds are longer, and
    `rounds` is how many there would be with turns of three.
    """
    first = [_seconds(step) for step in steps]
    turn = max(TURN, min(MOST, math.ceil(spell / min(first))))
    found: list[list[float]] = [[] for _ in steps]
    for start in range(0, rounds, TURN):
        count = math.ceil(min(TURN, rounds - start) * turn / TURN)
        for step, seconds in zip(steps, found, strict=True):
            seconds += [_seconds(step) for _ in range(count)]
    return found


def _seconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def job_of(workload: Any, asked: Asked, method: str = "fedavg", *, evaluated: bool = False) -> Job:
    """The run that is measured. Its last round, which is always evaluated, is never reached."""
    every = 1 if evaluated else ROUNDS
    train: TrainConfig = replace(workload.train, rounds=ROUNDS, eval_every=every, **asked.settings)
    place = asked.place
    clients = federation(workload.partition, place.data_dir, place.download)
    return Job(clients, train, methods.create(method, {}), 0, place.device)


def _reference(workload: Training, asked: Asked, job: Job, stack: ExitStack) -> Callable[[], None]:
    """What plays a round of the reference."""
    if workload.against == PLAIN:
        return PlainLoop(job).round
    method = workload.method if workload.against == UNEVALUATED else workload.against
    played = Played(job_of(workload, asked, method), asked.place.engine)
    return stack.enter_context(closing(played)).warm().round


def _described(name: str, workload: Training, job: Job) -> Row:
    clients = job.federation.clients
    costs = layer_costs(job.network(), job.federation.shape)
    samples = sum(len(client.train) for client in clients)
    flops = training_flops(costs) * samples * job.train.epochs * TRAINED.get(workload.method, 1)
    if workload.evaluated:
        flops += forward_flops(costs) * sum(len(client.val) + len(client.test) for client in clients)
    return {
        "workload": name,
        "about": workload.help,
        "clients": len(clients),
        "samples": samples,
        "network": job.train.model,
        "method": workload.method,
        "parameters": job.task().layout.size,
        "flops": float(flops),
    }


def _told(workload: Training, seconds: Sequence[float], others: Sequence[float]) -> Row:
    """The times, and how many times faster than the plain loop or slower than another run of fltk this is."""
    row: Row = {"seconds_min": min(seconds), "seconds_median": median(seconds), "against": workload.against}
    row |= {"against_min": min(others), "against_median": median(others)}
    for figure in (min, median):
        plain, mine = figure(others), figure(seconds)
        name, value = ("faster", plain / mine) if workload.against == PLAIN else ("slower", mine / plain)
        row[name if figure is min else f"{name}_median"] = value
    return row | {"seconds": list(seconds), "against_seconds": list(others)}


def _data(job: Job) -> float:
    x, y = job.federation.x, job.federation.y
    return (x.nbytes + y.nbytes) / MIB
