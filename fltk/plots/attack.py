"""What attacks cost: accuracy lost by attack and method, and the weight that attackers get, round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fltk.errors import FltkError
from fltk.plots.curves import Curve, draw_curves
from fltk.plots.style import COLUMN, DOUBLE, EMPTY, Array, Row, new_figure, paper

MOST = 1.0  # of the colour scale, in accuracy


@dataclass(frozen=True)
class AttackedRun:
    """One run under attack: what it is called in rows and columns, and what it came to.

    drop: accuracy (a fraction) that benign clients lost against the clean twin, NaN where unknown.  rounds, share:
    (R,) the weight of attackers over a fair share, empty where it was not recorded.
    """

    attack: str
    column: str
    drop: float
    rounds: Array
    share: Array


def attack_figure(runs: Sequence[AttackedRun], *, width: float | None = None) -> tuple[Figure, list[Row]]:
    """A matrix of lost accuracy in points, attacks x methods, and beside it the attackers' weight over rounds.

    Runs of one cell (seeds) are averaged. A line is the mean over a column's runs, with a band of one standard
    deviation where there is one attack; of several it is the mean of their means. Attacks and columns are drawn in the
    order of the runs. Where the width (in inches) leaves no room beside the matrix, the lines stand below it, and it
    is drawn methods x attacks. FltkError without runs.
    """
    if not runs:
        raise FltkError("no attacked run to draw: fltk attack makes one")
    attacks, columns = ([*dict.fromkeys(getattr(run, key) for run in runs)] for key in ("attack", "column"))
    table, counts = _table(runs, attacks, columns)
    lines = [Curve(run.column, run.rounds, run.share) for run in runs if len(run.rounds)]
    lines = lines if len(attacks) == 1 else [_mean(lines, column) for column in columns if _of(lines, column)]
    with paper():
        wide = width or (DOUBLE if lines else max(COLUMN, 0.55 * len(columns) + 1.2))
        upright = width is not None and width < DOUBLE
        down, across = (columns, attacks) if upright else (attacks, columns)
        height = 0.75 + (0.2 if upright else 0.3) * len(down) + 0.06 * max(map(len, across))
        below = 2.0 + 0.14 * math.ceil(len(lines) / 2) if upright and lines else 0.0
        figure = new_figure(wide, height + below if upright else max(height, 2.3 if lines else 0))
        ratios = [height, below] if upright else [0.45 * len(columns) + 1.2, 3.0]
        axes = _axes(figure, upright, ratios) if lines else [figure.add_subplot()]
        _matrix(axes[0], table.T if upright else table, down, across, 6 if upright else 7)
        rows = _rows(table, counts, attacks, columns)
        if lines:
            rows += _weights(axes[1], lines, several=len(attacks) > 1, under=upright)
    return figure, rows


def _axes(figure: Figure, upright: bool, ratios: list[float]) -> list[Axes]:
    if upright:
        return list(figure.subplots(2, 1, height_ratios=ratios))
    return list(figure.subplots(1, 2, width_ratios=ratios))


def _table(runs: Sequence[AttackedRun], attacks: list[str], columns: list[str]) -> tuple[Array, Array]:
    """(A, M) mean drops, NaN for no run, and the numbers of runs behind them."""
    cells: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        if not math.isnan(run.drop):
            cells.setdefault((attacks.index(run.attack), columns.index(run.column)), []).append(run.drop)
    table = np.full((len(attacks), len(columns)), np.nan)
    counts = np.zeros(table.shape, np.int64)
    for place, drops in cells.items():
        table[place], counts[place] = np.mean(drops), len(drops)
    return table, counts


def _of(lines: Sequence[Curve], column: str) -> list[Curve]:
    return [line for line in lines if line.label == column]


def _mean(lines: Sequence[Curve], column: str) -> Curve:
    """The mean of a column's lines, over the rounds that any of them has."""
    own = _of(lines, column)
    rounds = np.unique(np.concatenate([line.rounds for line in own]))
    values = np.full((len(own), len(rounds)), np.nan)
    for k, line in enumerate(own):
        values[k, np.searchsorted(rounds, line.rounds)] = line.values
    return Curve(column, rounds, np.nanmean(values, axis=0))


def _matrix(ax: Axes, table: Array, down: list[str], across: list[str], size: float) -> None:
    """Cells with their numbers; dark is much lost, and what was gained is as bright as nothing lost."""
    top = float(np.nanmax(np.abs(table))) if np.isfinite(table).any() else 1.0
    top = min(MOST, max(top, 0.05))
    shown = np.where(np.isnan(table), np.nan, np.clip(table, 0, top))
    colours = matplotlib.colormaps["Oranges"].with_extremes(bad=EMPTY)
    ax.imshow(shown, cmap=colours, vmin=0, vmax=1.25 * top)
    ax.set_aspect("auto")
    for (row, column), drop in np.ndenumerate(table):
        text = "\u2013" if math.isnan(drop) else f"{round(100 * drop, 1) + 0.0:.1f}".replace("-", "\u2212")
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color="white" if drop > 0.75 * top else "black",
            fontsize=size,
        )
    ax.set_xticks(range(len(across)), across, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(down)), down)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title("accuracy lost by benign clients (points)")


def _weights(ax: Axes, lines: Sequence[Curve], *, several: bool, under: bool) -> list[Row]:
    """The lines of the second panel, and a rule at 1, the share of an average client."""
    ax.axhline(1.0, color="black", linewidth=0.6, linestyle=(0, (4, 2)), zorder=1)
    handles, labels, rows = draw_curves(ax, lines)
    ax.set_title("weight given to attackers")
    ax.set_ylabel("share of a fair share" + (",\nmean of the attacks" if several else ""))
    ax.set_xlabel("communication round")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    ax.set_ylim(0, 1.06 * max(1.0, ax.get_ylim()[1]))
    ax.grid(axis="y")
    ax.margins(x=0.02)
    ax.legend(
        handles,
        labels,
        loc="upper center" if under else "upper left",
        bbox_to_anchor=(0.4, -0.3) if under else (1.0, 1.02),
        ncols=2 if under else 1,
        fontsize=6.5,
        handlelength=2.0,
    )
    return [{"panel": "weight", **row} for row in rows]


def _rows(table: Array, counts: Array, attacks: list[str], columns: list[str]) -> list[Row]:
    """One row per cell of the matrix."""
    return [
        {"panel": "drop", "attack": attack, "label": column, "value": float(table[a, c]), "runs": int(counts[a, c])}
        for a, attack in enumerate(attacks)
        for c, column in enumerate(columns)
    ]
