"""States of a stored run; where the file of one is not there, the run is trained again up to it.

A registry may travel without its folder of weights. What needs a state then still works: the rounds are played from the
stored configuration, and the result is compared with the record.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

from fltk import engine as engines
from fltk.engine.base import Job
from fltk.errors import FltkError
from fltk.experiment import Place, checkpoint
from fltk.objectives import headline
from fltk.protocol.state import State
from fltk.registry import RunRow, Store
from fltk.registry.artifacts import ArtifactMissing
from fltk.rounds import loop

CLOSE = 0.02  # mean personal accuracy, or share of a mean error: another processor's rounding moves it by less
log = logging.getLogger("fltk")


@dataclass(frozen=True)
class Recovered:
    """A state after `round` finished rounds. note: where it was trained again, and how close it came; else empty."""

    round: int
    state: State
    note: str = ""


def state_of(run: RunRow, store: Store, job: Job, place: Place, round: int | None = None) -> Recovered:
    """A stored state: the last one, or that of a round; trained again where its file is missing.

    FltkError where there is no checkpoint, where its file is damaged, or where the rounds come out otherwise now.
    """
    try:
        number, state = checkpoint(run, store, round)
        return Recovered(number, state)
    except ArtifactMissing as lost:
        number = store.checkpoints(run.id)[-1].round if round is None else round
        log.warning(f"{run.label}: its weights are not here; its {number} rounds are trained again")
        return _trained_again(run, store, job, place, number, lost)


def _trained_again(run: RunRow, store: Store, job: Job, place: Place, number: int, lost: ArtifactMissing) -> Recovered:
    """The rounds 1 to `number` from the stored configuration; only the last is evaluated, which changes no weight."""
    job = replace(job, train=replace(job.train, eval_every=number))
    engine = engines.make(place.engine, job)
    try:
        for done in loop.rounds(job, engine):
            if done.round == number:
                break
    finally:
        engine.close()

    if store.digests(run.id).get(number) == done.digest:
        return Recovered(number, done.state, f"{run.label} was trained again: its weights were not here")
    measure = headline(done.scalars)
    name = f"personal_test_{measure.key}"
    then, now = _recorded(run, store, name, number), done.scalars.get(name, math.nan)
    close = CLOSE * abs(then) if measure.relative else CLOSE
    if not abs(then - now) <= close:  # NaN is no agreement
        raise FltkError(f"{lost}; trained again, {run.label} comes out otherwise: {name} {now:.4f}, not {then:.4f}")
    told = f"{run.label} was trained again, with other rounding: {name} {now:.4f} now, {then:.4f} when it was stored"
    log.warning(told)
    return Recovered(number, done.state, told)


def _recorded(run: RunRow, store: Store, name: str, number: int) -> float:
    """The mean that was recorded in a round; NaN where that round was not evaluated."""
    if name not in store.scalar_keys(run.id):
        return math.nan
    rounds, values = store.scalars(run.id, name)[name]
    found = values[rounds == number]
    return float(found[0]) if found.size else math.nan
