"""What attacks cost: accuracy lost by attack and method, and the weight that attackers get, round by round."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fltk.errors import FltkError
from fltk.evaluation.statistics import sample_std
from fltk.plots.curves import Curve, draw_curves
from fltk.plots.style import COLUMN, DOUBLE, EMPTY, Array, Row, new_figure, paper, whole_ticks

MOST = 1.0  # of the colour scale, in accuracy
MOST_SPREADS = 5  # columns of a narrow matrix that have room for standard deviations
LINE = 18  # characters of a name


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


@dataclass(frozen=True)
class _Cells:
    """(A, M) by attack and column: mean drop and its sample standard deviation over `counts` runs, NaN for unknown."""

    mean: Array
    std: Array
    counts: Array


def attack_figure(runs: Sequence[AttackedRun], *, width: float | None = None) -> tuple[Figure, list[Row]]:
    """A matrix of lost accuracy in points, attacks x methods, and beside it the attackers' weight over rounds.

    Runs of one cell (seeds) are averaged; their standard deviation stands below the mean. A line is the mean over a
    column's runs, with a band of one standard deviation where there is one attack; of several it is the mean of their
    means. Attacks and columns are drawn in the order of the runs. Where the width (in inches) leaves no room beside the
    matrix, the lines stand below it, and it is drawn methods x attacks. FltkError without runs.
    """
    if not runs:
        raise FltkError("no attacked run to draw: fltk attack makes one")
    attacks, columns = ([*dict.fromkeys(getattr(run, key) for run in runs)] for key in ("attack", "column"))
    cells = _cells(runs, attacks, columns)
    weighed = [run for run in runs if np.isfinite(run.share).any()]
    with paper():
        wide = width or (DOUBLE if weighed else max(COLUMN, 0.55 * len(columns) + 1.2))
        upright = width is not None and width < DOUBLE
        down, across = ([_folded(name) for name in names] for names in _sides(attacks, columns, upright))
        spread = np.isfinite(cells.std).any() and not (upright and len(across) > MOST_SPREADS)
        cell = max((0.2 if upright else 0.3) + 0.08 * spread, 0.11 * max(name.count("\n") + 1 for name in down))
        height = 0.75 + cell * len(down) + 0.06 * max(len(line) for name in across for line in name.split("\n"))
        labels = len({run.column for run in weighed})
        below = 2.0 + 0.14 * math.ceil(labels / 2) if upright and weighed else 0.0
        figure = new_figure(wide, height + below if upright else max(height, 2.3 if weighed else 0))
        ratios = [height, below] if upright else [0.45 * len(columns) + 1.2, 3.0]
        axes = _axes(figure, upright, ratios) if weighed else [figure.add_subplot()]
        std = cells.std if spread else np.full(cells.std.shape, np.nan)
        _matrix(axes[0], *((cells.mean.T, std.T) if upright else (cells.mean, std)), down, across, 6 if upright else 7)
        rows = _rows(cells, attacks, columns)
        if weighed:
            rows += _weights(axes[1], weighed, under=upright)
    return figure, rows


def _sides(attacks: list[str], columns: list[str], upright: bool) -> tuple[list[str], list[str]]:
    """What stands below each other, and what side by side."""
    return (columns, attacks) if upright else (attacks, columns)


def _folded(name: str) -> str:
    """A name in lines that leave the matrix its room."""
    return textwrap.fill(name, LINE, break_on_hyphens=False)


def _axes(figure: Figure, upright: bool, ratios: list[float]) -> list[Axes]:
    if upright:
        return list(figure.subplots(2, 1, height_ratios=ratios))
    return list(figure.subplots(1, 2, width_ratios=ratios))


def _cells(runs: Sequence[AttackedRun], attacks: list[str], columns: list[str]) -> _Cells:
    cells: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        if not math.isnan(run.drop):
            cells.setdefault((attacks.index(run.attack), columns.index(run.column)), []).append(run.drop)
    mean, std = (np.full((len(attacks), len(columns)), np.nan) for _ in range(2))
    counts = np.zeros(mean.shape, np.int64)
    for place, drops in cells.items():
        mean[place], std[place], counts[place] = np.mean(drops), sample_std(drops), len(drops)
    return _Cells(mean, std, counts)


def _matrix(ax: Axes, mean: Array, std: Array, down: list[str], across: list[str], size: float) -> None:
    """Cells with their numbers; dark is much lost, and what was gained is as bright as nothing lost."""
    top = float(np.nanmax(np.abs(mean))) if np.isfinite(mean).any() else MOST
    top = min(MOST, max(top, 0.05))
    shown = np.where(np.isnan(mean), np.nan, np.clip(mean, 0, top))
    colours = matplotlib.colormaps["Oranges"].with_extremes(bad=EMPTY)
    image = ax.imshow(shown, cmap=colours, vmin=0, vmax=top)
    ax.set_aspect("auto")
    for (row, column), drop in np.ndenumerate(mean):
        ink = _ink(image.to_rgba(np.ma.masked_invalid(shown))[row, column])
        text = "\u2013" if math.isnan(drop) else _points(drop)
        if math.isfinite(std[row, column]):
            text += f"\n\u00b1{_points(float(std[row, column]))}"
        ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=size, linespacing=1.05)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02, aspect=30, ticks=[0, top])
    bar.ax.set_yticklabels(["0", _points(top)], fontsize=6)
    bar.outline.set_visible(False)
    if any("\n" in name for name in across):  # slanted, their lines would meet those of the neighbours
        ax.set_xticks(range(len(across)), across, rotation=90, fontsize=5.5, linespacing=0.95)
    else:
        ax.set_xticks(range(len(across)), across, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(down)), down)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title("accuracy lost by benign clients (points)")


def _points(value: float) -> str:
    """A fraction in points of a percent, with a proper minus and no negative zero."""
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "\u2212")


def _ink(colour: Array) -> str:
    """Black or white, whichever can be read on this colour (R, G, B, ...) (WCAG 2: contrast of relative luminances)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def _weights(ax: Axes, runs: Sequence[AttackedRun], *, under: bool) -> list[Row]:
    """The lines of the second panel, and a rule at 1, the share of an average client."""
    several = len({run.attack for run in runs}) > 1
    ax.axhline(1.0, color="black", linewidth=0.6, linestyle=(0, (4, 2)), zorder=1)
    handles, labels, rows = draw_curves(ax, _of_attacks(runs) if several else _curves(runs), bands=not several)
    ax.set_title("weight given to attackers")
    ax.set_ylabel("multiple of a fair share" + (",\nmean of the attacks" if several else ""))
    ax.set_xlabel("communication round")
    whole_ticks(ax.xaxis)
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
    return [{"panel": "weight", **_counted(row, runs, several)} for row in rows]


