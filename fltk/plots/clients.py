"""Accuracy of every client, sorted, for several runs: who gains and who is left behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fltk.errors import FltkError
from fltk.plots.style import COLUMN, Array, Row, legend_above, line_style, new_figure, paper, value_axis


@dataclass(frozen=True)
class ClientScores:
    """One run: accuracy (N,) in [0, 1], NaN for clients without test samples; ids (N,) or 0..N-1."""

    label: str
    accuracy: Array
    ids: Array | None = None


def client_accuracy(
    scores: Sequence[ClientScores],
    *,
    width: float = COLUMN,
    y_label: str = "test accuracy",
    percent: bool = True,
) -> tuple[Figure, list[Row]]:
    """Each run's clients from worst to best, every run sorted on its own; the lowest tenth is shaded.

    `percent` writes fractions as percent. width in inches. FltkError when there is nothing to draw.
    """
    sorted_runs = [_sorted(entry) for entry in scores]
    if not any(len(values) for _, values in sorted_runs):
        raise FltkError("no client accuracy to draw: name at least one evaluated run")
    with paper():
        figure = new_figure(width, 2.0)
        ax = figure.add_subplot()
        _shade_worst(ax, max(len(values) for _, values in sorted_runs))
        handles = []
        for index, (_, values) in enumerate(sorted_runs):
            style = line_style(index)
            every = max(1, len(values) // 20)
            (handle,) = ax.plot(
                np.arange(1, len(values) + 1),
                values,
                color=style.color,
                linestyle=style.dash,
                marker=style.marker,
                markevery=(index * every // max(1, len(scores)), every),
                markeredgecolor="white",
                markeredgewidth=0.3,
            )
            handles.append(handle)
        value_axis(ax, y_label, percent=percent)
        ax.set_xlabel("client, from worst to best")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        legend_above(figure, handles, [entry.label for entry in scores])
    return figure, [row for entry, run in zip(scores, sorted_runs, strict=True) for row in _rows(entry.label, *run)]


def _sorted(entry: ClientScores) -> tuple[Array, Array]:
    """Ids and accuracies of the clients that have one, ascending."""
    values = np.asarray(entry.accuracy, dtype=np.float64)
    ids = np.arange(len(values)) if entry.ids is None else np.asarray(entry.ids)
    known = np.isfinite(values)
    order = np.argsort(values[known], kind="stable")
    return ids[known][order], values[known][order]


def _shade_worst(ax: Axes, clients: int) -> None:
    last = math.ceil(clients / 10)
    ax.axvspan(0.5, last + 0.5, color="#efefef", linewidth=0, zorder=0)
    ax.set_xlim(0.5, clients + 0.5)
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
