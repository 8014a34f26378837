"""Accuracy over communication rounds or over bytes, one line per run or per group of runs that differ in their seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fltk.errors import FltkError
from fltk.plots.captions import add_caption, overlap_caption, seeds_caption
from fltk.plots.facets import Layout, draw_legend, figure_height, label_y, layout, panel_axes
from fltk.plots.lines import Curve, MeanLine, draw_backdrop, draw_lines, mean_lines
from fltk.plots.style import COLUMN, Row, new_figure, paper, whole_ticks

__all__ = ["Curve", "accuracy_bytes", "accuracy_curves"]

DECADES = 3.0  # that values span before their axis becomes logarithmic
BYTES = 20.0  # times the fewest bytes, from which on their axis is logarithmic


@dataclass(frozen=True)
class _Drawn:
    """What stands on the panels: the lines by label, how they share panels, their handles, and the axes."""

    lines: Mapping[str, MeanLine]
    plan: Layout
    handles: Mapping[str, Line2D]
    axes: Sequence[Axes]


def accuracy_curves(
    curves: Sequence[Curve],
    *,
    width: float = COLUMN,
    y_label: str = "test accuracy",
    percent: bool = True,
    share: bool = True,
) -> tuple[Figure, list[Row]]:
    """Lines over rounds; runs with one label become their mean and a band of +-1 sample standard deviation.

    The mean is taken over the rounds that all runs of the label have. Where some end early, it goes on as a thin line
    over those that are left. Many lines are drawn in panels (`facets`). The caption names the seeds, and lines that
    cover each other. `percent` writes fractions as percent; losses want False. `share`: values lie in [0, 1], and so
    do bands. Positive values over several decades get a logarithmic axis. width in inches. FltkError when nothing can
    be drawn.
    """
    if not curves:
        raise FltkError("no curve to draw: name at least one run")
    lines = mean_lines(curves)
    with paper():
        figure, drawn = _draw(lines, layout(curves), width, "communication round", share=percent or share)
        label_y(figure, drawn.axes, y_label, percent=percent)
        logarithmic = not percent and _wide(lines.values())
        for ax in drawn.axes:
            whole_ticks(ax.xaxis, 8 if len(drawn.axes) == 1 else 4)
            ax.margins(x=0.02)
            if logarithmic:
                ax.set_yscale("log")

        early = {label: line.ends_early for label, line in lines.items()}
        draw_legend(figure, drawn.plan, drawn.handles, early)
        add_caption(figure, [seeds_caption(curves), _overlaps(drawn, percent=percent)])
    return figure, _rows(lines)


def accuracy_bytes(
    curves: Sequence[Curve], *, width: float = COLUMN, y_label: str = "test accuracy", percent: bool = True
) -> tuple[Figure, list[Row]]:
    """Lines as in `accuracy_curves`, over the bytes that all clients have sent and received since the first round.

    Each curve's `position` (R,) is in bytes. A run that sends nothing is a horizontal line at its last value. width in
    inches. FltkError when nothing can be drawn.
    """
    if not curves:
        raise FltkError("no curve to draw: name at least one run")
    lines = mean_lines(curves)
    silent = [label for label, line in lines.items() if line.x.max() == 0]
    if len(silent) == len(lines):
        raise FltkError("these runs send nothing: there are no bytes to draw accuracy against")
    scaled, unit = _in_unit(lines)

    with paper():
        x_label = f"sent and received by all clients ({unit})"
        figure, drawn = _draw(scaled, layout(curves), width, x_label, share=percent, silent=silent)
        label_y(figure, drawn.axes, y_label, percent=percent)
        for ax in drawn.axes:
            _byte_axis(ax, scaled.values())

        nothing = dict.fromkeys(silent, " (sends nothing)")
        draw_legend(figure, drawn.plan, drawn.handles, nothing)
        add_caption(figure, [seeds_caption(curves)])
    return figure, _byte_rows(lines)


def _draw(
    lines: Mapping[str, MeanLine],
    plan: Layout,
    width: float,
    x_label: str,
    *,
    share: bool,
    silent: Collection[str] = (),
) -> tuple[Figure, _Drawn]:
    """The lines on their panels; those in `silent` are horizontal, at their last value."""
    figure = new_figure(width, figure_height(plan, width, 2.0))
    axes = panel_axes(figure, plan, x_label=x_label)
    moving = {label: line for label, line in lines.items() if label not in silent}

    handles: dict[str, Line2D] = {}
    for ax, panel in zip(axes, plan.panels, strict=True):
        if plan.one_each:
            draw_backdrop(ax, moving.values())
        inside = [moving[label] for label in panel.labels if label in moving]
        handles |= draw_lines(ax, inside, plan.styles, share=share)
        for label in panel.labels:
            if label in silent:
                style = plan.styles[label]
                handles[label] = ax.axhline(lines[label].mean[-1], color=style.color, linestyle=style.dash)
    return figure, _Drawn(lines, plan, handles, axes)


def _wide(lines: Collection[MeanLine]) -> bool:
    """Whether positive values span several decades."""
    means = np.concatenate([line.mean for line in lines])
    return bool(means.min() > 0 and means.max() > 10**DECADES * means.min())


def _overlaps(drawn: _Drawn, *, percent: bool) -> str:
    """Of a single panel; in several panels lines are few or alone."""
    if len(drawn.axes) > 1:
        return ""
    return overlap_caption(list(drawn.lines.values()), percent=percent)


def _in_unit(lines: Mapping[str, MeanLine]) -> tuple[dict[str, MeanLine], str]:
    """The lines with bytes in the unit that suits the largest number, and its name."""
    most = max(float(line.x.max()) for line in lines.values())
    unit, name = (1e9, "GB") if most > 2e9 else (1e6, "MB")
    return {label: replace(line, x=line.x / unit) for label, line in lines.items()}, name


def _byte_axis(ax: Axes, lines: Collection[MeanLine]) -> None:
    """Logarithmic where methods that send anything send very different amounts."""
    ends = np.array([line.x[-1] for line in lines])
    ends = ends[ends > 0]
    if ends.max() > BYTES * ends.min():
        ax.set_xscale("log")
    ax.margins(x=0.02)


def _rows(lines: Mapping[str, MeanLine]) -> list[Row]:
    """The drawn points as data."""
    made: list[Row] = []
    for line in lines.values():
        made += line.rows()
    return made


def _byte_rows(lines: Mapping[str, MeanLine]) -> list[Row]:
    """The same, with the bytes up to each round."""
    made: list[Row] = []
    for line in lines.values():
        for row, sent in zip(line.rows(), line.x, strict=True):
            made.append({**row, "bytes": float(sent)})
    return made