def _curves(runs: Sequence[AttackedRun]) -> list[Curve]:
    return [Curve(run.column, run.rounds, run.share) for run in runs]


def _of_attacks(runs: Sequence[AttackedRun]) -> list[Curve]:
    """For each column a curve per attack: the mean over its runs, over the rounds that any of them has."""
    made = []
    for column, attack in dict.fromkeys((run.column, run.attack) for run in runs):
        own = [run for run in runs if (run.column, run.attack) == (column, attack)]
        rounds = np.unique(np.concatenate([run.rounds[np.isfinite(run.share)] for run in own]))
        table = np.full((len(own), len(rounds)), np.nan)
        for k, run in enumerate(own):
            known = np.isfinite(run.share)
            table[k, np.searchsorted(rounds, run.rounds[known])] = run.share[known]
        made.append(Curve(column, rounds, np.nanmean(table, axis=0)))
    return made


def _counted(row: Row, runs: Sequence[AttackedRun], several: bool) -> Row:
    """How many attacks and runs stand behind a point; of several attacks the deviation is that of their means."""
    there = [r for r in runs if r.column == row["label"] and row["round"] in r.rounds[np.isfinite(r.share)]]
    return {**row, "attacks": row["runs"] if several else 1, "runs": len(there)}


def _rows(cells: _Cells, attacks: list[str], columns: list[str]) -> list[Row]:
    """One row per cell of the matrix."""
    return [
        {
            "panel": "drop",
            "attack": attack,
            "label": column,
            "value": float(cells.mean[a, c]),
            "std": float(cells.std[a, c]),
            "runs": int(cells.counts[a, c]),
        }
        for a, attack in enumerate(attacks)
        for c, column in enumerate(columns)
    ]
