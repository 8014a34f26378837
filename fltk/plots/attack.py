"""What attacks cost: accuracy lost by attack and method, and the weight that attackers get, round by round."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from fltk.errors import FltkError
from fltk.evaluation.statistics import sample_std
from fltk.objectives import ACCURACY, Measure
from fltk.plots.captions import add_caption, seeds_caption
from fltk.plots.lines import Curve, draw_lines, mean_lines
from fltk.plots.matrix import Matrix, draw_matrix, matrix_height
from fltk.plots.method_styles import LineStyle, line_styles
from fltk.plots.style import COLUMN, DOUBLE, Array, Row, new_figure, paper, whole_ticks

LINE = 18  # characters of a name
NARROWEST_LINES = 2.3  # inches of height for the lines next to a matrix
LINES_BELOW = 2.0  # inches of height for the lines below a matrix
ONE_LABEL = 0.14  # inches of a legend's line


@dataclass(frozen=True)
class AttackedRun:
    """One run under attack: what it is called in rows and columns, and what the attack did.

    drop: accuracy (a fraction) that benign clients lost against the unattacked baseline, NaN where unknown.  rounds,
    share: (R,) the weight of attackers over a fair share, empty where it was not recorded.  data: data set and
    partition, whose runs have a matrix of their own.  method: gives colour and marker, by default the column does.
    """

    attack: str
    column: str
    drop: float
    rounds: Array
    share: Array
    data: str = ""
    method: str = ""
    seed: int | None = None
    measure: Measure = ACCURACY

    @property
    def weighed(self) -> bool:
        """Whether the weight of attackers is known at some round."""
        return bool(np.isfinite(self.share).any())


@dataclass(frozen=True)
class _Cells:
    """(A, M) by attack and column: mean drop and its sample standard deviation over `counts` runs, NaN for unknown."""

    mean: Array
    std: Array
    counts: Array


@dataclass(frozen=True)
class _Block:
    """What is drawn of one data set: its matrix, and the runs whose lines are drawn."""

    data: str
    attacks: tuple[str, ...]
    columns: tuple[str, ...]
    cells: _Cells
    weighed: tuple[AttackedRun, ...]
    title: str
    percent: bool  # whether what was lost is a fraction

    def matrix(self, *, upright: bool) -> Matrix:
        """Attacks x methods; methods x attacks where it stands upright."""
        down, across = _folded(self.attacks), _folded(self.columns)
        if upright:
            return Matrix(self.cells.mean.T, self.cells.std.T, across, down, self.percent)
        return Matrix(self.cells.mean, self.cells.std, down, across, self.percent)


def attack_figure(runs: Sequence[AttackedRun], *, width: float | None = None) -> tuple[Figure, list[Row]]:
    """A matrix of lost accuracy in points, attacks x methods, and beside it the attackers' weight over rounds.

    Each data set and partition has a matrix and lines of its own. Runs of one cell (seeds) are averaged; their standard
    deviation stands below the mean. A line is the mean over a column's runs, with a band of one standard deviation
    where there is one attack; of several it is the mean of their means. Attacks and columns are drawn in the order of
    the runs. Where the width (in inches) leaves no room next to the matrix, the lines stand below it, and it is drawn
    methods x attacks. FltkError without runs.
    """
    if not runs:
        raise FltkError("no attacked run to draw: fltk attack makes one")
    blocks = _blocks(runs)
    styles = line_styles((run.column, run.method or run.column.partition(" ")[0]) for run in runs)
    upright = width is not None and width < DOUBLE
    wide = width or _own_width(blocks)
    heights = [_height(block, wide, upright=upright) for block in blocks]
    top = max(_largest(block) for block in blocks)

    rows: list[Row] = []
    with paper():
        figure = new_figure(wide, sum(heights))
        parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False).flat
        for block, part in zip(blocks, parts, strict=True):
            _draw_block(part, block, styles, top=top, upright=upright)
            rows += _cell_rows(block)
            if block.weighed:
                rows += _weight_rows(block)
        add_caption(figure, [_caption(runs, blocks)])
    return figure, rows


# What is drawn


def _blocks(runs: Sequence[AttackedRun]) -> list[_Block]:
    """The runs by data set, in their order."""
    by_data: dict[str, list[AttackedRun]] = {}
    for run in runs:
        by_data.setdefault(run.data, []).append(run)

    blocks = []
    for data, own in by_data.items():
        attacks = tuple(dict.fromkeys(run.attack for run in own))
        columns = tuple(dict.fromkeys(run.column for run in own))
        weighed = tuple(run for run in own if run.weighed)
        measure = own[0].measure
        title = "accuracy lost by benign clients (points)"
        if not measure.fraction:
            title = f"{measure.title} that benign clients have more"
        cells = _cells(own, attacks, columns)
        blocks.append(_Block(data, attacks, columns, cells, weighed, title, measure.fraction))
    return blocks


def _cells(runs: Sequence[AttackedRun], attacks: Sequence[str], columns: Sequence[str]) -> _Cells:
    drops: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        if not math.isnan(run.drop):
            place = (attacks.index(run.attack), columns.index(run.column))
            drops.setdefault(place, []).append(run.drop)

    shape = (len(attacks), len(columns))
    cells = _Cells(np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.int64))
    for place, found in drops.items():
        cells.mean[place] = np.mean(found)
        cells.std[place] = sample_std(found)
        cells.counts[place] = len(found)
    return cells


def _folded(names: Sequence[str]) -> list[str]:
    """Names in lines that leave the matrix its room."""
    return [textwrap.fill(name, LINE, break_on_hyphens=False) for name in names]


def _largest(block: _Block) -> float:
    known = np.abs(block.cells.mean[np.isfinite(block.cells.mean)])
    return float(known.max()) if known.size else 0.0


# Sizes


def _own_width(blocks: Sequence[_Block]) -> float:
    """Inches of a figure whose width was not asked for."""
    if any(block.weighed for block in blocks):
        return DOUBLE
    most = max(len(block.columns) for block in blocks)
    return max(COLUMN, 0.55 * most + 1.2)


def _height(block: _Block, width: float, *, upright: bool) -> float:
    """Inches of a block, with its title and legend."""
    title = 0.2 if block.data else 0.0
    matrix = matrix_height(block.matrix(upright=upright), width)
    if not block.weighed:
        return title + matrix
    if not upright:
        return title + max(matrix, NARROWEST_LINES)
    labels = len({run.column for run in block.weighed})
    return title + matrix + LINES_BELOW + ONE_LABEL * math.ceil(labels / 2)


# Drawing


def _draw_block(part: SubFigure, block: _Block, styles: Mapping[str, LineStyle], *, top: float, upright: bool) -> None:
    """The matrix of one data set and, where known, its lines next to it or below it."""
    if block.data:
        part.suptitle(block.data, fontsize=7.5, fontweight="bold")
    matrix = block.matrix(upright=upright)
    title = block.title
    if not block.weighed:
        draw_matrix(part.add_subplot(), matrix, top=top, title=title)
        return

    if upright:
        tall = matrix_height(matrix, float(part.get_figure(root=True).get_size_inches()[0]))
        axes = part.subplots(2, 1, height_ratios=[tall, LINES_BELOW])
    else:
        axes = part.subplots(1, 2, width_ratios=[0.45 * len(block.columns) + 1.2, 3.0])
    draw_matrix(axes[0], matrix, top=top, title=title)
    _draw_weights(axes[1], block, styles, below=upright)


def _draw_weights(ax: Axes, block: _Block, styles: Mapping[str, LineStyle], *, below: bool) -> None:
    """The lines of the second panel, and a rule at 1, the share of an average client."""
    several = _several(block)
    lines = mean_lines(_curves(block))
    ax.axhline(1.0, color="black", linewidth=0.6, linestyle=(0, (4, 2)), zorder=1)
    handles = draw_lines(ax, list(lines.values()), styles, bands=not several)
    ax.set_title("weight given to attackers")
    ax.set_ylabel("multiple of a fair share" + (",\nmean of the attacks" if several else ""))
    ax.set_xlabel("communication round")
    whole_ticks(ax.xaxis)
    ax.set_ylim(0, 1.06 * max(1.0, ax.get_ylim()[1]))
    ax.grid(axis="y")
    ax.margins(x=0.02)
    ax.legend(
        list(handles.values()),
        list(handles),
        loc="upper center" if below else "upper left",
        bbox_to_anchor=(0.4, -0.3) if below else (1.0, 1.02),
        ncols=2 if below else 1,
        fontsize=6.5,
        handlelength=2.0,
    )


def _several(block: _Block) -> bool:
    return len({run.attack for run in block.weighed}) > 1


def _curves(block: _Block) -> list[Curve]:
    """A curve for each run; of several attacks a curve for each attack, so that every attack counts once."""
    if not _several(block):
        return [Curve(run.column, run.rounds, run.share) for run in block.weighed]

    groups: dict[tuple[str, str], list[AttackedRun]] = {}
    for run in block.weighed:
        groups.setdefault((run.column, run.attack), []).append(run)
    return [_mean_curve(column, own) for (column, _), own in groups.items()]


def _mean_curve(column: str, runs: Sequence[AttackedRun]) -> Curve:
    """The mean over runs at each round that any of them has."""
    shares: dict[int, list[float]] = {}
    for run in runs:
        for number, share in zip(run.rounds.tolist(), run.share.tolist(), strict=True):
            if math.isfinite(share):
                shares.setdefault(number, []).append(share)

    rounds = sorted(shares)
    means = [float(np.mean(shares[number])) for number in rounds]
    return Curve(column, np.array(rounds), np.array(means))


def _caption(runs: Sequence[AttackedRun], blocks: Sequence[_Block]) -> str:
    """Seeds of the cells, and what the second number of a cell is."""
    cells = []
    for run in runs:
        name = " ".join(part for part in (run.attack, run.column, run.data) if part)
        cells.append(_Seeded(name, run.data, run.seed))
    spread = any(np.isfinite(block.cells.std).any() for block in blocks)
    return seeds_caption(cells, spread="\u00b1: one standard deviation over seeds." if spread else "")


@dataclass(frozen=True)
class _Seeded:
    """A cell of a matrix, for the caption."""

    label: str
    setting: str
    seed: int | None


# Data


def _cell_rows(block: _Block) -> list[Row]:
    """One row for each cell of the matrix."""
    made: list[Row] = []
    for a, attack in enumerate(block.attacks):
        for c, column in enumerate(block.columns):
            row: Row = {"panel": "drop"} | _named(block)
            row |= {"attack": attack, "label": column}
            row |= {"value": float(block.cells.mean[a, c]), "std": float(block.cells.std[a, c])}
            made.append(row | {"runs": int(block.cells.counts[a, c])})
    return made


def _weight_rows(block: _Block) -> list[Row]:
    """One row for each point of the lines."""
    several = _several(block)
    made: list[Row] = []
    for line in mean_lines(_curves(block)).values():
        for row in line.rows():
            made.append({"panel": "weight"} | _named(block) | _counted(row, block.weighed, several))
    return made


def _named(block: _Block) -> Row:
    """The block's data set, where the figure has several."""
    return {"data": block.data} if block.data else {}


def _counted(row: Row, runs: Sequence[AttackedRun], several: bool) -> Row:
    """How many attacks and runs a point is the mean of; of several attacks the deviation is that of their means."""
    there = 0
    for run in runs:
        known = run.rounds[np.isfinite(run.share)]
        there += run.column == row["label"] and row["round"] in known
    return {**row, "attacks": row["runs"] if several else 1, "runs": there}
