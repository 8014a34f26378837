"""A comparison as flat rows and as a LaTeX table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fltk.evaluation import statistics as stats
from fltk.evaluation.compare import CLIENTS, Cell, Comparison, Difference
from fltk.export import latex

Row = dict[str, Any]
Ties = Mapping[str, Sequence[str]]  # setting -> methods that are not significantly worse than the best

INTERVAL = f"{stats.LEVEL:.0%} bootstrap interval of the mean (BCa, {stats.RESAMPLES:,} resamples, seed 0)"
TEST = f"Wilcoxon signed-rank test, two-sided, exact up to {stats.EXACT_PAIRS} pairs"


def cell_rows(comparison: Comparison, ties: Ties) -> list[Row]:
    """One row for each method and setting, missing ones included."""
    rows = []
    for setting in comparison.settings:
        best, tied = comparison.best(setting), ties.get(setting, ())
        rows += [_cell_row(comparison, comparison.cells[m, setting], best, tied) for m in comparison.methods]
    return rows


def _cell_row(comparison: Comparison, cell: Cell, best: Sequence[str], ties: Sequence[str]) -> Row:
    interval = stats.bootstrap_interval(cell.values)
    choice = comparison.choices.get((cell.method, cell.setting))
    tuned: Row = {"trials": choice.trials if choice else None, "tuned": choice.told if choice else None}
    return {
        "metric": comparison.metric.name,
        "setting": cell.setting,
        "method": cell.method,
        "seeds": len(cell.scores),
        "mean": _known(cell.mean),
        "std": _known(cell.std),
        "low": _known(interval.low),
        "high": _known(interval.high),
        "best": cell.method in best,
        "tied": cell.method in ties,
        **(tuned if comparison.caption else {}),
        "runs": [f"run{score.entry.run.id}" for score in cell.scores],
    }


def difference_rows(comparison: Comparison, differences: Iterable[Difference]) -> list[Row]:
    """One row for each difference."""
    rows = []
    for item in differences:
        row: Row = {"metric": comparison.metric.name}
        for key, value in asdict(item).items():
            row |= value if key == "interval" else {key: value}
        rows.append({key: _known(value) for key, value in row.items()})
    return rows


def rank_row(ranks: stats.Ranks | None) -> Row | None:
    """Average ranks and what they are judged by."""
    if ranks is None:
        return None
    return {
        "average": dict(zip(ranks.methods, ranks.average, strict=True)),
        "settings": ranks.settings,
        "friedman_p": ranks.friedman_p,
        "critical_difference": ranks.critical_difference,
        "alpha": ranks.alpha,
    }


def number(value: float, percent: bool) -> str:
    """A mean or a spread as it is printed; NaN is a dash."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" if percent else f"{value:.4f}"


def latex_table(comparison: Comparison, ties: Ties, unit: str, percent: bool) -> str:
    """Methods x settings: the best in bold, what is not significantly worse underlined, told in the caption."""
    ranks = comparison.ranks()
    header = ["Method", *comparison.settings, *(["Avg. rank"] if ranks else [])]
    average = dict(zip(ranks.methods, ranks.average, strict=True)) if ranks else {}
    rows = []
    for method in comparison.methods:
        cells = [_latex_cell(comparison, method, setting, ties, percent) for setting in comparison.settings]
        rows.append([latex.escape(method), *cells, *([f"{average[method]:.2f}"] if ranks else [])])
    body = latex.tabular("l" + "r" * (len(header) - 1), [latex.escape(text) for text in header], rows)
    notes = "".join(f"% {' '.join(note.split())}\n" for note in comparison.notes)
    return (
        "% needs \\usepackage{booktabs}\n" + notes + latex.float_table(_caption(comparison, ties, unit, percent), body)
    )


def _latex_cell(comparison: Comparison, method: str, setting: str, ties: Ties, percent: bool) -> str:
    cell = comparison.cells[method, setting]
    if not cell.scores:
        return "--"
    spread = "" if math.isnan(cell.std) else rf" \pm {number(cell.std, percent)}"
    few = rf"\,({len(cell.scores)})" if len(cell.scores) < cell.planned else ""
    mean = number(cell.mean, percent)
    if method in comparison.best(setting):
        mean = rf"\mathbf{{{mean}}}"
    elif method in ties.get(setting, ()):
        mean = rf"\underline{{{mean}}}"
    return f"${mean}{spread}${few}"


def _caption(comparison: Comparison, ties: Ties, unit: str, percent: bool) -> str:
    metric = comparison.metric
    scale = " in percent" if percent else ""
    what = metric.description[0].upper() + metric.description[1:]
    parts = [
        rf"{latex.escape(what + scale)} (\texttt{{{latex.escape(metric.name)}}}).",
        latex.escape(f"{seeds_told(comparison)} Bold: best mean of a column."),
    ]
    if comparison.caption:
        parts.append(latex.escape(comparison.caption))
    if any(ties.values()):
        what = "clients, paired by client and seed" if unit == CLIENTS else "seeds"
        parts.append(
            r"\underline{Underlined}: not significantly worse than the best "
            rf"(Wilcoxon signed-rank test over {what}, Holm-adjusted, $\alpha = {stats.ALPHA:g}$)."
        )
    ranks = comparison.ranks()
    if ranks:
        parts.append(
            f"Average ranks over {ranks.settings} settings; critical difference (Nemenyi, $\\alpha = {ranks.alpha:g}$) "
            f"{ranks.critical_difference:.2f}."
        )
    return " ".join(parts)


def seeds_told(comparison: Comparison) -> str:
    """How many seeds stand behind a cell, as a sentence."""
    planned = sorted({cell.planned for cell in comparison.cells.values()})
    if planned == [1]:
        return "One seed."
    count = str(planned[0]) if len(planned) == 1 else f"{planned[0]} to {planned[-1]}"
    fewer = any(0 < len(cell.scores) < cell.planned for cell in comparison.cells.values())
    return f"Mean ± sample standard deviation over {count} seeds{' (fewer: in brackets)' if fewer else ''}."


def _known(value: Any) -> Any:
    """None for NaN, which the text formats and Parquet have for what is not there."""
    return None if isinstance(value, float) and math.isnan(value) else value
