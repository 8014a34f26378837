"""Who holds which labels: one bubble per client and label, its area in proportion to the samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fltk.errors import FltkError
from fltk.plots.captions import add_caption, seeds_told
from fltk.plots.style import COLUMN, PALETTE, Array, Row, new_figure, paper, thin_ticks

SMALLEST = 0.8  # square points of a bubble


@dataclass(frozen=True)
class PartitionTable:
    """counts (N, C) training samples; the last `newcomers` clients never train; groups (N,) where known."""

    counts: Array
    classes: tuple[str, ...]
    newcomers: int = 0
    groups: Array | None = None
    ids: Array | None = None


def partition_bubbles(
    table: PartitionTable, *, width: float = COLUMN, seed: int | None = None
) -> tuple[Figure, list[Row]]:
    """Clients on x (by group, then id; newcomers last, after a line), labels on y.

    seed: of the partition, for the caption. width in inches. FltkError without samples.
    """
    counts = np.asarray(table.counts)
    if not counts.size or counts.max() <= 0:
        raise FltkError("the partition holds no training samples to draw")
    order = _order(table)
    rows = _rows(table, order)
    n, n_classes = counts.shape
    height = _height(n_classes)
    with paper():
        figure = new_figure(width, height)
        ax = figure.add_subplot()
        scale = _area_per_sample(table, width, height)
        ax.scatter(
            [row["position"] for row in rows],
            [row["class"] for row in rows],
            s=[_area(row["samples"], scale) for row in rows],
            c=[_colour(table, row) for row in rows],
            linewidths=0,
            alpha=0.85,
            clip_on=False,
        )
        _axes(ax, table, order, width, height)
        if table.groups is not None:
            _group_marks(ax, np.asarray(table.groups)[order[: n - table.newcomers]])
        if table.newcomers:
            _newcomer_mark(ax, n, table.newcomers, line=int(table.groups is not None))
        _size_legend(figure, int(counts.max()), scale)
        add_caption(figure, [f"Partition {seeds_told([seed])}." if seed is not None else ""])
    return figure, rows


def _order(table: PartitionTable) -> Array:
    n = len(table.counts)
    newcomer = np.arange(n) >= n - table.newcomers
    groups = np.zeros(n) if table.groups is None else np.asarray(table.groups)
    return np.lexsort((np.arange(n), groups, newcomer))


def _rows(table: PartitionTable, order: Array) -> list[Row]:
    """One row per bubble, in drawing order."""
    n, rows = len(order), []
    for position, client in enumerate(order):
        for label in np.flatnonzero(table.counts[client]):
            row: Row = {
                "position": position,
                "client": int(client if table.ids is None else table.ids[client]),
                "newcomer": bool(client >= n - table.newcomers),
                "class": int(label),
                "label": table.classes[label],
                "samples": int(table.counts[client, label]),
            }
            if table.groups is not None:
                row["group"] = int(table.groups[client])
            rows.append(row)
    return rows


def _height(n_classes: int) -> float:
    """Inches: every label has its line up to about 25 of them, more share the page."""
    return float(np.clip(max(min(0.11 * n_classes + 1.0, 3.6), 0.07 * n_classes + 1.0), 1.8, 6.5))


def _area_per_sample(table: PartitionTable, width: float, height: float) -> float:
    """Square points per sample: the largest bubble fills its cell, or more where cells are tiny."""
    counts = np.asarray(table.counts)
    n, n_classes = counts.shape
    cell_width, cell_height = 72 * _room(table, width) / n, 72 * (height - 0.9) / n_classes
    diameter = min(1.05 * cell_height, max(cell_width, 5.0))
    return float(diameter**2 / counts.max())


def _area(samples: int, scale: float) -> float:
    """Square points of a bubble; the smallest are larger than in proportion, so that none vanishes."""
    return max(samples * scale, SMALLEST)


def _room(table: PartitionTable, width: float) -> float:
    """Inches that label names and the legend leave to the clients."""
    return max(0.8, width - 1.0 - 0.058 * max(len(name) for name in table.classes))


def _colour(table: PartitionTable, row: Row) -> str:
    return PALETTE[row["group"] % len(PALETTE)] if table.groups is not None else PALETTE[0]


def _axes(ax: Axes, table: PartitionTable, order: Array, width: float, height: float) -> None:
    n, n_classes = np.asarray(table.counts).shape
    ids = order if table.ids is None else np.asarray(table.ids)[order]
    names = [str(int(i)) for i in ids]
    room = 0.07 + 0.062 * max(len(name) for name in names)  # inches that a client's name takes
    thin_ticks(ax.xaxis, names, int(_room(table, width) / room))
    thin_ticks(ax.yaxis, list(table.classes), int((height - 0.8) / 0.105))
    radius = 2.5 * n / (72 * _room(table, width))  # of the largest bubbles, in clients, where these are many
    ax.set_xlim(-0.2 - max(0.6, radius), n - 0.8 + max(0.6, radius))
    ax.set_ylim(-0.8, n_classes - 0.2)
    ax.set_xlabel("client")
    ax.set_ylabel("label")
    ax.grid()


def _over(ax: Axes, x: float, text: str, line: int = 0) -> None:
    """A note over the axes at this client position, on this line counted from below."""
    ax.annotate(
        text,
        xy=(x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 1.5 + 9 * line),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        annotation_clip=False,
    )


def _group_marks(ax: Axes, groups: Array) -> None:
    names, starts, sizes = np.unique(groups, return_index=True, return_counts=True)
    for name, start, size in zip(names, starts, sizes, strict=True):
        if start:
            ax.axvline(start - 0.5, color="#999999", linewidth=0.6)
        if len(names) <= 12:
            _over(ax, start + (size - 1) / 2, f"group {int(name)}" if len(names) <= 5 else str(int(name)))


def _newcomer_mark(ax: Axes, n: int, newcomers: int, line: int) -> None:
    ax.axvline(n - newcomers - 0.5, color="black", linewidth=0.9, linestyle=(0, (4, 2)))
    _over(ax, n - newcomers + (newcomers - 1) / 2, "newcomers", line)


def _size_legend(figure: Figure, largest: int, scale: float) -> None:
    values = sorted({_rounded(largest * share) for share in (0.1, 0.4, 1.0)})
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            color="#555555",
            markeredgewidth=0,
            markersize=_area(v, scale) ** 0.5,
        )
        for v in values
    ]
    names = [f"{value:,}" for value in values]
    figure.legend(handles, names, title="samples", loc="outside right center", title_fontsize=7, handlelength=1.2)


def _rounded(value: float) -> int:
    """The nearest number of one leading digit, at least 1."""
    power = int(10 ** np.floor(np.log10(max(value, 1.0))))
    return max(1, int(value // power) * power)
