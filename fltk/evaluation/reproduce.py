"""A stored run played again from what the registry holds of it, compared round by round; nothing is written.

A run is *identical* when every round comes to the stored digest and the stored numbers (measured times left out).
Otherwise the last compared round decides whether it is the *same within tolerance*: each scalar and each client's value
may then differ by `tolerance` times max(1, |stored value|). In a round whose weights are the same they may never differ
by more: then the record was changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fltk import engine as engines
from fltk import ledger, methods
from fltk.config import RunConfig
from fltk.engine.base import Engine, Job
from fltk.errors import ChangedFiles, Diverged, FltkError, Mismatch, UsageError
from fltk.experiment import OnRound, Place, circumstances, job_of, require_train, restore
from fltk.own_code import of_file
from fltk.registry import RunRow, Store
from fltk.registry.changes import Change, changes
from fltk.registry.plugins import records
from fltk.rounds import loop

IDENTICAL = "identical"
SAME = "same within tolerance"
DIFFERENT = "different"

# A client with fewer than a thousand test samples may not flip a single answer.
TOLERANCE = 1e-3
TIMED = "seconds"  # scalars with this prefix are measured times

Numbers = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Gap:
    """The largest difference of a round, relative to max(1, |stored|): in which number, of which client."""

    size: float
    key: str
    client: int | None  # None: of a scalar

    def __str__(self) -> str:
        whose = "" if self.client is None else f" of client {self.client}"
        return f"{self.size:.2g} in {self.key}{whose}"


@dataclass(frozen=True)
class Compared:
    """One round beside its stored self. `unmatched`: numbers that only one of the two has."""

    round: int
    weights: bool  # the digests are equal
    gap: Gap | None  # None: the numbers are equal
    unmatched: frozenset[str]

    @property
    def equal(self) -> bool:
        return self.weights and self.gap is None


@dataclass(frozen=True)
class Reproduction:
    """What came of playing a run again.

    rounds: how many were compared.  first: the first that differs, None where none does.  last: the last compared.
    changes: what of code and environment differs.  notes: what else a reader has to know.
    """

    verdict: str
    rounds: int
    first: Compared | None
    last: Compared
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def reproduce(
    run: RunRow,
    store: Store,
    place: Place,
    *,
    rounds: int | None = None,
    tolerance: float = TOLERANCE,
    on_round: OnRound | None = None,
) -> Reproduction:
    """Play a run again, up to round `rounds` where given. With a tolerance of 0 the first difference ends it.

    Raises Mismatch when the data are not those of the run, UsageError when there is nothing to compare.
    """
    require_train(run, "fltk reproduce")
    count = _count(run, rounds)
    job = _rebuild(run, store, place)
    engine = engines.make(place.engine, job)
    first = last = None
    forged = False
    try:
        around = circumstances(place.device)
        for last in _replay(job, engine, _stored(run, store), count, on_round):
            first = first or (None if last.equal else last)
            forged = forged or (last.weights and _beyond(last.gap, tolerance))
            if first and tolerance == 0:
                break
    finally:
        engine.close()
    assert last is not None
    found = changes((store.environment(run.id), run.git), around)
    notes = [*_notes(run, store, job), *_other_files(run), *_unmatched(last)]
    verdict = IDENTICAL if first is None else SAME
    if first is not None and (forged or tolerance == 0 or _beyond(last.gap, tolerance)):
        verdict = DIFFERENT
    return Reproduction(verdict, last.round, first, last, tuple(found), tuple(notes))


def _count(run: RunRow, rounds: int | None) -> int:
    if not run.rounds_done:
        raise UsageError(f"{run.label} has no finished round to compare")
    if rounds is not None and not 1 <= rounds <= run.rounds_done:
        raise UsageError(f"--rounds must lie in 1..{run.rounds_done}, the rounds that {run.label} has, not {rounds}")
    return rounds or run.rounds_done


def _rebuild(run: RunRow, store: Store, place: Place) -> Job:
    """The job of a stored run; Mismatch for other data, FltkError for settings that this fltk does not know."""
    try:
        config, prepared = restore(run, store, place)
        return job_of(config, prepared.federation, place.device)
    except ChangedFiles as error:
        raise Mismatch(f"{run.label} cannot be reproduced: {error}") from error
    except UsageError as error:
        raise FltkError(f"{run.label} cannot be rebuilt by this fltk: {error}") from error


def _replay(
    job: Job, engine: Engine, stored: Callable[[int], tuple[str, Numbers]], count: int, on_round: OnRound | None
) -> Iterator[Compared]:
    """The rounds 1..count, each compared; one that diverges now and did not then is a difference and the end."""
    number = 0
    try:
        for done in loop.rounds(job, engine):
            number = done.round
            digest, then = stored(number)
            now = numbers_of(done.scalars, done.clients)
            yield Compared(number, digest == done.digest, gap(then, now), frozenset(then.keys() ^ now.keys()))
            if on_round:
                on_round(done)
            if number == count:
                return
    except Diverged as error:
        yield Compared(number + 1, False, Gap(math.inf, f"local training, which diverged ({error})", None), frozenset())


def _stored(run: RunRow, store: Store) -> Callable[[int], tuple[str, Numbers]]:
    """Round -> its stored digest and numbers."""
    digests, series = store.digests(run.id), store.scalars(run.id)
    vectors = {key: store.client_values(run.id, key) for key in store.client_keys(run.id)}

    def at(round: int) -> tuple[str, Numbers]:
        scalars = {key: float(v[rounds == round][0]) for key, (rounds, v) in series.items() if round in rounds}
        clients = {key: v[rounds == round][0] for key, (rounds, v) in vectors.items() if round in rounds}
        return digests.get(round, ""), numbers_of(scalars, clients)

    return at


def numbers_of(scalars: Mapping[str, float], clients: Mapping[str, np.ndarray[Any, Any]]) -> Numbers:
    """All numbers of a round but the measured times: scalars as (), clients' values as (N,), in float64."""
    kept = {key: np.float64(value) for key, value in scalars.items() if not key.startswith(TIMED)}
    return {key: np.asarray(value) for key, value in kept.items()} | {
        f"{key} by client": np.asarray(value, np.float64) for key, value in clients.items()
    }


