"""How far maps are from local training and from FedAvg: self-weight and row entropy over the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fltk.errors import FltkError
from fltk.metrics import map_entropy, self_weight
from fltk.plots.curves import Curve, draw_curves
from fltk.plots.style import COLUMN, Array, Row, legend_above, new_figure, paper, value_axis


@dataclass(frozen=True)
class MapStats:
    """One run: mean self-weight and mean row entropy over log N, (R,) at rounds (R,). Equal labels are averaged."""

    label: str
    rounds: Array
    self_weight: Array
    entropy: Array


def map_stats(label: str, maps: Iterable[tuple[int, Array]]) -> MapStats:
    """The numbers of a run from its maps (N, N) with their rounds, ascending; read one at a time."""
    found = [(number, self_weight(weights), map_entropy(weights)) for number, weights in maps]
    rounds, own, entropy = zip(*found, strict=True) if found else ((), (), ())
    return MapStats(label, np.array(rounds, np.int64), np.array(own, np.float64), np.array(entropy, np.float64))


def attention_stats(runs: Sequence[MapStats], *, width: float = COLUMN) -> tuple[Figure, list[Row]]:
    """Self-weight (1: local training) above row entropy (1: FedAvg with equal data) over the rounds, one line a run.

    Runs with one label become their mean with a band of one sample standard deviation. width in inches. FltkError
    without maps.
    """
    if not runs:
        raise FltkError("no collaboration map to draw: name at least one run")
    rows: list[Row] = []
    with paper():
        figure = new_figure(width, 2.7)
        above, below = figure.subplots(2, 1, sharex=True)
        for ax, key, name, end in (
            (above, "self_weight", "self-weight", "local training"),
            (below, "entropy", "row entropy", "equal weights"),
        ):
            found = [Curve(run.label, run.rounds, getattr(run, key)) for run in runs]
            handles, labels, drawn = draw_curves(ax, found, share=True)
            rows += [{"measure": key, **row} for row in drawn]
            _axis(ax, name, end)
        below.set_xlabel("communication round")
        below.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        legend_above(figure, handles, labels)
    return figure, rows


def _axis(ax: Axes, name: str, end: str) -> None:
    value_axis(ax, name, percent=False)
    ax.set_ylim(-0.04, 1.08)
    ax.set_yticks(np.linspace(0, 1, 3))
    ax.margins(x=0.02)
    ax.axhline(1.0, color="#888888", linewidth=0.6, linestyle=(0, (4, 2)))
    ax.annotate(
        end,
        xy=(1.0, 1.0),
        xycoords=("axes fraction", "data"),
        xytext=(0, 1.5),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color="#666666",
        fontsize=6.5,
    )
