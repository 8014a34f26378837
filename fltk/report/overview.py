"""The runs one by one: what they are, how far they came, what was noted."""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup

from fltk.objectives import Measure, headline
from fltk.registry import RunRow
from fltk.report.content import Content, Section, anchor, run_link
from fltk.report.markup import folded, items, joined, measured, number, numbers, paragraph, table, words

LONG = 300  # characters of a note that are shown at once
HEADS = (
    *words("Run", "Method", "Kind"),
    *numbers("Seed"),
    *words("Data"),
    *numbers("Rounds"),
    *words("Status"),
    *numbers("Personal accuracy, last round (%)", "Newcomers (%)"),
    *words("Started (UTC)"),
    *numbers("Time"),
)


def section(content: Content) -> Section:
    """A table of all runs, with tags and notes below."""
    rows = [_row(content, run) for run in content.runs]
    # a column that no run fills says nothing
    kept = [k for k in range(len(HEADS)) if any(row[k] is not None for row in rows)]
    heads = [HEADS[k] for k in kept]
    if not all(headline(run.last).fraction for run in content.runs):  # the cells name the measure
        plain = dict(zip(HEADS[7:9], numbers("Personal, last round", "Newcomers"), strict=True))
        heads = [plain.get(head, head) for head in heads]
    cells = [[row[k] for k in kept] for row in rows]
    made = table("Runs of this report", heads, cells, ids=[anchor(run.id) for run in content.runs])
    damaged = tuple(f"{error}; left out" for error in content.damaged)
    left_out = items(damaged + content.trained.notes + content.joins.notes)
    return Section("runs", "Runs", joined([made, left_out, _labels(content), _drift(content)]))


def _row(content: Content, run: RunRow) -> list[object]:
    partition, planned = run.config["partition"], run.config["train"]["rounds"]
    measure = headline(run.last)
    joins, personal = run.last.get(f"{measure.key}_new"), run.last.get(f"personal_test_{measure.key}")
    return [
        run.label,
        run.method,
        _kind(content, run),
        run.seed,
        f"{partition['dataset']} {partition['scheme']}",
        run.rounds_done if joins is not None else f"{run.rounds_done} of {planned}",
        run.status + (f": {run.message}" if run.message else ""),
        None if personal is None else _scored(personal, measure),
        None if joins is None else _scored(joins, measure),
        datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M"),
        None if run.finished is None else _lasted(run.finished - run.started),
    ]


def _scored(value: float, measure: Measure) -> Markup:
    """A value with its measure: 91.2 %, or 44.10 MAE."""
    if measure.fraction:
        return number(value, percent=True)
    return joined([number(value), f" {measure.short}"])


def _kind(content: Content, run: RunRow) -> Markup | None:
    """Of which run it was made, with a link to that one where the page has it; None for a run of its own."""
    if run.parent is None:
        return None
    there = any(other.id == run.parent for other in content.runs)
    parent = run_link(run.parent) if there else f"run{run.parent}"
    return joined([f"{run.kind} of ", parent])


def _lasted(seconds: float) -> Markup:
    """3.2 s, 12.5 min, 4.75 h."""
    if seconds < 60:
        return measured(seconds, f"{seconds:.1f} s")
    if seconds < 3600:
        return measured(seconds, f"{seconds / 60:.1f} min")
    return measured(seconds, f"{seconds / 3600:.2f} h")


def _labels(content: Content) -> Markup:
    """Tags and notes of the runs that have some."""
    parts: list[Markup] = []
    for run in content.runs:
        tags = ", ".join(f"{key}={value}" for key, value in run.tags.items())
        if tags:
            parts.append(paragraph(f"{run.label}: tags {tags}"))
        if run.note:
            told = paragraph(run.note, class_="note")
            long = len(run.note) > LONG
            title = f"{run.label}: note"
            parts.append(folded(title, told) if long else joined([paragraph(title + ":"), told]))
    few = len(parts) <= 5
    return joined(parts) if few else folded("Tags and notes", *parts)


def _drift(content: Content) -> Markup:
    """Attempts that went on with other code or another environment, which somebody allowed."""
    told = []
    for run in content.runs:
        for attempt in content.store.attempts(run.id):
            changes = (f"{name}: {then} before, {now} then" for name, then, now in attempt.changes)
            told += [f"{run.label} went on with {change}" for change in changes]
    return items(told)