def gap(then: Numbers, now: Numbers) -> Gap | None:
    """The largest difference in the numbers that both have; None when all are equal (NaN equals NaN)."""
    found = [Gap(*_largest(then[key], now[key], key)) for key in sorted(then.keys() & now.keys())]
    worst = max(found, key=lambda one: one.size, default=None)
    return worst if worst is not None and worst.size > 0 else None


def _largest(then: np.ndarray[Any, Any], now: np.ndarray[Any, Any], key: str) -> tuple[float, str, int | None]:
    name = key.removesuffix(" by client")
    if then.shape != now.shape:
        return math.inf, name, None
    with np.errstate(invalid="ignore"):
        apart = np.abs(then - now) / np.maximum(1, np.abs(then))
    equal = (then == now) | (np.isnan(then) & np.isnan(now))
    apart = np.where(equal, 0.0, np.where(np.isnan(apart), np.inf, apart))
    if not apart.size:
        return 0.0, name, None
    where = int(apart.argmax())
    return float(apart.flat[where]), name, where if apart.ndim else None


def _beyond(found: Gap | None, tolerance: float) -> bool:
    return found is not None and not found.size <= tolerance  # so a NaN on either side is no agreement


def _notes(run: RunRow, store: Store, job: Job) -> Iterator[str]:
    """What in the registry itself explains a difference."""
    known = RunConfig.from_dict(run.config)
    digest = known.digest()
    if digest != run.config_hash:
        yield f"its stored settings were changed after it began ({run.config_hash[:12]} then, {digest[:12]} now)"
    now = {**known.to_dict(), "params": methods.resolved(job.method)}
    new = [f"{name}={value}" for name, value in _flat(now).items() if name not in _flat(run.config)]
    if new:
        yield f"settings that did not exist then have their defaults: {', '.join(new)}"
    for attempt in store.attempts(run.id):
        for name, then, here in attempt.changes:
            yield f"a part of it was trained with another {name}: {then} at first, {here} then"


def _other_files(run: RunRow) -> Iterator[str]:
    """Files of the user's own code that do not hold any more what the run was trained with."""
    for record in records(run):
        sha256 = str(record.get("sha256", ""))
        for _, path in ledger.places(ledger.CODE, sha256):
            now = _hash_of(path)
            if now != sha256:
                left = "is gone" if now is None else f"has changed since (SHA-256 {sha256[:12]} then, {now[:12]} now)"
                yield f"{path} {left}; the source that is stored with the run was used"


def _hash_of(path: str) -> str | None:
    """The hash of a file of code; None where it cannot be read."""
    try:
        return of_file(Path(path), "").sha256
    except UsageError:
        return None


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """{"train": {"lr": 0.1}, "seed": 0} as {"train.lr": 0.1, "seed": 0}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def _unmatched(last: Compared) -> list[str]:
    names = sorted({name.removesuffix(" by client") for name in last.unmatched})
    return [f"measured only then or only now: {', '.join(names)}"] if names else []
