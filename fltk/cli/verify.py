"""`fltk verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = [Column("what"), Column("runs"), Column("problem")]


@command("verify", examples=("fltk verify", "fltk verify run42 --json"))
@click.argument("run", nargs=-1)
@output_options
@click.pass_obj
def verify(settings: Settings, /, run: tuple[str, ...], format: str) -> int:
    """Verify the integrity of the stored results.

    Checked are the database, every value of every run, the hash of every artifact file, the fingerprint of every
    partition, the weights of every checkpoint against the digest of their round, and files that belong to no run. With
    RUN...: these runs and what they need. Nothing is repaired. The exit code is 1 when something that a run needs is
    wrong. A database that came without its folder of files is incomplete, not damaged.
    """
    from fltk.registry import Store
    from fltk.registry.verify import verify as look

    with Store(settings.db, readonly=True) as store:
        chosen = [store.find_run(ref).id for ref in run] or None
        found = look(store, chosen, same=_same)
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
    }
    emit(rows, COLUMNS, format, extra=counts if format in ("table", "json") else None)
    return 0 if found.sound else 1


def _same(recorded: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a round recorded the digest of this state, by the rule of today or by that of older registries."""
    from fltk.methods.base import State
    from fltk.runner import digest, former_digest

    state = State.from_tensors(tensors)
    return recorded == digest(state) or recorded == former_digest(state)
