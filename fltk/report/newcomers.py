"""What clients get that join afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fltk.evaluation.comparison_table import Entry
from fltk.evaluation.statistics import sample_std
from fltk.objectives import Measure, headline
from fltk.plots.join import join_figure
from fltk.plots.stored import JOIN_STEPS, join_run
from fltk.report.content import Content, Section, told_runs
from fltk.report.figures import image, row
from fltk.report.markup import heading, joined, number, numbers, paragraph, table, words

TITLES = ("Arrival", "Joined", "After fine-tuning", "From scratch", "FedAvg, fine-tuned")
LEGEND = (
    "Headline measure of newcomers on test data (accuracy in percent), mean over newcomers, then over seeds. Arrival: "
    "the model they download, before any of their data is used. Joined: after the method's own step. After "
    "fine-tuning: the fine-tuned model is accepted only where the newcomer's validation loss fell. The last two had "
    "at least as many steps."
)


def section(content: Content) -> Section | None:
    """For each setting the steps of joining; None where no run has newcomers."""
    stored = content.store.last_evaluations(entry.run.id for entry in content.joins.entries)
    parts: list[Markup] = []
    for setting, entries in content.by_setting(content.joins):
        done = [entry for entry in entries if entry.run.id in stored]
        if not done:
            continue
        rows = {entry.run.id: stored[entry.run.id].summary["rows"] for entry in done}
        drawn = [join_run(content.store, entry.run, entry.method) for entry in done]
        figure, _ = join_figure(drawn)
        what = headline(done[0].run.last).title.capitalize()
        alt = f"{what} of newcomers over epochs of fine-tuning, {setting}: {told_runs(e.run for e in done)}."
        caption = "From arrival over joining through every epoch of fine-tuning; training from scratch and FedAvg to "
        caption += "compare with. Over samples per class: what was kept, where the validation loss fell."
        parts += [heading(setting), _steps(setting, done, rows), row(image(figure, alt, caption))]
    return Section("newcomers", "Newcomers", joined([paragraph(LEGEND), *parts])) if parts else None


def _steps(setting: str, entries: Sequence[Entry], rows: dict[int, list[dict[str, object]]]) -> Markup:
    """Methods and shots x steps, over seeds."""
    heads = [*words("Method", "Samples per class"), *numbers("Seeds", *TITLES)]
    lines = []
    measure = headline(entries[0].run.last)
    for method in dict.fromkeys(entry.method for entry in entries):
        own = [rows[entry.run.id] for entry in entries if entry.method == method]
        for shots in dict.fromkeys(line["shots"] for line in own[0]):
            lines.append([method, shots, len(own), *(_cell(own, shots, step, measure) for step in JOIN_STEPS)])
    return table(f"{setting}: steps of joining, {measure.title}", heads, lines)


def _cell(own: Sequence[Sequence[dict[str, object]]], shots: object, step: str, measure: Measure) -> Markup | None:
    found = [
        line[f"{measure.key}_mean"] for rows in own for line in rows if line["shots"] == shots and line["step"] == step
    ]
    values = [float(value) for value in found if isinstance(value, int | float) and value == value]
    if not values:
        return None
    mean = number(sum(values) / len(values), percent=measure.fraction)
    return joined([mean, " ± ", number(sample_std(values), percent=measure.fraction)]) if len(values) > 1 else mean
