"""The cells of a sweep while they are played: a table on a terminal, a line per finished cell in a log."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fltk.cli.context import Settings
from fltk.cli.terminal import visible

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from fltk.sweep.play import Event
    from fltk.sweep.state import CellState

AT_WORK = ("started", "round")
SILENT = (*AT_WORK, "evaluating")  # no line in a log
ORDER = {"started": 0, "round": 0, "evaluating": 0, "running": 1, "failed": 2, "done": 3, "evaluated": 3}
FRAMES = 4  # a second
AROUND = 8  # lines of the terminal that the table leaves free


class Board:
    """A context manager: `add` cells, `hear` of events; the table is gone when it ends.

    It belongs to one process and one sweep, hence state in an object here.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.name = visible(name)
        self.labels: dict[str, str] = {}
        self.rounds: dict[str, int] = {}
        self.events: dict[str, Event] = {}
        self.states: dict[str, str] = {}
        self.live: Live | None = None

    def __enter__(self) -> Board:
        if not self.settings.quiet and sys.stderr.isatty():
            from rich.live import Live

            self.live = Live(
                console=self.settings.console(), transient=True, refresh_per_second=FRAMES, get_renderable=self.table
            )
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def add(self, found: Sequence[CellState]) -> None:
        """Cells that are about to be played, some of them done."""
        from fltk.sweep.cells import varied

        keys = varied(state.cell for state in found)
        for state in found:
            values = state.cell.flat()
            words = [f"{key.partition('.')[2]}={values[key]}" for key in keys if key in values]
            digest = state.cell.digest
            label = " ".join([state.cell.config.method, *words, f"seed={state.cell.config.seed}"])
            self.labels[digest] = visible(label)
            self.rounds[digest] = state.cell.config.train.rounds
            self.states[digest] = state.state
        counts = Counter(state.state for state in found)
        self.settings.say(f"{self.name}: {len(found)} cells, {_told(counts)}")

    def hear(self, event: Event) -> None:
        """News of a cell."""
        if event.kind == "note":
            self.settings.say(f"run{event.run}, round {event.round}: {event.message}")
            return
        self.events.pop(event.digest, None)  # the latest news stand last
        self.events[event.digest] = event
        self.states[event.digest] = "playing" if event.kind in AT_WORK else event.kind
        if self.live is None and event.kind not in SILENT:
            states = list(self.states.values())
            over, scored = sum(state in ORDER for state in states), states.count("evaluated")
            place = f", evaluation {scored}" if event.kind == "evaluated" else f" {over}/{len(states)}"
            run = "" if event.run is None else f", run{event.run}"
            why = f": {event.message}" if event.message else ""
            label = self.labels.get(event.digest, "")
            self.settings.say(f"{self.name}{place}: {label}: {event.kind}{run}{why}")

    def table(self) -> Table:
        """The cells at work, then those that failed, then the last that were finished, as many as fit."""
        from rich.table import Table
        from rich.text import Text

        title = f"{self.name}: {_told(Counter(list(self.states.values())))}"  # a copy: another thread draws
        table = Table(box=None, title=Text(title), title_justify="left")
        for heading in ("cell", "run", "round", "state"):
            table.add_column(heading, overflow="ellipsis", no_wrap=True)
        room = max(3, shutil.get_terminal_size().lines - AROUND)
        latest = list(self.events.values())[::-1]
        latest.sort(key=lambda event: ORDER[event.kind])
        for event in latest[:room]:
            table.add_row(*(Text(word) for word in self._row(event)))
        return table

    def _row(self, event: Event) -> tuple[str, str, str, str]:
        total = self.rounds.get(event.digest, 0)
        done = total if event.kind in ("done", "evaluated") else event.round
        run = "" if event.run is None else f"run{event.run}"
        state = visible(f"failed: {event.message}") if event.message else self.states[event.digest]
        return self.labels.get(event.digest, ""), run, f"{done}/{total}", state


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing to play"


def outcome_line(failures: dict[str, str], labels: dict[str, str], total: int) -> str:
    """The error at the end of a sweep in which cells failed."""
    digest, reason = next(iter(failures.items()))
    first: Any = labels.get(digest, digest[:12])
    few = "1 cell" if len(failures) == 1 else f"{len(failures)} cells"
    return f"{few} of {total} failed, the first: {first}: {reason}; run the sweep again to try once more"
