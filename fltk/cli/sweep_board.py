"""The cells of a sweep while they are played: a table on a terminal, a line per finished cell in a log."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
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
OVER = ("done", "evaluating", "evaluated", "failed")  # kinds of events after which a cell plays no more rounds
SOON = 60.0  # seconds; less is not worth telling
AROUND = 8  # lines of the terminal that the table leaves free


class Board:
    """A context manager: `add` cells, `hear` of events; the table is gone when it ends.

    expected: how many cells there will be, where not all are known from the start.  clock: seconds, to tell how long
    the rest will take. It belongs to one process and one sweep, hence state in an object here.
    """

    def __init__(
        self, settings: Settings, name: str, expected: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self.name = visible(name)
        self.expected = expected
        self.clock = clock
        self.began: float | None = None  # when the first event came
        self.before: dict[str, int] = {}  # rounds that each cell had when it was added
        self.reached: dict[str, int] = {}  # rounds that each cell has now
        self.labels: dict[str, str] = {}
        self.rounds: dict[str, int] = {}
        self.events: dict[str, Event] = {}
        self.states: dict[str, str] = {}
        self.live: Live | None = None

    def __enter__(self) -> Board:
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
            self.before[digest] = self.reached[digest] = 0 if state.run is None else state.run.rounds_done
        if found:
            counts = Counter(state.state for state in found)
            self.settings.say(f"{self.name}: {len(found)} cells, {_told(counts)}")
            self._show()

    def _show(self) -> None:
        """The table appears with the first cells: before, there is nothing to say."""
        if self.live is None and not self.settings.quiet and sys.stderr.isatty():
            from rich.live import Live

            self.live = Live(
                console=self.settings.console(), transient=True, refresh_per_second=FRAMES, get_renderable=self.table
            )
            self.live.start()

    def hear(self, event: Event) -> None:
        """News of a cell."""
        if event.kind == "note":
            self.settings.say(f"run{event.run}, round {event.round}: {event.message}")
            return
        self._count(event)
        self.events.pop(event.digest, None)  # the latest news stand last
        self.events[event.digest] = event
        self.states[event.digest] = "playing" if event.kind in AT_WORK else event.kind
        if self.live is None and event.kind not in SILENT:
            scored = list(self.states.values()).count("evaluated")
            place = f", evaluation {scored}" if event.kind == "evaluated" else f" {self._over()}/{self._total()}"
            run = "" if event.run is None else f", run{event.run}"
            why = f": {event.message}" if event.message else ""
            label = self.labels.get(event.digest, "")
            self.settings.say(f"{self.name}{place}: {label}: {event.kind}{run}{why}{self._left()}")

    def _count(self, event: Event) -> None:
        """How far a cell is; the time runs from the first event on."""
        if self.began is None:
            self.began = self.clock()
        total = self.rounds.get(event.digest, 0)
        self.reached[event.digest] = total if event.kind in OVER else event.round

    def _over(self) -> int:
        """Cells that need no more work: finished, failed, or played by another process."""
        states = list(self.states.values())
        return sum(state in ORDER or state.startswith("done") for state in states)

    def _total(self) -> int:
        return max(self.expected, len(self.states))

    def _left(self) -> str:
        """About how long the rest takes, by the rounds played so far; empty where that is not known, or soon."""
        played = sum(self.reached.values()) - sum(self.before.values())
        if self.began is None or played <= 0:
            return ""
        known = sum(self.rounds.values())
        planned = known * self._total() / max(1, len(self.rounds))
        seconds = (self.clock() - self.began) * max(0.0, planned - sum(self.reached.values())) / played
        if seconds < SOON:
            return ""
        return f", about {seconds / 60:.0f} min left" if seconds < 5400 else f", about {seconds / 3600:.1f} h left"

    def table(self) -> Table:
        """The cells at work, then those that failed, then the last that were finished, as many as fit."""
        from rich.table import Table
        from rich.text import Text

        states = Counter(list(self.states.values()))  # a copy: another thread draws
        title = f"{self.name}: {self._over()} of {self._total()}, {_told(states)}{self._left()}"
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
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def outcome_line(failures: dict[str, str], labels: dict[str, str], total: int) -> str:
    """The error at the end of a sweep in which cells failed."""
    digest, reason = next(iter(failures.items()))
    first: Any = labels.get(digest, digest[:12])
    few = "1 cell" if len(failures) == 1 else f"{len(failures)} cells"
    return f"{few} of {total} failed, the first: {first}: {reason}; run the sweep again to try once more"
