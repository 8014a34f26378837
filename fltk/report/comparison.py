"""Methods over settings and seeds: means, worst decile, what differs significantly, average ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from markupsafe import Markup

from fltk.evaluation.compare import CLIENTS, SEEDS, Comparison, Difference, Pairing, compare
from fltk.evaluation.metric_values import DEPLOYED, common
from fltk.evaluation.statistics import ALPHA, least_p
from fltk.export.comparison import INTERVAL, TEST, seeds_told
from fltk.plots.captions import seeds_told as seeds_of_runs
from fltk.plots.critical_difference import critical_difference
from fltk.plots.labels import stopped
from fltk.registry import RunRow, Store
from fltk.report.content import Content, Section
from fltk.report.figures import image, row
from fltk.report.markup import folded, items, joined, mark, number, numbers, paragraph, strong, table, words

WORST, PERSONAL, GLOBAL = "worst10", "personal_test_", "global_test_"
REFERENCES = ("fedavg-ft", "fedavg", "local")


def title_of(name: str) -> str:
    """What a metric is called in tables."""
    worst = ", worst decile" if name.endswith(f".{WORST}") else ""
    kinds = {DEPLOYED: "Deployed", PERSONAL: "Personal", GLOBAL: "Global model"}
    return next(title for start, title in kinds.items() if name.startswith(start)) + worst


def section(content: Content) -> Section | None:
    """One table for each setting, ranks over several settings, and paired differences; None without accuracies."""
    runs = [entry.run for entry in content.comparable]
    names = list(measured(content.store, runs))
    tables = {name: compare(content.store, runs, name, tuning=content.tuning) for name in names}
    if not tables:
        return None
    first = next(iter(tables.values()))
    pairings = {name: Pairing(content.store, made) for name, made in tables.items()}
    ties = {}
    for name, pairing in pairings.items():
        ties[name] = {setting: pairing.ties(setting) for setting in first.settings}
    several = len(first.methods) > 1
    parts: list[Markup] = [paragraph(_legend(tables, ties, several))]
    if content.tuning is not None:
        parts.append(paragraph(content.tuning.caption))
    parts += [_setting(setting, tables, ties) for setting in first.settings]
    parts += _ranks(tables, seeds_of_runs(run.seed for run in runs))
    parts += _differences(pairings)
    parts.append(items([*_unfinished(content), *_notes(content, tables)]))
    return Section("comparison", "Comparison over seeds" if len(runs) > 1 else "Scores", joined(parts))


def _notes(content: Content, tables: Mapping[str, Comparison]) -> list[str]:
    """What the tables have to tell that the page does not tell elsewhere, once each."""
    told: dict[str, None] = {}
    for name, made in tables.items():
        if not name.startswith(GLOBAL):
            told |= dict.fromkeys(made.notes)
    own = []
    for note in told:
        if note not in content.trained.notes and not note.startswith("not finished"):
            own.append(note)
    return own


def _unfinished(content: Content) -> list[str]:
    """Runs that are no part of a mean, and those that are although they are not finished."""
    kept = {entry.run.id for entry in content.comparable}
    late = [entry.run for entry in content.trained.entries if entry.run.status != "done"]
    out, shown = ([stopped(run) for run in late if (run.id in kept) is inside] for inside in (False, True))
    notes = [f"Not finished and left out of the means: {'; '.join(out)}."] if out else []
    return notes + ([f"Not finished, and all there is: {'; '.join(shown)}."] if shown else [])


def measured(store: Store, runs: list[RunRow]) -> Iterator[str]:
    """The names of metrics in tables that some run has a finite value of."""
    key = common(runs).key
    personal, shared = PERSONAL + key, GLOBAL + key
    last = store.last_evaluations(run.id for run in runs)
    rows = [row for found in last.values() for row in found.summary["rows"] if row.get("model") == DEPLOYED]
    for name, column in ((DEPLOYED, f"{key}_mean"), (f"{DEPLOYED}.{WORST}", f"{key}_{WORST}")):
        if any(_finite(row.get(column)) for row in rows):
            yield name
    if any(_finite(run.last.get(personal)) for run in runs):
        yield personal
        if store.last_vectors((run.id for run in runs), personal):
            yield f"{personal}.{WORST}"
    if any(_finite(run.last.get(shared)) for run in runs):
        yield shared


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _legend(tables: dict[str, Comparison], ties: dict[str, dict[str, list[str]]], several: bool) -> Markup:
    first = next(iter(tables.values()))
    measure = first.metric.measure
    unit = "percent" if measure.fraction else "the unit of the target, less is better"
    parts = [f"Test {measure.title} in {unit}. {seeds_told(first)}"]
    if DEPLOYED in tables:
        parts.append("Deployed: the model that clients use after the last evaluation, chosen on validation data.")
    if any(name.startswith(PERSONAL) for name in tables):
        parts.append("Personal: each client's model of the last round.")
    parts.append("Worst decile: mean of the worst tenth of the clients.")
    if several:
        parts.append("Bold: best mean of a column.")
    if any(found for of in ties.values() for found in of.values()):
        parts.append(f"≈: not significantly worse than the best (Wilcoxon signed-rank test, Holm, {ALPHA:g}).")
    return joined(parts, " ")


def _setting(setting: str, tables: dict[str, Comparison], ties: dict[str, dict[str, list[str]]]) -> Markup:
    """Methods x measures."""
    first = next(iter(tables.values()))
    heads = [*words("Method"), *numbers("Seeds", *(title_of(name) for name in tables))]
    rows = []
    for method in first.methods:
        cells = [_cell(made, method, setting, ties[name][setting]) for name, made in tables.items()]
        if any(made.cells[method, setting].scores for made in tables.values()):
            seeds = max(len(made.cells[method, setting].scores) for made in tables.values())
            rows.append([method, seeds, *cells])
    return table(setting, heads, rows)


def _cell(made: Comparison, method: str, setting: str, ties: list[str]) -> Markup | None:
    cell = made.cells[method, setting]
    if not cell.scores:
        return None
    scale = made.metric.accuracy
    mean = number(cell.mean, percent=scale)
    best = len(made.methods) > 1 and method in made.best(setting)
    tie = mark("≈" if method in ties else "") if ties else ""
    spread = "" if math.isnan(cell.std) else joined([" ± ", number(cell.std, percent=scale)])
    few = f" ({len(cell.scores)})" if len(cell.scores) < cell.planned else ""
    return joined([strong(mean) if best else mean, spread, few, tie])


def _ranks(tables: dict[str, Comparison], seeds: str) -> list[Markup]:
    """Average ranks by each measure, and the diagram of the first, which names the seeds."""
    found = {name: ranks for name, made in tables.items() if (ranks := made.ranks()) is not None}
    if not found:
        return []
    methods = next(iter(tables.values())).methods
    heads = [*words("Ranked by"), *numbers("Settings", "Friedman p", "Critical difference", *methods)]
    rows = []
    for name, ranks in found.items():
        average = dict(zip(ranks.methods, ranks.average, strict=True))
        distance = number(ranks.critical_difference, digits=2)
        tested = [ranks.settings, number(ranks.friedman_p, digits=4), distance]
        rows.append([title_of(name), *tested, *(number(average[m], digits=2) for m in methods)])
    name, ranks = next(iter(found.items()))
    made_title = tables[name].metric.measure.title
    drawn, _ = critical_difference(ranks, what=f"{title_of(name).lower()} {made_title}, {seeds}")
    told = ", ".join(f"{m} {a:.2f}" for m, a in sorted(zip(ranks.methods, ranks.average, strict=True), key=_second))
    caption = (
        f"Average ranks by {title_of(name).lower()} {made_title}, {seeds}; bars join what the data cannot tell apart."
    )
    return [
        table(f"Average ranks over settings (1 is best; Nemenyi, {ranks.alpha:g})", heads, rows),
        row(image(drawn, f"Critical-difference diagram. Average ranks: {told}.", caption)),
    ]


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _differences(pairings: dict[str, Pairing]) -> list[Markup]:
    """Every method against the usual reference, in the first measure."""
    pairing = next(iter(pairings.values()))
    made = pairing.comparison
    reference = next((name for name in REFERENCES if name in made.methods), None)
    if reference is None or len(made.methods) < 2:
        return []
    found = [one for one in pairing.differences(reference) if one.pairs and one.unit in (SEEDS, CLIENTS)]
    if not found:
        return []
    heads = [*words("Method", "Setting", "Pairs of"), *numbers(*_DIFFERENCES)]
    least = min((one.pairs for one in found if one.unit == SEEDS), default=0)
    warned = f" With {least} seeds no p is below {least_p(least):.2g}." if least and least_p(least) > ALPHA else ""
    title = title_of(made.metric.name)
    told = f"Low and high: {INTERVAL}. p: {TEST}, Holm over the methods of a setting.{warned}"
    percent = made.metric.accuracy
    what = f"{title} {made.metric.measure.title} against {reference}"
    lines = [_line(one, percent) for one in found]
    shown = table(what + (", in points of a percent" if percent else ""), heads, lines)
    return [folded(f"Paired differences to {reference}", shown, paragraph(told))]


_DIFFERENCES = ("Pairs", "Mean", "Low", "High", "Better", "Worse", "p (Holm)")


def _line(one: Difference, percent: bool) -> list[object]:
    numbers = [number(v, percent=percent, sign=True) for v in (one.mean, one.interval.low, one.interval.high)]
    return [
        one.method,
        one.setting,
        one.unit,
        one.pairs,
        *numbers,
        one.better,
        one.worse,
        number(one.p_holm, digits=4),
    ]
