"""Progress of a training run on stderr: a bar on a terminal, about ten lines in a log, nothing with -q."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from fltk.cli.context import Settings
from fltk.cli.terminal import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINES = 10  # a log gets a line for every tenth of the rounds


class RunProgress:
    """A context manager: `start` once, `update` after each round; the bar is gone when it ends.

    The bar belongs to one process and one run, hence state in an object here.
    """

    def __init__(self, settings: Settings, label: str = "") -> None:
        self.settings = settings
        self.label = visible(label)
        self.total = 0
        self.done = 0
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def start(self, total: int, done: int = 0) -> None:
        """`total` rounds in all, `done` of them before a resume."""
        self.total, self.done = total, done
        if self.settings.quiet or not sys.stderr.isatty():
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}", markup=False),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=self.settings.console(), transient=True)
        self.task = self.bar.add_task(self.label or "rounds", total=total, completed=done, metrics="")
        self.bar.start()

    def update(self, round: int, metrics: Mapping[str, float]) -> None:
        """`round` rounds are finished; `metrics` are shown in their order, without those that have no value."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if not math.isnan(value))
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=round, metrics=text)
        elif not sys.stderr.isatty() and _tenth(self.done, round, self.total):
            self.settings.say(f"{self.label + ': ' if self.label else ''}round {round}/{self.total}  {text}".rstrip())
        self.done = round


def _tenth(before: int, round: int, total: int) -> bool:
    """Whether a new tenth of the rounds was completed since the last update."""
    return total > 0 and (round == total or round * LINES // total > before * LINES // total)
