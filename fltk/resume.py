"""Going on with a stopped or killed run, to the bits of a run that was never disturbed."""

from __future__ import annotations

from dataclasses import dataclass

from fltk import engine as engines
from fltk.errors import FltkError, UsageError
from fltk.experiment import OnRound, Place, Watch, circumstances, job_of, play, require_train, restore, unwatched
from fltk.protocol.state import State
from fltk.registry import RunRow, Store
from fltk.registry.changes import Change, changes
from fltk.registry.heartbeat import beating
from fltk.rounds import loop


class Changed(FltkError):
    """Code or environment are not those that a run was started with."""


@dataclass(frozen=True)
class Resumed:
    """How a run went on: behind which round, what of code and environment had changed (and was allowed), and the
    first round played again that came out otherwise than it was stored (None: all the same).
    """

    round: int
    changes: tuple[Change, ...]
    differs: int | None


def resume(
    run: RunRow,
    store: Store,
    place: Place,
    on_round: OnRound | None = None,
    *,
    from_round: int | None = None,
    allow_changed: bool = False,
    watch: Watch = unwatched,
) -> Resumed:
    """Continue a run behind its last checkpoint (from the start without one), or behind that of `from_round`.

    Rounds that were stored behind it are replaced one by one, each in one transaction. Raises `Changed` when code or
    environment are not those of the run's beginning, unless `allow_changed`: then the attempt records what differs.
    watch: measures where the time goes, as in `experiment.train`.
    """
    require_train(run, "fltk resume")
    if run.status == "done" and from_round is None:
        raise UsageError(
            f"{run.label} is already complete ({run.rounds_done} rounds); to retrain its last rounds use --from-round N"
        )
    changed = _changed(run, store, place.device, allow=allow_changed)
    behind = _behind(run, store, from_round)
    config, prepared = restore(run, store, place)
    job = job_of(config, prepared.federation, place.device)
    task = job.task()
    known = store.digests(run.id)
    differing: list[int] = []

    def compare(done: loop.RoundDone) -> None:
        if known.get(done.round, done.digest) != done.digest:
            differing.append(done.round)
        if on_round:
            on_round(done)

    engine = engines.make(place.engine, job)
    try:
        with beating(store, run.id):
            play(run.id, job, task, engine, store, place, behind=behind, on_round=compare, changed=changed, watch=watch)
    finally:
        engine.close()
    return Resumed(behind[0] if behind else 0, tuple(changed), min(differing, default=None))


def _changed(run: RunRow, store: Store, device: str, *, allow: bool) -> list[Change]:
    """What can change a bit and differs from the run's beginning; refused unless allowed."""
    found = [c for c in changes((store.environment(run.id), run.git), circumstances(device)) if c.decisive]
    if found and not allow:
        raise Changed(
            f"{run.label} was started under other conditions ({'; '.join(str(c) for c in found)}): go back to them, or "
            "go on with --allow-changed, which is recorded with the run"
        )
    return found


def _behind(run: RunRow, store: Store, from_round: int | None) -> tuple[int, State] | None:
    """The stored state that a resumed run starts from; None for the start."""
    if from_round is None:
        found = store.latest_checkpoint(run.id)
    elif 0 <= from_round < run.config["train"]["rounds"]:
        found = store.load_checkpoint(run.id, from_round) if from_round else None
    else:
        raise UsageError(f"--from-round must lie in 0..{run.config['train']['rounds'] - 1}, not {from_round}")
    return None if found is None else (found[0], State.from_tensors(found[1]))
