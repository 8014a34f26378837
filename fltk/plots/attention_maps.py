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
from matplotlib.ticker import MaxNLocator

from fltk.errors import FltkError
from fltk.plots.captions import CHARACTER_WIDTH, GREY, SIZE, seeds_told, sentence
from fltk.plots.map_data import Clients, MapPanel, MapSet, colour_limit, map_rows, order_clients, spread_rounds
from fltk.plots.map_grid import GAP, TICKS, Grid, grid_of
from fltk.plots.style import ALERT, DOUBLE, EMPTY, Array, Row, new_figure, paper, thin_ticks

__all__ = ["Clients", "MapPanel", "MapSet", "attention_maps", "compare_maps", "panel_title", "spread_rounds"]

TITLE_SIZE = 7.0
LETTER = 0.056  # inches, of a title
FEW_GROUPS = 10  # that ticks name


@dataclass(frozen=True)
class _Tile:
    """One panel: a map, or the similarity of labels. table (N, N) in drawing order."""

    title: str
    table: Array
    clients: Clients
    order: Array
    similarity: bool = False


def attention_maps(
    panels: Sequence[MapPanel], clients: Clients | None = None, *, width: float = DOUBLE, seed: int | None = None
) -> tuple[Figure, list[Row]]:
    """Maps of one run side by side on one colour scale and, where known, the label similarity.

    A title has the round, and what the map found: the share of the weight on other clients that stays inside the true
    groups, with that of a uniform map; where groups are unknown, the correlation with label similarity. Cells above the
    scale (as a rule on the diagonal, which is outlined) have its top colour. Lines separate groups; triangles and
    crosses mark malicious clients. width in inches. FltkError without panels.
    """
    return compare_maps([MapSet(panels, clients or Clients(), seed=seed)], width=width)


def compare_maps(sets: Sequence[MapSet], *, width: float = DOUBLE) -> tuple[Figure, list[Row]]:
    """Maps of several runs side by side on one colour scale, drawn as by `attention_maps`.

    The similarity of labels is drawn once for neighbouring runs whose clients are the same. width in inches. FltkError
    without panels.
    """
    panels = [panel for one in sets for panel in one.panels]
    if not panels:
        raise FltkError("no collaboration map to draw: the run stored none at these rounds")
    limit = colour_limit(panels)
    with paper():
        tiles = _tiles(sets, width)
        note = _note(sets, tiles, limit, width)
        lines = max(tile.title.count("\n") + 1 for tile in tiles)
        grid = grid_of(width, _blocks(sets), len(note), title_lines=lines)
        figure = new_figure(width, grid.height)
        figure.set_layout_engine("none")  # placed in inches: square panels and their bars must line up
        images = _draw(figure, grid, tiles, limit)
        _bars(figure, grid, tiles, images)
        _labels(figure, grid, tiles, note)

    rows: list[Row] = []
    for one in sets:
        rows += map_rows(one.panels, one.clients, order_clients(one.clients, len(one.panels[0].weights)), one.label)
    return figure, rows


# What is drawn


def _tiles(sets: Sequence[MapSet], width: float) -> list[_Tile]:
    """The maps, and the similarity of labels after the last run that has these clients."""
    letters = int(grid_of(width, _blocks(sets), 0).side / LETTER)
    tiles = []
    for place, one in enumerate(sets):
        order = order_clients(one.clients, len(one.panels[0].weights))
        cells = np.ix_(order, order)
        for panel in one.panels:
            title = panel_title(panel, one.clients)
            if one.label:
                title = f"{textwrap.fill(one.label, max(12, letters), break_on_hyphens=False)}\n{title}"
            tiles.append(_Tile(title, np.asarray(panel.weights, np.float64)[cells], one.clients, order))
        last = place + 1 == len(sets) or not one.clients.same(sets[place + 1].clients)
        if last and one.clients.similarity is not None:
            table = np.asarray(one.clients.similarity, np.float64)[cells]
            tiles.append(_Tile("label similarity", table, one.clients, order, similarity=True))
    return tiles


def _blocks(sets: Sequence[MapSet]) -> list[int]:
    """How many panels neighbouring runs with the same clients have."""
    counts: list[int] = []
    for place, one in enumerate(sets):
        if place == 0 or not one.clients.same(sets[place - 1].clients):
            counts.append(int(one.clients.similarity is not None))
        counts[-1] += len(one.panels)
    return counts


