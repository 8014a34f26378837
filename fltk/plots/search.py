"""A search over settings: the value of every trial, the best so far, and how much each setting mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fltk.errors import FltkError
from fltk.plots.style import COLUMN, PALETTE, Row, legend_above, new_figure, paper, value_axis, whole_ticks

MOST = 16  # rows of panels that one figure holds
_HEIGHT = 1.35  # inches of a row


@dataclass(frozen=True)
class SearchPanel:
    """A study: the numbers of its finished trials, their values, and setting -> share of the variance explained."""

    label: str
    trials: tuple[int, ...]
    values: tuple[float, ...]
    importance: Mapping[str, float]


def search_panels(panels: Sequence[SearchPanel], *, width: float = COLUMN) -> tuple[Figure, list[Row]]:
    """One row for each study: trials with the best so far on the left, importance on the right.

    width in inches. FltkError for more studies than a figure holds.
    """
    if not 1 <= len(panels) <= MOST:
        raise FltkError(f"a figure holds 1 to {MOST} searches, and the file has {len(panels)}; split the file")
    with paper():
        figure = new_figure(width, _HEIGHT * len(panels) + 0.15)
        axes = figure.subplots(len(panels), 2, squeeze=False, width_ratios=(3, 2))
        for (left, right), panel in zip(axes, panels, strict=True):
            _trials(left, panel)
            _importance(right, panel)
        axes[-1][0].set_xlabel("trial")
        axes[-1][1].set_xlabel("importance")
        legend_above(figure, *axes[0][0].get_legend_handles_labels())
    return figure, [row for panel in panels for row in _rows(panel)]


def _trials(ax: Axes, panel: SearchPanel) -> None:
    """Each trial as a point, and the best value until then as steps."""
    ax.plot(panel.trials, panel.values, "o", color=PALETTE[0], label="trial", clip_on=False)
    ax.step(panel.trials, np.maximum.accumulate(panel.values), where="post", color=PALETTE[1], label="best so far")
    ax.set_title(panel.label, loc="left")
    value_axis(ax, "val. accuracy", percent=True)
    whole_ticks(ax.xaxis)


def _importance(ax: Axes, panel: SearchPanel) -> None:
    """A bar for each setting, the most important one on top."""
    if not panel.importance:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "too few trials", ha="center", va="center", transform=ax.transAxes)
        return
    names = sorted(panel.importance, key=lambda name: panel.importance[name])
    ax.barh(names, [panel.importance[name] for name in names], color=PALETTE[0], height=0.6)
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.7, max(len(names), 3) - 0.3)  # a single bar is no wider than one of three
    ax.grid(axis="x")


def _rows(panel: SearchPanel) -> list[Row]:
    """What was drawn: a row for each trial, then one for each setting."""
    best = np.maximum.accumulate(panel.values)
    rows: list[Row] = []
    for number, value, until in zip(panel.trials, panel.values, best, strict=True):
        rows.append({"search": panel.label, "trial": number, "value": value, "best": float(until)})
    for setting, share in panel.importance.items():
        rows.append({"search": panel.label, "setting": setting, "importance": share})
    return rows
