"""What a report is about: the runs, arranged by method, setting and seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fltk.errors import DamagedRun, FltkError
from fltk.evaluation.comparison_table import Arrangement, Entry, arrange
from fltk.evaluation.newcomers import KIND as JOIN
from fltk.evaluation.tuning import Tuning, arrange_best, best_trials
from fltk.registry import RunRow, Store
from fltk.report.markup import joined, link


@dataclass(frozen=True)
class Section:
    """A part of the page: `anchor` is its id."""

    anchor: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Content:
    """The runs of a report.

    trained, joins: how runs of training (with or without attackers) and of newcomers compare.  tuning: how the best
    trials were chosen, where the report is about these.  damaged: the runs that were left out.
    """

    store: Store
    title: str
    runs: tuple[RunRow, ...]
    trained: Arrangement
    joins: Arrangement
    tuning: Tuning | None = None
    damaged: tuple[DamagedRun, ...] = ()

    def by_setting(self, of: Arrangement) -> Iterator[tuple[str, list[Entry]]]:
        """Each setting with its entries, in the order of the methods and then of the seeds."""
        order = {method: place for place, method in enumerate(of.methods)}
        for setting in of.settings:
            found = [entry for entry in of.entries if entry.setting == setting]
            yield setting, sorted(found, key=lambda entry: (order[entry.method], entry.seeds))

    def first_seeds(self, of: Arrangement) -> list[Entry]:
        """One entry for each method in each setting: that with the lowest seed, a finished run where there is one."""
        first: dict[tuple[str, str], Entry] = {}
        for _, entries in self.by_setting(of):
            for entry in sorted(entries, key=lambda entry: entry.run.status != "done"):
                first.setdefault((entry.setting, entry.method), entry)
        return [entry for _, entries in self.by_setting(of) for entry in entries if entry in first.values()]

    @property
    def comparable(self) -> list[Entry]:
        """The finished runs, and the others where a method has none in a setting."""
        done = {(entry.setting, entry.method) for entry in self.trained.entries if entry.run.status == "done"}
        entries = self.trained.entries
        return [e for e in entries if e.run.status == "done" or (e.setting, e.method) not in done]


def gather(
    store: Store,
    runs: Sequence[RunRow],
    title: str | None = None,
    *,
    best_on: str | None = None,
    damaged: Sequence[DamagedRun] = (),
) -> Content:
    """The runs and what newcomers did to them later. FltkError when there is none.

    best_on: "val" keeps of the trained runs the best trial of each method in each setting.
    damaged: runs to leave out, with those that were made of them.
    """
    if not runs:
        raise FltkError("no run to report on")

    unreadable = {error.run for error in damaged}
    runs = [run for run in runs if not unreadable & {run.id, run.parent}]
    tuning = None
    if best_on is not None:
        tuning = best_trials(run for run in runs if run.kind != JOIN)
        runs = tuning.runs
    children = _finished_children(store, runs, unreadable)
    own = sorted([*runs, *children], key=lambda run: run.id)
    trained = [run for run in own if run.kind != JOIN]
    return Content(
        store,
        title or told_runs(own, labels=len(own) <= 3),
        tuple(own),
        arrange(trained) if tuning is None else arrange_best(tuning),
        arrange(run for run in own if run.kind == JOIN),
        tuning,
        tuple(damaged),
    )


def _finished_children(store: Store, runs: Sequence[RunRow], unreadable: set[int]) -> list[RunRow]:
    """Finished runs of newcomers that were made of these runs and are not among them."""
    named = {run.id for run in runs}
    found = []
    for run in store.runs():
        made_of_one = run.kind == JOIN and run.parent in named
        if made_of_one and run.status == "done" and run.id not in named | unreadable:
            found.append(run)
    return found


def told_runs(runs: Iterable[RunRow], labels: bool = False) -> str:
    """run1, run3–run7; with their names where `labels` is set."""
    ordered = sorted(runs, key=lambda run: run.id)
    if labels:
        return ", ".join(run.label for run in ordered)
    spans: list[list[int]] = []
    for run in ordered:
        if spans and run.id == spans[-1][1] + 1:
            spans[-1][1] = run.id
        else:
            spans.append([run.id, run.id])
    return ", ".join(f"run{first}" if first == last else f"run{first}–run{last}" for first, last in spans)


def anchor(run: int) -> str:
    """The place of a run on the page: its row in the table of all runs."""
    return f"run{run}"


def run_link(run: int, label: str | None = None) -> Markup:
    """A run by number, or by label, that leads to its row; for runs of the page only."""
    return link(anchor(run), label or f"run{run}")


def linked_runs(runs: Iterable[RunRow]) -> Markup:
    """As `told_runs`, with links."""
    parts: list[object] = []
    for word in told_runs(runs).split(", "):
        ends = [run_link(int(name.removeprefix("run"))) for name in word.split("–")]
        parts.append(joined(ends, "–"))
    return joined(parts, ", ")