def panel_title(panel: MapPanel, clients: Clients | None = None) -> str:
    """Two lines: the round and the part, and what the map found."""
    part = f"layer {panel.part}" if panel.part[:1].isdigit() else panel.part
    title = f"round {panel.round}" + (f", {part}" if part else "")
    if clients is not None and clients.groups is not None:
        return f"{title}\n{_inside(panel, clients)}"
    if math.isnan(panel.alignment):
        return title
    title += f"\n$\\rho$ = {panel.alignment:.2f}".replace("-", "\u2212")
    return title if math.isnan(panel.p_value) else f"{title}, $p$ = {panel.p_value:.3f}"


def _inside(panel: MapPanel, clients: Clients) -> str:
    """The share inside the true groups, and that of a uniform map in brackets."""
    found = clients.inside(panel.weights)
    if math.isnan(found):
        return "no weight on others"
    return f"in groups {100 * found:.0f} % ({100 * clients.inside_uniform(len(panel.weights)):.0f} %)"


def _note(sets: Sequence[MapSet], tiles: Sequence[_Tile], limit: float, width: float) -> list[str]:
    """The caption, in lines."""
    maps = [tile for tile in tiles if not tile.similarity]
    sentences = _titles_told(maps)
    if any(_by_similarity(tile) for tile in maps):
        sentences.append("Ticks: client ids; neighbours have similar labels.")
    if any(_has_malicious(tile) for tile in maps):
        sentences.append("Triangles: malicious clients.")
    if any(_exceeds(tile, limit) for tile in maps):
        sentences.append("Weights above the scale, which ends at the largest off the diagonal, have its top colour.")

    seeds = [one.seed for one in sets if one.seed is not None]
    if seeds:
        sentences.append(sentence(seeds_told(seeds)))
    return textwrap.wrap(" ".join(sentences), int((width - 0.1) / CHARACTER_WIDTH))


def _titles_told(maps: Sequence[_Tile]) -> list[str]:
    """What the numbers in the titles are."""
    titles = " ".join(tile.title for tile in maps)
    told = []
    if "in groups" in titles:
        text = "In groups: share of the weight on other clients that stays inside the true groups"
        told.append(f"{text}; in brackets: that of a uniform map.")
    if "rho" in titles:
        told.append("\u03c1: Spearman correlation with label similarity off the diagonal, mean over rows.")
    return told


def _has_malicious(tile: _Tile) -> bool:
    return tile.clients.malicious is not None and bool(np.any(tile.clients.malicious))


def _exceeds(tile: _Tile, limit: float) -> bool:
    return bool(np.nanmax(tile.table, initial=0.0) > limit)


def _by_similarity(tile: _Tile) -> bool:
    """Whether clients are drawn in the order of their labels, so that their ids look shuffled."""
    return tile.clients.groups is None and tile.clients.similarity is not None


# Drawing


def _draw(figure: Figure, grid: Grid, tiles: Sequence[_Tile], limit: float) -> list[AxesImage]:
    """The panels, each with its ticks and marks."""
    images = []
    for place, tile in enumerate(tiles):
        ax = figure.add_axes(grid.panel(place))
        colours, top = ("cividis", 1.0) if tile.similarity else ("viridis", limit)
        images.append(ax.imshow(tile.table, cmap=_cmap(colours), vmin=0.0, vmax=top, interpolation="nearest"))
        ax.set_title(tile.title, linespacing=1.2, fontsize=TITLE_SIZE)
        _ticks(ax, tile, grid.side)
        _decorate(ax, tile)
        ax.tick_params(labelleft=grid.leads(place))
    return images


def _cmap(name: str) -> Colormap:
    return matplotlib.colormaps[name].with_extremes(bad=EMPTY)


def _named_by_group(tile: _Tile) -> bool:
    """Whether ticks name groups, which say more than a few ids."""
    groups = tile.clients.groups
    return groups is not None and len(tile.order) > 10 and len(np.unique(groups)) <= FEW_GROUPS


