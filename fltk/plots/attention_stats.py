"""How far maps are from local training and from FedAvg: self-weight and row entropy over the rounds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fltk.errors import FltkError
from fltk.metrics import map_entropy, self_weight
from fltk.plots.captions import add_caption, seeds_caption
from fltk.plots.facets import NARROWEST, Layout, Panel, draw_legend, layout
from fltk.plots.lines import Curve, MeanLine, Tag, draw_backdrop, draw_lines, mean_lines
from fltk.plots.style import COLUMN, Array, Row, new_figure, paper, whole_ticks


@dataclass(frozen=True)
class MapStats(Tag):
    """One run: mean self-weight and mean row entropy over log N, (R,) at rounds (R,). Equal labels are averaged."""

    label: str
    rounds: Array
    self_weight: Array
    entropy: Array


MEASURES = (("self_weight", "self-weight", "local training"), ("entropy", "row entropy", "equal weights"))


def map_stats(maps: Iterable[tuple[int, Array]]) -> tuple[Array, Array, Array]:
    """Rounds, self-weight and entropy (R,) of maps (N, N) with their rounds, ascending; read one at a time."""
    rounds, own, entropy = [], [], []
    for number, weights in maps:
        rounds.append(number)
        own.append(self_weight(weights))
        entropy.append(map_entropy(weights))
    return np.array(rounds, np.int64), np.array(own, np.float64), np.array(entropy, np.float64)


def attention_stats(runs: Sequence[MapStats], *, width: float = COLUMN) -> tuple[Figure, list[Row]]:
    """Self-weight (1: local training) above row entropy (1: FedAvg with equal data) over the rounds, one line a run.

    Runs with one label become their mean with a band of one sample standard deviation. Many lines are drawn in panels:
    a column of two for each setting or line. width in inches. FltkError without maps.
    """
    if not runs:
        raise FltkError("no collaboration map to draw: name at least one run")
    plan = layout(runs)
    blocks = [plan.panels] if len(plan.panels) == 1 else _blocks(plan.panels, max(1, int(width / NARROWEST)))
    height = 2.7 if len(plan.panels) == 1 else 2.2 * len(blocks)
    lines = {key: mean_lines(_curves(runs, key)) for key, _, _ in MEASURES}
    handles: dict[str, Line2D] = {}
    with paper():
        figure = new_figure(width, height)
        grid = figure.subplots(2 * len(blocks), len(blocks[0]), sharex=True, sharey=True, squeeze=False)
        for block, panels in enumerate(blocks):
            for column in range(len(blocks[0])):
                pair = grid[2 * block : 2 * block + 2, column]
                if column < len(panels):
                    handles |= _pair(list(pair), panels[column], plan, lines)
                else:
                    _remove(pair)
        for place, (_, name, _) in enumerate(MEASURES * len(blocks)):
            grid[place, 0].set_ylabel(name)
        draw_legend(figure, plan, handles, {})
        add_caption(figure, [seeds_caption(runs)])
    return figure, _rows(lines)


def _blocks(panels: Sequence[Panel], columns: int) -> list[Sequence[Panel]]:
    """The panels in rows of so many."""
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def _remove(axes: Iterable[Axes]) -> None:
    for ax in axes:
        ax.remove()


def _curves(runs: Sequence[MapStats], key: str) -> list[Curve]:
    return [Curve(run.label, run.rounds, getattr(run, key)) for run in runs]


def _pair(
    axes: Sequence[Axes], panel: Panel, plan: Layout, lines: Mapping[str, Mapping[str, MeanLine]]
) -> dict[str, Line2D]:
    """Self-weight and entropy of one panel's lines, one above the other."""
    handles: dict[str, Line2D] = {}
    for ax, (key, _, end) in zip(axes, MEASURES, strict=True):
        if plan.one_each:
            draw_backdrop(ax, lines[key].values())
        handles |= draw_lines(ax, [lines[key][label] for label in panel.labels], plan.styles, share=True)
        _axis(ax, end)
    axes[0].set_title(textwrap.fill(panel.title, 24), fontsize=7.0, pad=8.0 if panel.title else None)
    axes[1].set_xlabel("communication round")
    axes[1].tick_params(labelbottom=True)
    whole_ticks(axes[1].xaxis, 8 if len(plan.panels) == 1 else 4)
    return handles


def _rows(lines: Mapping[str, Mapping[str, MeanLine]]) -> list[Row]:
    """The drawn points as data."""
    made: list[Row] = []
    for key, _, _ in MEASURES:
        for line in lines[key].values():
            made += [{"measure": key, **row} for row in line.rows()]
    return made


def _axis(ax: Axes, end: str) -> None:
    """From 0 to 1, with a word on what 1 means."""
    ax.grid(axis="y")
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
        color="#555555",
        fontsize=6.5,
    )
