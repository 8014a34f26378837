"""Who learns from whom: the collaboration map at chosen rounds beside the similarity of labels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from fltk.errors import FltkError
from fltk.plots.style import ALERT, DOUBLE, EMPTY, Array, Row, new_figure, paper, thin_ticks


@dataclass(frozen=True)
class MapPanel:
    """The map of one round: weights (N, N), row = receiving client, column = contributing client.

    `part` names the layer or part of the model that the map is of; empty for the whole model. `alignment` is its
    row-wise Spearman correlation with label similarity and `p_value` the permutation test of it
    (`fltk.metrics.attention_alignment`); NaN where unknown.
    """

    round: int
    weights: Array
    alignment: float = math.nan
    p_value: float = math.nan
    part: str = ""


@dataclass(frozen=True)
class Clients:
    """What is known of N clients: similarity (N, N) in [0, 1], groups, malicious (bool) and ids, all (N,)."""

    similarity: Array | None = None
    groups: Array | None = None
    malicious: Array | None = None
    ids: Array | None = None


def spread_rounds(available: Sequence[int], count: int = 4) -> tuple[int, ...]:
    """At most `count` of the rounds, evenly spread, with the first and the last."""
    rounds = sorted(set(available))
    places = np.linspace(0, len(rounds) - 1, min(count, len(rounds))).round().astype(int)
    return tuple(rounds[place] for place in places)


def order_clients(clients: Clients, n: int) -> Array:
    """The order in which clients are drawn: (n,) indices.

    By group and then id; without groups so that similar clients are neighbours (average linkage, optimal leaf
    order), clients without samples last; without either by index.
    """
    if clients.groups is not None:
        return np.lexsort((np.arange(n), np.asarray(clients.groups)))
    if clients.similarity is None:
        return np.arange(n)
    similarity = np.asarray(clients.similarity, dtype=np.float64)
    known = np.isfinite(np.diagonal(similarity))
    inside, outside = np.flatnonzero(known), np.flatnonzero(~known)
    if len(inside) < 3:
        return np.concatenate([inside, outside])
    distance = squareform(1.0 - similarity[np.ix_(inside, inside)], checks=False)
    leaves = leaves_list(linkage(distance, method="average", optimal_ordering=True))
    # A tree may be read from either end; the smaller index first makes the figure stable.
    leaves = leaves if leaves[0] <= leaves[-1] else leaves[::-1]
    return np.concatenate([inside[leaves], outside])


def colour_limit(panels: Sequence[MapPanel]) -> float:
    """The top of the common colour scale: the largest off-diagonal weight of all panels.

    The diagonal often holds most of the weight; a scale that reached it would leave everything else dark.
    """
    largest = 0.0
    for panel in panels:
        off = np.array(panel.weights, dtype=np.float64)
        np.fill_diagonal(off, np.nan)
        if np.isfinite(off).any():
            largest = max(largest, float(np.nanmax(off)))
    return largest if largest > 0 else 1.0


def attention_maps(
    panels: Sequence[MapPanel], clients: Clients | None = None, *, width: float = DOUBLE
) -> tuple[Figure, list[Row]]:
    """Maps side by side on one colour scale and, where known, the label similarity.

    Cells above the scale (as a rule on the diagonal, which is outlined) are white. Lines separate groups;
    triangles and crosses mark malicious clients. width in inches. FltkError without panels.
    """
    if not panels:
        raise FltkError("no collaboration map to draw: the run stored none at these rounds")
    clients = clients or Clients()
    n = len(panels[0].weights)
    order = order_clients(clients, n)
    names, by_group = _tick_names(clients, order)
    limit = colour_limit(panels)
    with paper():
        note = _note(panels, width)
        grid = _grid(width, len(panels) + (clients.similarity is not None), note.count("\n") + bool(note))
        figure = new_figure(width, grid.height)
        figure.set_layout_engine("none")  # placed in inches: square panels and their bars must line up
        axes = [figure.add_axes(grid.panel(k)) for k in range(grid.count)]
        images = [_draw_map(ax, panel, limit, order) for ax, panel in zip(axes, panels, strict=False)]
        if clients.similarity is not None:
            images.append(_draw_similarity(axes[-1], np.asarray(clients.similarity)[np.ix_(order, order)]))
        for k, ax in enumerate(axes):
            _ticks(ax, n, names, grid.side, first=k % grid.columns == 0)
            _decorate(ax, clients, order)
        _bars(figure, grid, images, len(panels))
        _labels(figure, grid, clients, note, by_group)
    return figure, map_rows(panels, clients, order)


# Placement, in inches

_LEFT, _RIGHT, _TITLE, _TICKS, _LINE, _BARS = 0.42, 0.1, 0.34, 0.17, 0.14, 0.5
_GAP = 0.13


@dataclass(frozen=True)
class _Grid:
    """Square panels of one size, a strip of colour bars and the notes under them."""

    count: int
    columns: int
    lines: int
    side: float
    width: float
    notes: int

    @property
    def height(self) -> float:
        return self.base + self.lines * (self.side + _TITLE) + (self.lines - 1) * _TICKS

    @property
    def base(self) -> float:
        """From the lower edge of the figure to the lowest panels."""
        return self.bars + _BARS - 0.06 + _LINE + _TICKS

    @property
    def bars(self) -> float:
        """From the lower edge of the figure to the strip of colour bars."""
        return self.notes * _LINE + 0.06

    @property
    def left(self) -> float:
        return _LEFT + (self.width - _LEFT - _RIGHT - self.span) / 2

    @property
    def span(self) -> float:
        return self.columns * self.side + (self.columns - 1) * _GAP

    def box(self, x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        """Inches to fractions of the figure."""
        return x / self.width, y / self.height, w / self.width, h / self.height

    def panel(self, k: int) -> tuple[float, float, float, float]:
        line, column = divmod(k, self.columns)
        y = self.base + (self.lines - 1 - line) * (self.side + _TITLE + _TICKS)
        return self.box(self.left + column * (self.side + _GAP), y, self.side, self.side)


def _grid(width: float, count: int, notes: int) -> _Grid:
    room = width - _LEFT - _RIGHT
    lines = math.ceil(count / max(1, int(room / 1.25)))
    columns = math.ceil(count / lines)
    side = min(1.9, (room - (columns - 1) * _GAP) / columns)
    return _Grid(count, columns, lines, side, width, notes)


# Drawing


def _cmap(name: str) -> Colormap:
    return matplotlib.colormaps[name].with_extremes(over="white", bad=EMPTY)


def _draw_map(ax: Axes, panel: MapPanel, limit: float, order: Array) -> AxesImage:
    table = np.asarray(panel.weights, dtype=np.float64)[np.ix_(order, order)]
    image = ax.imshow(table, cmap=_cmap("viridis"), vmin=0.0, vmax=limit, interpolation="nearest")
    ax.set_title(panel_title(panel), linespacing=1.25)
    return image


def panel_title(panel: MapPanel) -> str:
    """Two lines: the round and the part, the alignment."""
    part = f"layer {panel.part}" if panel.part[:1].isdigit() else panel.part
    title = f"round {panel.round}" + (f", {part}" if part else "")
    if not math.isnan(panel.alignment):
        title += f"\n$\\rho$ = {panel.alignment:.2f}".replace("-", "\u2212")
        title += "" if math.isnan(panel.p_value) else f", $p$ = {panel.p_value:.3f}"
    return title


def _draw_similarity(ax: Axes, table: Array) -> AxesImage:
    ax.set_title("label similarity")
    return ax.imshow(table, cmap=_cmap("cividis"), vmin=0.0, vmax=1.0, interpolation="nearest")


def _tick_names(clients: Clients, order: Array) -> tuple[list[str], bool]:
    """A name for each drawn client, and whether it is its group's (which says more than a few ids)."""
    if clients.groups is not None and len(order) > 10 and len(np.unique(clients.groups)) <= 10:
        return [str(int(group)) for group in np.asarray(clients.groups)[order]], True
    ids = order if clients.ids is None else np.asarray(clients.ids)[order]
    return [str(int(i)) for i in ids], False