def _ticks(ax: Axes, tile: _Tile, side: float) -> None:
    """Names of groups in the middle of their clients, or every k-th id."""
    if _named_by_group(tile):
        groups = np.asarray(tile.clients.groups)[tile.order]
        values, starts, sizes = np.unique(groups, return_index=True, return_counts=True)
        names = [str(int(value)) for value in values]
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(starts + (sizes - 1) / 2, names, fontsize=6.5)
        ax.tick_params(length=0)
        return

    ids = tile.order if tile.clients.ids is None else np.asarray(tile.clients.ids)[tile.order]
    names = [str(int(i)) for i in ids]
    for axis in (ax.xaxis, ax.yaxis):
        thin_ticks(axis, names, int(side / 0.13))
    ax.tick_params(labelsize=6.5)


def _decorate(ax: Axes, tile: _Tile) -> None:
    for spine in ax.spines.values():
        spine.set_visible(True)
    _outline_diagonal(ax, len(tile.order))
    if tile.clients.groups is not None:
        _borders(ax, np.asarray(tile.clients.groups)[tile.order])
    if tile.clients.malicious is not None:
        _mark_malicious(ax, np.flatnonzero(np.asarray(tile.clients.malicious)[tile.order]), len(tile.order))


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
    """Triangles over columns and at the right of rows, which leave the cells readable, and a cross on the diagonal."""
    size = float(np.clip(200 / n, 4.0, 10.0))
    edge = np.full(len(places), 1.03)
    ax.set_title(ax.get_title(), pad=6.5, linespacing=1.2, fontsize=TITLE_SIZE)

    over = ax.get_xaxis_transform()
    right = ax.get_yaxis_transform()
    ax.scatter(places, edge, marker="v", transform=over, color=ALERT, s=size, linewidths=0, clip_on=False)
    ax.scatter(edge, places, marker="<", transform=right, color=ALERT, s=size, linewidths=0, clip_on=False)
    ax.scatter(places, places, marker="x", color=ALERT, s=0.8 * size, linewidths=0.8, zorder=5)


def _bars(figure: Figure, grid: Grid, tiles: Sequence[_Tile], images: Sequence[AxesImage]) -> None:
    """Horizontal colour bars in one strip: under their panels if these form one line, else side by side."""
    maps: list[AxesImage] = []
    similar: list[AxesImage] = []
    for image, tile in zip(images, tiles, strict=True):
        (similar if tile.similarity else maps).append(image)

    below = grid.lines == 1
    room = grid.span * (0.5 if similar else 1.0)
    if below:
        room = len(maps) * (grid.side + GAP) - GAP
    length = min(room, 2.6)
    _bar(figure, grid, maps, (grid.left + (room - length) / 2, length), "weight")
    if similar:
        length = grid.side if below else grid.span * 0.4
        _bar(figure, grid, similar, (grid.left + grid.span - length, length), "1 \u2212 JS divergence")


def _bar(figure: Figure, grid: Grid, images: Sequence[AxesImage], place: tuple[float, float], label: str) -> None:
    """place: left edge and length."""
    limit = images[0].norm.vmax
    over = any(bool(np.any(np.ma.asarray(image.get_array()).filled(0.0) > limit)) for image in images)
    x, length = place
    ax = figure.add_axes(grid.box(x, grid.bars + 0.3, length, 0.075))
    bar = figure.colorbar(images[0], cax=ax, orientation="horizontal", extend="max" if over else "neither")
    bar.locator = MaxNLocator(max(2, round(length / 0.42)), steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.set_label(label)


def _labels(figure: Figure, grid: Grid, tiles: Sequence[_Tile], note: Sequence[str]) -> None:
    """Names of the axes, and the caption."""
    order = _order_told(tiles)
    centre = (grid.left + grid.span / 2) / grid.width
    under = (grid.base - TICKS - 0.02) / grid.height
    figure.text(centre, under, f"contributing client{order}", ha="center", va="top")

    middle = (grid.base + (grid.height - grid.title - grid.base) / 2) / grid.height
    side = (grid.left - 0.2) / grid.width
    receiving = f"receiving client{order}" if grid.lines > 1 else "receiving client"
    figure.text(side, middle, receiving, ha="right", va="center", rotation=90)

    text = "\n".join(note)
    figure.text(0.5, 0.04 / grid.height, text, ha="center", va="bottom", fontsize=SIZE, color=GREY, linespacing=1.2)


def _order_told(tiles: Sequence[_Tile]) -> str:
    """In which order clients are drawn, where that is the same in all panels."""
    if all(_named_by_group(tile) for tile in tiles):
        return ", by group"
    if all(_by_similarity(tile) for tile in tiles):
        return ", by label similarity"
    return ""
