"""What a report is about: the runs, arranged by method, setting and seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fltk.errors import FltkError
from fltk.evaluation.newcomers import KIND as JOIN
from fltk.evaluation.settings import Arrangement, Entry, arrange
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

    trained, joins: how runs of training (with or without attackers) and of newcomers compare.
    """

    store: Store
    title: str
    runs: tuple[RunRow, ...]
    trained: Arrangement
    joins: Arrangement

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

    @property
    def styles(self) -> dict[str, int]:
        """The number of each method's style, the same in all figures of the page."""
        return {name: k for k, name in enumerate(dict.fromkeys([*self.trained.methods, *self.joins.methods]))}


def gather(store: Store, runs: Sequence[RunRow], title: str | None = None) -> Content:
    """The runs and what newcomers did to them later. FltkError when there is none."""
    if not runs:
        raise FltkError("no run to report on")
    named = {run.id for run in runs}
    children = [run for run in store.runs() if run.kind == JOIN and run.parent in named and run.id not in named]
    own = sorted([*runs, *(run for run in children if run.status == "done")], key=lambda run: run.id)
    return Content(
        store,
        title or told_runs(own, labels=len(own) <= 3),
        tuple(own),
        arrange(run for run in own if run.kind != JOIN),
        arrange(run for run in own if run.kind == JOIN),
    )


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
