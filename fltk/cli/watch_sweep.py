"""Following a sweep that other processes play: its cells from the file, or the runs that carry its name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fltk.cli.context import Settings
from fltk.cli.sweep_board import Board
from fltk.errors import UsageError, unknown

if TYPE_CHECKING:
    from fltk.experiment import Place
    from fltk.registry import Store
    from fltk.sweep.cells import Cell
    from fltk.sweep.state import CellState

IDLE = 60.0  # seconds without a running cell after which a sweep that is not over counts as left alone


def follow_sweep(store: Store, settings: Settings, sweep: str, every: float) -> list[CellState]:
    """The cells as they stand when all are over, or when no process has played one for a while.

    sweep: the file of a sweep, or its name, which knows only the runs that have begun.
    """
    from fltk.experiment import Place
    from fltk.sweep.state import RUNNING, states

    place = Place(settings.data_dir)
    shown: dict[str, tuple[str, int]] = {}
    idle = 0.0
    with Board(settings, Path(sweep).stem) as board:
        while True:
            found = states(store, _cells(store, sweep, place))
            new = [state for state in found if state.cell.digest not in shown]
            board.add(new)
            shown |= {state.cell.digest: ("", -1) for state in new}
            for state in found:
                _tell(board, state, shown)

            running = any(state.state == RUNNING for state in found)
            idle = 0.0 if running else idle + every
            over = all(state.run is not None and state.state != RUNNING for state in found)
            if over or idle > IDLE:
                return found
            time.sleep(every)


def _tell(board: Board, state: CellState, shown: dict[str, tuple[str, int]]) -> None:
    """News of a cell since the last look."""
    from fltk.sweep.play import ROUND, Event
    from fltk.sweep.state import DONE, FAILED, RUNNING

    run = state.run
    if run is None:
        return
    kinds = {RUNNING: ROUND, DONE: DONE, FAILED: FAILED}
    kind = kinds.get(run.status)
    if kind is None or shown[state.cell.digest] == (kind, run.rounds_done):
        return
    shown[state.cell.digest] = (kind, run.rounds_done)
    board.hear(Event(state.cell.digest, kind, run.id, run.rounds_done, run.message or ""))


def _cells(store: Store, sweep: str, place: Place) -> Sequence[Cell]:
    from fltk.config import RunConfig
    from fltk.sweep.cells import Cell
    from fltk.sweep.grid import read
    from fltk.sweep.run import known

    if sweep.endswith(".toml"):
        return known(read(Path(sweep)), place, store)

    runs = store.runs(tag=f"sweep={sweep}")
    if not runs:
        names = {run.tags["sweep"] for run in store.runs(tag="sweep")}
        if not names:
            raise UsageError(f"--sweep: {store.shown} has no sweep; fltk sweep makes one")
        raise unknown("sweep", sweep, names, "--sweep")
    cells = {}
    for run in runs:
        cells[run.config_hash] = Cell(RunConfig.from_dict(run.config), run.config_hash, frozenset())
    return list(cells.values())