def _ticks(ax: Axes, n: int, names: list[str], side: float, *, first: bool) -> None:
    groups, starts, sizes = np.unique(names, return_index=True, return_counts=True)
    for axis in (ax.xaxis, ax.yaxis):
        if len(groups) < n:
            axis.set_ticks(starts + (sizes - 1) / 2, list(groups), fontsize=6.5)
        else:
            thin_ticks(axis, names, int(side / 0.125))
    if len(groups) < n:
        ax.tick_params(length=0)
    else:
        ax.tick_params(labelsize=6.0)
    ax.tick_params(labelleft=first)


def _decorate(ax: Axes, clients: Clients, order: Array) -> None:
    for spine in ax.spines.values():
        spine.set_visible(True)
    _outline_diagonal(ax, len(order))
    if clients.groups is not None:
        _borders(ax, np.asarray(clients.groups)[order])
    if clients.malicious is not None:
        _mark_malicious(ax, np.flatnonzero(np.asarray(clients.malicious)[order]), len(order))


def _outline_diagonal(ax: Axes, n: int) -> None:
    """A thin staircase around the diagonal cells; with many clients it would hide its neighbours."""
    if n > 40:
        return
    edges = np.repeat(np.arange(n + 1) - 0.5, 2)
    for x, y in ((edges[1:], edges[:-1]), (edges[:-1], edges[1:])):
        ax.plot(x, y, color="#888888", linewidth=0.35, solid_joinstyle="miter")
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n - 0.5, -0.5)


def _borders(ax: Axes, groups: Array) -> None:
    """White inside black, so that the lines show on dark and on bright cells."""
    for place in np.flatnonzero(np.diff(groups)) + 0.5:
        for color, line_width in (("black", 1.3), ("white", 0.6)):
            ax.axhline(place, color=color, linewidth=line_width)
            ax.axvline(place, color=color, linewidth=line_width)


