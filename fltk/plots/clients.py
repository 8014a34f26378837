"""Accuracy of every client, or its gain over local training, sorted: which clients gain and which lose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from fltk.errors import FltkError
from fltk.plots.captions import add_caption, seeds_caption
from fltk.plots.facets import Layout, draw_legend, figure_height, label_y, layout, panel_axes
from fltk.plots.lines import Tag, plot_line, sample_std
from fltk.plots.method_styles import LineStyle
from fltk.plots.style import COLUMN, Array, Row, new_figure, paper, whole_ticks

FEW = 10  # clients; a tenth of fewer is none
MARKERS_A_LINE = 10


@dataclass(frozen=True)
class ClientScores(Tag):
    """One run: accuracy (N,), or another measure, NaN for clients without test samples; ids (N,) or 0..N-1.

    Runs with one label are averaged by rank.  malicious: clients that are left out (NaN) because they attack.  round:
    after which, 0 where it does not matter.
    """

    label: str
    accuracy: Array
    ids: Array | None = None
    malicious: int = 0
    round: int = 0


@dataclass(frozen=True)
class _Ranked:
    """The clients of a line from worst to best: mean and std over runs (R,); ids (R,) of a single run, else None.

    std is NaN for a single run.
    """

    label: str
    mean: Array
    std: Array
    runs: int
    ids: Array | None


def client_accuracy(
    scores: Sequence[ClientScores],
    *,
    width: float = COLUMN,
    y_label: str = "test accuracy",
    percent: bool = True,
    higher: bool = True,
) -> tuple[Figure, list[Row]]:
    """The clients of each run from worst to best; the worst tenth is shaded.

    Every run is sorted on its own. Runs of one label (seeds) become the mean over runs of the worst client, of the
    second worst, and so on, with a band of one sample standard deviation; where runs have different numbers of
    clients, the places between worst and best are matched. `percent` writes fractions as percent. `higher`: more is
    better; losses want False. The legend tells malicious clients that were left out, and rounds where they differ.
    width in inches. FltkError when there is nothing to draw.
    """
    lines = _ranked(scores, higher=higher)
    if not any(len(line.mean) for line in lines.values()):
        raise FltkError("no values of clients to draw: name at least one evaluated run")
    with paper():
        plan = layout(scores)
        figure, axes, handles = _draw(lines, plan, width, percent=percent)
        label_y(figure, axes, y_label, percent=percent)
        for ax in axes:
            _shade_worst(ax, list(lines.values()), told=len(axes) == 1)
        draw_legend(figure, plan, handles, _additions(scores))
        worst = "" if len(axes) == 1 else "Shaded: worst 10 %."
        add_caption(figure, [_by_rank(lines), seeds_caption(scores), worst])
    return figure, _rows(lines)


def client_gains(
    gains: Sequence[ClientScores],
    *,
    width: float = COLUMN,
    what: str = "test accuracy",
    percent: bool = True,
) -> tuple[Figure, list[Row]]:
    """The gain of each client over local training, sorted by gain; the legend tells the share of clients that lose.

    gains: `accuracy` (N,) holds how much better the client is than with local training on the same data, of
    accuracies as fractions (`percent`).  what: the name of the measure, for the caption. Runs with one label are
    averaged by rank. width in inches.
    FltkError when there is nothing to draw.
    """
    lines = _ranked(gains, higher=True)
    if not any(len(line.mean) for line in lines.values()):
        raise FltkError("no gain to draw: name at least one run that has a run of local on the same data")
    with paper():
        plan = layout(gains)
        figure, axes, handles = _draw(lines, plan, width, percent=False, x_label="client, by its gain")
        label_y(figure, axes, "gain over local" + (" (points)" if percent else ""), percent=False)
        for ax in axes:
            _shade_losses(ax, percent=percent)
        alone = len(axes) == 1  # else a method loses differently in each panel
        draw_legend(figure, plan, handles, _losing(gains) if alone else {})
        told = f"Gain: {what} of a client, how much better than that of local training on the same data."
        add_caption(figure, [told, _by_rank(lines), seeds_caption(gains)])
    return figure, _rows(lines)


def _shade_losses(ax: Axes, *, percent: bool) -> None:
    """A line at zero, and grey below it; the axis of fractions is in points of a percent."""
    if percent:
        ax.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=None, symbol=""))
    ax.axhline(0.0, color="black", linewidth=0.6, zorder=1)
    low = min(ax.get_ylim()[0], -0.01)
    ax.axhspan(low, 0.0, color="#efefef", linewidth=0, zorder=0)
    ax.set_ylim(bottom=low)


def _losing(gains: Sequence[ClientScores]) -> dict[str, str]:
    """By label, what the legend adds: the share of clients of all its runs whose gain is negative."""
    pooled: dict[str, list[Array]] = {}
    for entry in gains:
        values = np.asarray(entry.accuracy, dtype=np.float64)
        pooled.setdefault(entry.label, []).append(values[np.isfinite(values)])
    told = {}
    for label, runs in pooled.items():
        values = np.concatenate(runs)
        share = float((values < 0).mean()) if values.size else 0.0
        told[label] = f" ({100 * share:.0f} % lose)"
    return told


# Sorting


def _ranked(scores: Sequence[ClientScores], *, higher: bool) -> dict[str, _Ranked]:
    """label -> its clients from worst to best, in the order of the runs."""
    runs: dict[str, list[tuple[Array, Array]]] = {}
    for entry in scores:
        runs.setdefault(entry.label, []).append(_sorted(entry, higher))
    return {label: _mean_by_rank(label, own) for label, own in runs.items()}


def _sorted(entry: ClientScores, higher: bool) -> tuple[Array, Array]:
    """Ids and values of the clients that have one, the worst first."""
    values = np.asarray(entry.accuracy, dtype=np.float64)
    ids = np.arange(len(values)) if entry.ids is None else np.asarray(entry.ids)
    known = np.isfinite(values)
    order = np.argsort(values[known] if higher else -values[known], kind="stable")
    return ids[known][order], values[known][order]


def _mean_by_rank(label: str, runs: Sequence[tuple[Array, Array]]) -> _Ranked:
    if len(runs) == 1:
        ids, values = runs[0]
        return _Ranked(label, values, np.full(len(values), np.nan), 1, ids)

    fewest = min(len(values) for _, values in runs)
    if fewest == 0:
        return _Ranked(label, np.zeros(0), np.zeros(0), len(runs), None)
    table = np.stack([_at_ranks(values, fewest) for _, values in runs])
    return _Ranked(label, table.mean(axis=0), sample_std(table), len(runs), None)


def _at_ranks(values: Array, count: int) -> Array:
    """Sorted values (N,) -> (count,): the same values where N is count, else those between them."""
    if len(values) == count:
        return values
    own = (np.arange(len(values)) + 0.5) / len(values)
    wanted = (np.arange(count) + 0.5) / count
    return np.interp(wanted, own, values)


# Drawing


def _draw(
    lines: Mapping[str, _Ranked],
    plan: Layout,
    width: float,
    *,
    percent: bool,
    x_label: str = "client, from worst to best",
) -> tuple[Figure, list[Axes], dict[str, Line2D]]:
    figure = new_figure(width, figure_height(plan, width, 2.0))
    axes = panel_axes(figure, plan, x_label=x_label)
    handles: dict[str, Line2D] = {}
    for ax, panel in zip(axes, plan.panels, strict=True):
        if plan.one_each:
            for line in lines.values():
                ax.plot(np.arange(1, len(line.mean) + 1), line.mean, color="#d0d0d0", linewidth=0.6, zorder=1)
        for index, label in enumerate(panel.labels):
            handles[label] = _draw_line(ax, lines[label], plan.styles[label], index, percent=percent)
        ax.set_xlim(0.5, max(len(line.mean) for line in lines.values()) + 0.5)
        whole_ticks(ax.xaxis, 8 if len(axes) == 1 else 4)
    return figure, axes, handles


def _draw_line(ax: Axes, line: _Ranked, style: LineStyle, index: int, *, percent: bool) -> Line2D:
    """index: the number of the line, so that its markers do not cover those of the last one."""
    ranks = np.arange(1, len(line.mean) + 1)
    every = max(1, len(ranks) // MARKERS_A_LINE)
    handle = plot_line(ax, ranks, line.mean, style, markevery=(index % every, every))
    if line.runs > 1:
        low, high = line.mean - line.std, line.mean + line.std
        if percent:
            low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
        ax.fill_between(ranks, low, high, color=style.color, alpha=0.15, linewidth=0)
    return handle


def _shade_worst(ax: Axes, lines: Sequence[_Ranked], *, told: bool) -> None:
    """The worst tenth, rounded up, where all lines have it in one place; `told`: with its name above."""
    clients = {len(line.mean) for line in lines}
    if len(clients) > 1 or min(clients) < FEW:
        return
    last = math.ceil(clients.pop() / 10)
    ax.axvspan(0.5, last + 0.5, color="#efefef", linewidth=0, zorder=0)
    if told:
        ax.annotate(
            "worst 10 %",
            xy=(0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 1),
            textcoords="offset points",
            va="bottom",
            color="#555555",
            fontsize=6.5,
        )


def _by_rank(lines: Mapping[str, _Ranked]) -> str:
    """What the mean of sorted clients is, for readers who would take it for the mean of a client."""
    if all(line.runs == 1 for line in lines.values()):
        return ""
    return "Clients are sorted in each run and averaged by rank."


def _additions(scores: Sequence[ClientScores]) -> dict[str, str]:
    """By label, what the legend adds: the round where rounds differ, and clients that were left out."""
    apart = len({entry.round for entry in scores}) > 1
    found = {}
    for entry in scores:
        text = ""
        if apart and "round" not in entry.label:
            text += f", round {entry.round}"
        if entry.malicious:
            text += f", without {entry.malicious} attacker{'s' if entry.malicious > 1 else ''}"
        found[entry.label] = text
    return found


def _rows(lines: Mapping[str, _Ranked]) -> list[Row]:
    """One row a client of a single run, or a rank of several runs, whose `client` is unknown."""
    made: list[Row] = []
    for line in lines.values():
        for place, (mean, std) in enumerate(zip(line.mean, line.std, strict=True)):
            row: Row = {"label": line.label, "rank": place + 1}
            row["client"] = None if line.ids is None else int(line.ids[place])
            made.append({**row, "accuracy": float(mean), "std": float(std), "runs": line.runs})
    return made
