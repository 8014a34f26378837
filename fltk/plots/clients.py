"""Accuracy of every client, sorted, for several runs: who gains and who is left behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fltk.errors import FltkError
from fltk.plots.style import (
    COLUMN,
    Array,
    LineStyle,
    Row,
    legend_above,
    line_styles,
    new_figure,
    paper,
    value_axis,
    whole_ticks,
)

FEW = 10  # clients; a tenth of fewer is none


@dataclass(frozen=True)
class ClientScores:
    """One run: accuracy (N,) in [0, 1], NaN for clients without test samples; ids (N,) or 0..N-1.

    malicious: clients that are left out (NaN) because they attack.  round: after which, 0 where it does not matter.
    """

    label: str
    accuracy: Array
    ids: Array | None = None
    malicious: int = 0
    round: int = 0


def client_accuracy(
    scores: Sequence[ClientScores],
    *,
    width: float = COLUMN,
    y_label: str = "test accuracy",
    percent: bool = True,
    higher: bool = True,
    styles: Mapping[str, int] | None = None,
) -> tuple[Figure, list[Row]]:
    """Each run's clients from worst to best, every run sorted on its own; the worst tenth is shaded.

    `percent` writes fractions as percent. `higher`: more is better; losses want False. styles: label -> number of its
    style. The legend tells malicious clients that were left out, and rounds where they differ. width in inches.
    FltkError when there is nothing to draw.
    """
    sorted_runs = [_sorted(entry, higher) for entry in scores]
    if not any(len(values) for _, values in sorted_runs):
        raise FltkError("no client accuracy to draw: name at least one evaluated run")
    with paper():
        figure = new_figure(width, 2.0)
        ax = figure.add_subplot()
        _shade_worst(ax, [len(values) for _, values in sorted_runs])
        handles = _draw(ax, [values for _, values in sorted_runs], line_styles([s.label for s in scores], styles))
        value_axis(ax, y_label, percent=percent)
        ax.set_xlabel("client, from worst to best")
        whole_ticks(ax.xaxis)
        legend_above(figure, handles, _names(scores))
    return figure, [row for entry, run in zip(scores, sorted_runs, strict=True) for row in _rows(entry.label, *run)]


def _draw(ax: Axes, lines: Sequence[Array], looks: Sequence[LineStyle]) -> list[Line2D]:
    """Handles of the lines."""
    handles = []
    for index, (values, style) in enumerate(zip(lines, looks, strict=True)):
        every = max(1, len(values) // 20)
        (handle,) = ax.plot(
            np.arange(1, len(values) + 1),
            values,
            color=style.color,
            linestyle=style.dash,
            marker=style.marker,
            markevery=(index * every // max(1, len(lines)), every),  # staggered, so that no marker covers another
            markeredgecolor="white",
            markeredgewidth=0.3,
        )
        handles.append(handle)
    return handles


def _names(scores: Sequence[ClientScores]) -> list[str]:
    """The labels with what is to be known of a line."""
    apart = len({entry.round for entry in scores}) > 1
    return [
        entry.label
        + (f", round {entry.round}" if apart and "round" not in entry.label else "")
        + (f", without {entry.malicious} attacker{'s' * (entry.malicious > 1)}" if entry.malicious else "")
        for entry in scores
    ]


def _sorted(entry: ClientScores, higher: bool) -> tuple[Array, Array]:
    """Ids and values of the clients that have one, the worst first."""
    values = np.asarray(entry.accuracy, dtype=np.float64)
    ids = np.arange(len(values)) if entry.ids is None else np.asarray(entry.ids)
    known = np.isfinite(values)
    order = np.argsort(values[known] if higher else -values[known], kind="stable")
    return ids[known][order], values[known][order]


def _shade_worst(ax: Axes, clients: Sequence[int]) -> None:
    """The worst tenth, rounded up, where all lines have it in one place."""
    ax.set_xlim(0.5, max(clients) + 0.5)
    if len(set(clients)) > 1 or clients[0] < FEW:
        return
    last = math.ceil(clients[0] / 10)
    ax.axvspan(0.5, last + 0.5, color="#efefef", linewidth=0, zorder=0)
    ax.annotate(
        "worst 10 %",
        xy=(0.5, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 1),
        textcoords="offset points",
        va="bottom",
        color="#666666",
        fontsize=6.5,
    )


def _rows(label: str, ids: Array, values: Array) -> list[Row]:
    return [
        {"label": label, "rank": rank, "client": int(client), "accuracy": float(value)}
        for rank, (client, value) in enumerate(zip(ids, values, strict=True), start=1)
    ]