def _mark_malicious(ax: Axes, places: Array, n: int) -> None:
    """Triangles over columns and beside rows, which leave the cells readable, and a cross on the diagonal."""
    size = float(np.clip(200 / n, 4.0, 10.0))
    ax.set_title(ax.get_title(), pad=6.5, linespacing=1.25)
    edge = np.full(len(places), 1.03)
    sides = (("v", places, edge, ax.get_xaxis_transform()), ("<", edge, places, ax.get_yaxis_transform()))
    for marker, x, y, transform in sides:
        ax.scatter(x, y, marker=marker, transform=transform, color=ALERT, s=size, linewidths=0, clip_on=False)
    ax.scatter(places, places, marker="x", color=ALERT, s=0.8 * size, linewidths=0.8, zorder=5)


def _bars(figure: Figure, grid: _Grid, images: list[AxesImage], maps: int) -> None:
    """Horizontal colour bars in one strip: under their panels if these form one line, else side by side."""
    similar = len(images) > maps
    below = grid.lines == 1
    room = maps * (grid.side + _GAP) - _GAP if below else grid.span * (0.5 if similar else 1.0)
    length = min(room, 2.6)
    _bar(figure, grid, images[:maps], (grid.left + (room - length) / 2, length), "weight")
    if similar:
        length = grid.side if below else grid.span * 0.4
        _bar(figure, grid, images[maps:], (grid.left + grid.span - length, length), "1 \u2212 JS divergence")


def _bar(figure: Figure, grid: _Grid, images: list[AxesImage], place: tuple[float, float], label: str) -> None:
    limit = images[0].norm.vmax
    over = any(bool(np.any(np.ma.asarray(image.get_array()).filled(0.0) > limit)) for image in images)
    x, length = place
    ax = figure.add_axes(grid.box(x, grid.bars + 0.3, length, 0.075))
    bar = figure.colorbar(images[0], cax=ax, orientation="horizontal", extend="max" if over else "neither")
    bar.locator = MaxNLocator(max(2, round(length / 0.42)), steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.set_label(label)


def _note(panels: Sequence[MapPanel], width: float) -> str:
    if all(math.isnan(panel.alignment) for panel in panels):
        return ""
    text = "mean row-wise Spearman correlation with label similarity, off the diagonal"
    return "$\\rho$: " + "\n".join(textwrap.wrap(text, int(width / 0.062)))


def _labels(figure: Figure, grid: _Grid, clients: Clients, note: str, by_group: bool) -> None:
    extra = ", by group" if by_group else ""
    centre = (grid.left + grid.span / 2) / grid.width
    middle = (grid.base + (grid.height - _TITLE - grid.base) / 2) / grid.height
    under = (grid.base - _TICKS - 0.02) / grid.height
    figure.text(centre, under, f"contributing client{extra}", ha="center", va="top")
    figure.text(
        (grid.left - 0.2) / grid.width,
        middle,
        f"receiving client{extra}",
        ha="right",
        va="center",
        rotation=90,
    )
    figure.text(centre, 0.04 / grid.height, note, ha="center", va="bottom", fontsize=7, linespacing=1.2)
    if clients.malicious is not None and np.any(clients.malicious):
        mark = Line2D([], [], linestyle="", marker="v", color=ALERT, markersize=3.5, markeredgewidth=0)
        corner = ((grid.left + grid.span) / grid.width, under)
        figure.legend([mark], ["malicious"], loc="upper right", bbox_to_anchor=corner, borderpad=0, handlelength=1)


def map_rows(panels: Sequence[MapPanel], clients: Clients, order: Array) -> list[Row]:
    """One row per drawn cell, in drawing order."""
    rows = []
    for panel in panels:
        head: Row = {"panel": "weight", "round": panel.round} | ({"part": panel.part} if panel.part else {})
        tail: Row = {"alignment": panel.alignment, "p_value": panel.p_value}
        rows += [head | cell | tail for cell in _cells(np.asarray(panel.weights), clients, order)]
    if clients.similarity is not None:
        head = {"panel": "label-similarity", "round": None}
        rows += [head | cell for cell in _cells(np.asarray(clients.similarity), clients, order)]
    return rows


def _cells(table: Array, clients: Clients, order: Array) -> list[Row]:
    described = [_description(clients, int(client)) for client in order]
    return [
        {f"receiver{key}": value for key, value in described[row].items()}
        | {f"contributor{key}": value for key, value in described[column].items()}
        | {"value": float(table[order[row], order[column]])}
        for row in range(len(order))
        for column in range(len(order))
    ]


def _description(clients: Clients, client: int) -> Row:
    row: Row = {"": client if clients.ids is None else int(clients.ids[client])}
    if clients.groups is not None:
        row["_group"] = int(clients.groups[client])
    if clients.malicious is not None:
        row["_malicious"] = bool(clients.malicious[client])
    return row
