"""`fltk verify`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import command
from fltk.cli.context import Settings, uncollected
from fltk.cli.output import Column, emit, output_options
from fltk.errors import DamagedRun

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from fltk.registry import Store
    from fltk.registry.verify import Verified

COLUMNS = [Column("what"), Column("runs"), Column("problem")]


@command("verify", examples=("fltk verify", "fltk verify run42 --json"))
@click.argument("run", nargs=-1)
@output_options
@click.pass_obj
@uncollected()
def verify(settings: Settings, /, run: tuple[str, ...], format: str) -> int:
    """Verify the integrity of the stored results.

    Checked are the database with its views and triggers, the seal of every row (a digest that is stored with it), the
    list of runs, the hash of every artifact file, the fingerprint of every partition, the weights of every checkpoint
    with the digest of their round, and files that belong to no run. With RUN...: these runs and what they need. Nothing
    is repaired. The exit code is 1 when something that a run needs is wrong. A database without some or all of its
    files, in which all else is well, is incomplete, not damaged.

    Runs of an fltk without seals were sealed when the registry was upgraded: what changed before is not found.
    Seals are no signature. To prove that a registry is the one of a paper, print its mark there: it is one digest of
    everything that the database holds.
    """
    from fltk.registry import Store
    from fltk.registry.verify import verify as look

    with Store(settings.db, readonly=True) as store:
        chosen = [_number(store, ref) for ref in run] or None
        found = look(store, chosen, same=_same, marks=_marks)
    rows = [
        {
            "what": problem.what,
            "runs": [f"run{number}" for number in problem.runs],
            "problem": problem.told,
            "harmless": problem.harmless,
        }
        for problem in found.problems
    ]
    counts: dict[str, Any] = {
        "verdict": found.verdict,
        "checked": f"{found.runs} runs, {found.rounds} rounds, {found.files} files, {found.size} bytes",
        "sealed": _sealed(found),
    }
    if found.mark is not None:
        counts["mark"] = found.mark
    emit(rows, COLUMNS, format, extra=counts if format in ("table", "json") else None)
    return 0 if found.sound else 1


def _number(store: Store, ref: str) -> int:
    """The number of a run, also of one that cannot be read."""
    try:
        return store.find_run(ref).id
    except DamagedRun as damaged:
        return damaged.run


def _sealed(found: Verified) -> str:
    """Since when changes are found."""
    if found.sealed_at is None:
        return "all runs from their beginning"
    day = datetime.fromtimestamp(found.sealed_at, UTC).date()
    which = "all runs" if found.sealed_late == found.runs else f"{found.sealed_late} of {found.runs} runs"
    return f"{which} as they were when the registry was upgraded ({day})"


def _same(recorded: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a round recorded the digest of this state, by the rule of today or by that of older registries."""
    from fltk.protocol.state import State
    from fltk.rounds.loop import digest, former_digest

    state = State.from_tensors(tensors)
    return recorded == digest(state) or recorded == former_digest(state)


def _marks(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[str, str]:
    """The fingerprints of a partition and of its data, from the arrays that are stored of it."""
    from fltk.config import PartitionConfig
    from fltk.partition import from_arrays

    made = from_arrays(PartitionConfig(), arrays)
    return made.fingerprint, made.data_fingerprint
