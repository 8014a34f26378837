"""Clients as points: their tokens in two dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from fltk.clustering.space import principal
from fltk.errors import FltkError, UsageError
from fltk.plots.captions import add_caption, seed_caption
from fltk.plots.categories import Categories, categories, dot, legend_lines
from fltk.plots.style import COLUMN, MARKERS, Array, Row, new_figure, paper

LEAST = 5  # clients that t-SNE needs
TIE = -1
LONGEST = 12  # characters of a label that a legend has room for


@dataclass(frozen=True)
class Points:
    """Clients in two dimensions: xy (M, 2) and names of the axes, with a share of variance or without."""

    xy: Array
    axes: tuple[str, str]


@dataclass(frozen=True)
class Marks:
    """What is known of M clients: kind (M,) int, its title and names; found clusters (M,), NaN for none; newcomers.

    The kind, as a rule the true group or the most frequent label, is a client's colour, the found cluster its shape.
    """

    kind: Array
    title: str
    names: dict[int, str]
    clusters: Array | None = None
    newcomers: int = 0  # the last ones


def in_plane(rows: Tensor, method: str = "pca", seed: int = 0) -> Points:
    """Directions of tokens (M, d) in two dimensions, by principal components (pca) or t-SNE (tsne).

    t-SNE keeps neighbours and nothing else: distances between its clusters, and their sizes, mean nothing. It starts
    from the principal components. UsageError with fewer than five clients.
    """
    if len(rows) < 2:
        raise UsageError("a single client has no place among others: there is nothing to draw")
    basis = principal(rows, 2 if method == "pca" and len(rows) > 2 else min(50, len(rows)))
    scores = basis.scores.numpy()
    if method == "pca":
        total = float(principal(rows, len(rows)).explained.sum())
        share = [float(v) / total if total > 0 else 0.0 for v in (*basis.explained, torch.zeros(()))][:2]
        xy = np.zeros((len(rows), 2))
        xy[:, : min(2, scores.shape[1])] = scores[:, :2]
        return Points(xy, (f"component 1 ({share[0]:.0%})", f"component 2 ({share[1]:.0%})"))
    if len(rows) < LEAST:
        raise UsageError(f"--projection tsne needs at least {LEAST} clients, not {len(rows)}; use pca")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    flat = TSNE(2, init="pca", perplexity=perplexity, random_state=seed % 2**32).fit_transform(scores)
    return Points(np.asarray(flat, np.float64), ("t-SNE 1", "t-SNE 2"))


def client_embeddings(
    points: Points, marks: Marks, *, width: float = COLUMN, seed: int | None = None
) -> tuple[Figure, list[Row]]:
    """One point per client; newcomers are large and ringed.

    seed: of the run, for the caption. width in inches. FltkError when nothing can be drawn.
    """
    m = len(points.xy)
    if not m or not np.isfinite(points.xy).all():
        raise FltkError("no client has a place to be drawn at: its token is not finite")
    colors = categories(np.asarray(marks.kind).astype(int).tolist())
    shapes = _shapes(marks.clusters)
    with paper():
        figure = new_figure(width, 0.78 * width)
        ax = figure.add_subplot()
        new = np.arange(m) >= m - marks.newcomers
        size = float(np.clip(900 / m, 9, 26))
        for i in np.argsort(new, kind="stable"):  # newcomers last: they are on top
            ax.scatter(
                points.xy[i, 0],
                points.xy[i, 1],
                color=colors.color(int(marks.kind[i])),
                marker=shapes.get(_label(marks.clusters, int(i)), "o"),
                s=2.4 * size if new[i] else size,
                edgecolors="black" if new[i] else "white",
                linewidths=1.0 if new[i] else 0.3,
                zorder=3 if new[i] else 2,
            )
        _axes(ax, points)
        legend_lines(figure, _legends(marks, colors, shapes))
        add_caption(figure, [seed_caption(seed)])
    return figure, _rows(points, marks)


def _axes(ax: Axes, points: Points) -> None:
    ax.set_xlabel(points.axes[0])
    ax.set_ylabel(points.axes[1])
    ax.margins(0.07)
    if points.axes[0].startswith("t-SNE"):
        ax.set_xticks([])
        ax.set_yticks([])
        return
    ax.set_aspect("equal", adjustable="datalim")  # distances are distances
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    ax.grid()


def _label(clusters: Array | None, i: int) -> int | None:
    return None if clusters is None or math.isnan(clusters[i]) else int(clusters[i])


def _shapes(clusters: Array | None) -> dict[int | None, str]:
    """A shape for each found cluster, where there are few enough to tell them apart."""
    if clusters is None:
        return {}
    values = sorted({int(value) for value in clusters if not math.isnan(value)})
    return dict(zip(values, MARKERS, strict=False)) if 1 < len(values) <= len(MARKERS) else {}


def _legends(
    marks: Marks, colors: Categories, shapes: dict[int | None, str]
) -> list[tuple[str, list[Line2D], list[str]]]:
    text = [marks.names.get(value, str(value)) for value in colors.listed]
    lines = [(marks.title, [dot(colors.color(value)) for value in colors.listed], text)]
    grey = "#666666"
    if shapes:
        handles = [dot(grey, marker) for marker in shapes.values()]
        lines.append(("found cluster", handles, [str(value) for value in shapes]))
    if marks.newcomers:
        lines.append(("newcomer", [dot("white", edge="black", size=6.5)], [""]))
    return lines


def _rows(points: Points, marks: Marks) -> list[Row]:
    m = len(points.xy)
    rows: list[Row] = []
    for i, (x, y) in enumerate(points.xy):
        row: Row = {"client": i, "x": float(x), "y": float(y), marks.title.replace(" ", "_"): int(marks.kind[i])}
        if marks.clusters is not None:
            row["cluster"] = float(marks.clusters[i])
        rows.append(row | {"newcomer": int(i >= m - marks.newcomers)})
    return rows


def kind_of(groups: Sequence[int] | None, counts: Array, classes: Sequence[str]) -> tuple[Array, str, dict[int, str]]:
    """Colour by known group, else by the label a client has most of: (M,), a title, and names of the values.

    Clients that have most of several labels, or no sample, are a `TIE`. Labels have names where all are short.
    """
    if groups is not None:
        return np.asarray(groups, np.int64), "group", {}
    table = np.asarray(counts)
    most = table == table.max(1, keepdims=True)
    dominant = np.where(most.sum(1) == 1, most.argmax(1), TIE)
    short = all(len(name) <= LONGEST for name in classes)
    return dominant, "most frequent label", {TIE: "tie"} | (dict(enumerate(classes)) if short else {})
