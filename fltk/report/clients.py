"""Which clients gain and which do not: the accuracy of every client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from fltk.evaluation.comparison_table import Entry
from fltk.evaluation.metric_values import Floats, Metric, choose, client_values
from fltk.plots.clients import ClientScores, client_accuracy
from fltk.plots.labels import own_line
from fltk.plots.stored import malicious_of
from fltk.plots.style import Array
from fltk.report.content import Content, Section, run_link
from fltk.report.figures import image, row
from fltk.report.markup import folded, heading, joined, number, numbers, table, words

QUANTILES = {"Lowest": 0.0, "10 %": 0.1, "25 %": 0.25, "Median": 0.5, "75 %": 0.75, "90 %": 0.9, "Highest": 1.0}
MOST = 500  # clients that get a line each


def section(content: Content) -> Section | None:
    """For each setting the clients of every method's first seed, sorted; None where no run has any."""
    runs = [entry.run for entry in content.trained.entries]
    metric = choose(runs, content.store.last_evaluations(run.id for run in runs))
    found = client_values(content.store, runs, metric)
    values = {run: accuracies for run, accuracies in found.items() if np.isfinite(accuracies).any()}
    first = {entry.run.id for entry in content.first_seeds(content.trained)}
    parts: list[Markup] = []
    for setting, entries in content.by_setting(content.trained):
        own = [entry for entry in entries if entry.run.id in values]
        if own:
            shown = [entry for entry in own if entry.run.id in first]
            figure = _figure(setting, own, values, metric)
            parts += [heading(setting), row(figure), *_tables(setting, shown, values)]
    return Section("clients", "Clients", joined(parts)) if parts else None


def _figure(setting: str, own: Sequence[Entry], values: dict[int, Floats], metric: Metric) -> Markup:
    """The clients of every method, sorted and averaged over seeds by rank."""
    title = metric.measure.title
    what = f"Test {title} of the {metric.source} model" if metric.evaluated else f"Personal test {title}, last round"
    scores = []
    attacked = False
    for entry in own:
        bad = malicious_of(entry.run, values[entry.run.id].size)
        attacked = attacked or bad is not None
        scores.append(_scores(entry, values[entry.run.id], bad))
    drawn, _ = client_accuracy(
        scores, y_label=f"test {title}", percent=metric.measure.fraction, higher=metric.measure.higher_is_better
    )

    runs = ", ".join(f"{entry.method} run{entry.run.id}" for entry in own)
    caption = f"{what}; the clients of each run are sorted, and averaged over seeds by rank."
    caption += " Malicious clients are left out." if attacked else ""
    return image(drawn, f"{title.capitalize()} of every client from worst to best, {setting}: {runs}.", caption)


def _tables(setting: str, shown: Sequence[Entry], values: dict[int, Floats]) -> list[Markup]:
    """The distribution over clients and every client, of each method's lowest seed."""
    heads = [*words("Method", "Run"), *numbers(*QUANTILES)]
    rows = [[entry.method, run_link(entry.run.id), *_quantiles(values[entry.run.id])] for entry in shown]
    spread = table(f"{setting}: distribution over clients (%)", heads, rows)
    return [spread, *_each(setting, shown, values)]


def _scores(entry: Entry, values: Floats, bad: Array | None) -> ClientScores:
    """The clients of a run, which is called by its method, and by how far it came where it is not finished."""
    label = own_line(entry.method, entry.run)
    count = 0 if bad is None else int(bad.sum())
    return ClientScores(label, values, malicious=count, method=entry.run.method, seed=entry.run.seed)


def _quantiles(values: Floats) -> list[Markup]:
    return [number(v, percent=True) for v in np.nanquantile(values, list(QUANTILES.values())).tolist()]


def _each(setting: str, own: Sequence[Entry], values: dict[int, Floats]) -> list[Markup]:
    """One line for each client."""
    most = max(values[entry.run.id].size for entry in own)
    if most > MOST:
        return []
    heads = [*words("Client"), *numbers(*(f"{entry.method} (run{entry.run.id})" for entry in own))]
    found = [values[entry.run.id].tolist() for entry in own]
    rows = [
        [f"{client}", *(number(v[client], percent=True) if client < len(v) else None for v in found)]
        for client in range(most)
    ]
    return [folded("Every client", table(f"{setting}: every client (%)", heads, rows))]
