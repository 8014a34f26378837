"""Who is in which cluster, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fltk.errors import FltkError
from fltk.plots.captions import add_caption, seed_caption
from fltk.plots.categories import Categories, categories, legend_lines, square
from fltk.plots.style import COLUMN, EMPTY, Array, Row, new_figure, paper, thin_ticks


@dataclass(frozen=True)
class Membership:
    """Clusters (R, N) at rounds (R,), NaN for a client that is in none; agreement (R,) and groups (N,) or None."""

    rounds: Array
    clusters: Array
    groups: Array | None = None
    agreement: Array | None = None


def cluster_membership(data: Membership, *, width: float = COLUMN, seed: int | None = None) -> tuple[Figure, list[Row]]:
    """One row per client, by known group, and one column per round; colours are clusters, grey is none yet.

    Where groups are known, their agreement with the clusters (adjusted Rand index) is drawn above. Rounds need not be
    consecutive. seed: of the run, for the caption. width in inches. FltkError when no client was ever in a cluster.
    """
    table = np.asarray(data.clusters, np.float64)
    if not np.isfinite(table).any():
        raise FltkError("no clusters to draw: no client was in one up to the last round")
    n, known = table.shape[1], table[np.isfinite(table)].astype(int)
    order = np.arange(n) if data.groups is None else np.lexsort((np.arange(n), np.asarray(data.groups)))
    found = categories(known.tolist())
    with paper():
        top = 0.5 if data.agreement is not None else 0.0
        figure = new_figure(width, 0.45 + top + float(np.clip(0.07 * n, 0.5, 2.4)))
        ax = _axes(figure, data, top)
        _cells(ax, table[:, order], np.asarray(data.rounds), found)
        _names(ax, data.groups, order)
        marks = [square(found.color(value)) for value in found.listed]
        entries = [str(value) for value in found.listed]
        if not np.isfinite(table).all():
            marks, entries = [*marks, square(EMPTY)], [*entries, "none"]
        legend_lines(figure, [("cluster", marks, entries)])
        agreement = "ARI: adjusted Rand index of clusters and true groups." if data.agreement is not None else ""
        add_caption(figure, [agreement, seed_caption(seed)])
    return figure, _rows(data, order)


def _axes(figure: Figure, data: Membership, top: float) -> Axes:
    """The axes of the cells, with those of the agreement drawn above them."""
    if data.agreement is None:
        return figure.add_subplot()
    height = float(figure.get_size_inches()[1])
    ax: Axes
    above, ax = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [top, height - top]})
    above.plot(data.rounds, data.agreement, color="black", linewidth=1.0, marker=".", markersize=2.5)
    above.set_ylim(-0.12, 1.12)
    above.set_yticks([0, 1])
    above.set_ylabel("ARI")
    above.grid(axis="y")
    above.tick_params(labelbottom=False)
    return ax


def _cells(ax: Axes, table: Array, rounds: Array, found: Categories) -> None:
    """Every round's cells reach to the middle between it and its neighbours."""
    number = np.full(table.shape, np.nan)
    for k, value in enumerate(found.values):
        number[table == value] = k
    colors = ListedColormap(list(found.colors)).with_extremes(bad=EMPTY)
    middle = (rounds[1:] + rounds[:-1]) / 2
    edges = np.concatenate([[rounds[0] - 0.5], middle, [rounds[-1] + 0.5]])
    norm = BoundaryNorm(np.arange(len(found.values) + 1) - 0.5, len(found.values))
    rows = np.arange(table.shape[1] + 1) - 0.5
    ax.pcolormesh(edges, rows, np.ma.masked_invalid(number.T), cmap=colors, norm=norm, rasterized=True)
    if table.shape[1] <= 60:  # thin gaps tell neighbours of one cluster apart
        ax.hlines(rows[1:-1], edges[0], edges[-1], color="white", linewidth=0.4)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(table.shape[1] - 0.5, -0.5)
    ax.set_xlabel("communication round")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def _names(ax: Axes, groups: Array | None, order: Array) -> None:
    """Clients by number; by group where groups are blocks of several clients, with lines between them."""
    for spine in ("left", "bottom"):
        ax.spines[spine].set_visible(False)
    if groups is None or len(np.unique(groups)) > 15:
        ax.set_ylabel("client")
        thin_ticks(ax.yaxis, [str(client) for client in order], 10)
        return
    sorted_groups = np.asarray(groups)[order]
    values, starts, sizes = np.unique(sorted_groups, return_index=True, return_counts=True)
    ax.set_yticks(starts + (sizes - 1) / 2, [str(int(value)) for value in values])
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel("client, by known group")
    for place in starts[1:] - 0.5:
        ax.axhline(place, color="black", linewidth=0.9)


def _rows(data: Membership, order: Sequence[int] | Array) -> list[Row]:
    """One row per drawn cell."""
    groups = None if data.groups is None else np.asarray(data.groups)
    rows: list[Row] = []
    for at, number in enumerate(np.asarray(data.rounds)):
        for client in order:
            row: Row = {"round": int(number), "client": int(client)}
            if groups is not None:
                row["group"] = int(groups[client])
            row["cluster"] = float(data.clusters[at, client])
            if data.agreement is not None:
                row["ari"] = float(data.agreement[at])
            rows.append(row)
    return rows
