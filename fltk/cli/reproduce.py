"""`fltk reproduce`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fltk.cli.command import Finite, Option, command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options
from fltk.cli.progress import RunProgress
from fltk.cli.train import place_options, shown, trust_option

if TYPE_CHECKING:
    from fltk.evaluation.reproduce import Reproduction
    from fltk.experiment import Place
    from fltk.registry import RunRow, Store

MISMATCH = 3  # exit code
COLUMNS = [
    Column("run"),
    Column("method"),
    Column("rounds", "rounds compared"),
    Column("verdict"),
    Column("first", "first differing round"),
    Column("largest", "largest difference"),
]


@command(
    "reproduce",
    examples=("fltk reproduce run42", "fltk reproduce run1 run2 --rounds 5", "fltk reproduce latest --tolerance 0.05"),
)
@click.argument("run", nargs=-1, required=True)
@click.option(
    "--rounds",
    type=int,
    cls=Option,
    section="Comparison",
    help="compare so many of the first rounds (default: all that the run has)",
)
@click.option(
    "--tolerance",
    type=Finite(min=0),
    default=0.001,
    cls=Option,
    section="Comparison",
    help="relative difference up to which the numbers of the last round count as the same (0: none)",
)
@place_options
@trust_option
@output_options
@click.pass_context
def reproduce(
    ctx: click.Context,
    /,
    run: tuple[str, ...],
    rounds: int | None,
    tolerance: float,
    format: str,
    **params: Any,
) -> int:
    """Re-run a stored run and check that it is bit-identical.

    The run is rebuilt from what the registry holds (settings, partition, fingerprint of the data) and compared round by
    round: `identical` (weights and numbers), `same within tolerance` (weights differ, the last round's accuracies and
    losses hardly), or `different`, with the first differing round and with what of code and environment differs.
    Nothing is written. The exit code is 3 when a run is different.
    """
    from fltk.evaluation.reproduce import DIFFERENT
    from fltk.experiment import Place
    from fltk.registry import Store

    settings: Settings = ctx.obj
    chosen = ctx.get_parameter_source("device") is not ParameterSource.DEFAULT
    rows: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}
    with Store(settings.db, readonly=True) as store:
        for found in [store.find_run(ref, "train") for ref in run]:
            device = params["device"] if chosen else store.environment(found.id).get("device", params["device"])
            place = Place(
                settings.data_dir,
                params["download"],
                params["engine"],
                device,
                trust_stored_code=params["trust_stored_code"],
            )
            done = _reproduce(store, found, place, rounds, tolerance, settings)
            rows.append(_row(found, done))
            notes |= _told(found, done)
    emit(rows, COLUMNS, format, extra=notes if format == "table" else None)
    return MISMATCH if any(row["verdict"] == DIFFERENT for row in rows) else 0


def _reproduce(
    store: Store, run: RunRow, place: Place, rounds: int | None, tolerance: float, settings: Settings
) -> Reproduction:
    from fltk.evaluation.reproduce import reproduce

    with RunProgress(settings, f"{run.label} again") as bar:
        bar.start(min(rounds or run.rounds_done, run.rounds_done))
        return reproduce(
            run,
            store,
            place,
            rounds=rounds,
            tolerance=tolerance,
            on_round=lambda done: bar.update(done.round, shown(done.scalars)),
        )


def _row(run: RunRow, done: Reproduction) -> dict[str, Any]:
    first, gap = done.first, done.last.gap
    return {
        "run": f"run{run.id}",
        "method": run.method,
        "rounds": done.rounds,
        "verdict": done.verdict,
        "first": None if first is None else first.round,
        "first_weights_equal": None if first is None else first.weights,
        "largest": None if gap is None else str(gap),
        "largest_difference": 0.0 if gap is None else gap.size,
        "changes": [{"name": c.name, "then": c.then, "now": c.now, "decisive": c.decisive} for c in done.changes],
        "notes": list(done.notes),
    }


def _told(run: RunRow, done: Reproduction) -> dict[str, Any]:
    """Below the table: why a run differs, likely causes first; or what an identical one does not depend on."""
    lines = list(done.notes)
    lines += [str(c) for c in done.changes if c.decisive]
    if done.first is not None:
        packages = [c for c in done.changes if c.name.startswith("package ")]
        lines += [str(c) for c in done.changes if not c.decisive and c not in packages]
        lines += [f"{len(packages)} other packages: {', '.join(c.name[8:] for c in packages[:5])}"] if packages else []
        if done.first.weights:
            lines.insert(0, f"the weights of round {done.first.round} are the same, a stored number is not")
        lines = lines or ["code and environment are those of the run: its record was changed, or the hardware differs"]
    elif lines:
        lines.insert(0, "identical although something differs:")
    return {f"run{run.id} ({number})": line for number, line in enumerate(lines, 1)}
