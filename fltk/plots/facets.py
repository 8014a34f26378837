"""Panels of a figure with many lines: a panel for each setting, or one for each line, in place of a long legend."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fltk.plots.method_styles import LineStyle, line_styles
from fltk.plots.style import CHARACTER, legend_above, value_axis

MOST_OF_SETTINGS = 8  # lines of several settings that share a panel
MOST = 12  # lines of one setting that share a panel
NARROWEST, HEIGHT = 1.45, 1.15  # inches of a panel among others
NARROWEST_ALONE, HEIGHT_ALONE = 1.05, 0.95  # of a panel that shows one line


class Tagged(Protocol):
    """What has a label and a `Tag`."""

    @property
    def label(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def setting(self) -> str: ...

    @property
    def row(self) -> str: ...


@dataclass(frozen=True)
class Panel:
    """A title and the labels of the lines in it."""

    title: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Panels, the style of each label, and the legend: what stands in it -> the labels that it stands for.

    one_each: every panel shows one line, and the others in grey.
    """

    panels: tuple[Panel, ...]
    styles: Mapping[str, LineStyle]
    legend: Mapping[str, tuple[str, ...]]
    one_each: bool = False


def layout(items: Sequence[Tagged]) -> Layout:
    """How the lines of these runs share panels; runs of one label share a line."""
    lines: dict[str, Tagged] = {}
    for item in items:
        lines.setdefault(item.label, item)
    settings = {item.setting for item in lines.values()}

    crowded = len(lines) > MOST_OF_SETTINGS and len(settings) > 1
    if crowded and len(lines) >= 2 * len(settings):
        return _by_setting(list(lines.values()))

    styles = line_styles((label, _method(item)) for label, item in lines.items())
    if len(lines) > MOST:
        panels = [Panel(label, (label,)) for label in lines]
        return Layout(tuple(panels), styles, {}, one_each=True)
    legend = {label: (label,) for label in lines}
    return Layout((Panel("", tuple(lines)),), styles, legend)


def _by_setting(lines: Sequence[Tagged]) -> Layout:
    """A panel for each setting; lines of one row have the same style in all of them."""
    of_row = line_styles((_row(item), _method(item)) for item in lines)
    styles: dict[str, LineStyle] = {}
    inside: dict[str, list[str]] = {}
    legend: dict[str, list[str]] = {}
    for item in lines:
        styles[item.label] = of_row[_row(item)]
        inside.setdefault(item.setting, []).append(item.label)
        legend.setdefault(_row(item), []).append(item.label)

    panels = [Panel(setting, tuple(labels)) for setting, labels in inside.items()]
    entries = {row: tuple(labels) for row, labels in legend.items()}
    return Layout(tuple(panels), styles, entries)


def _row(item: Tagged) -> str:
    return item.row or item.label


def _method(item: Tagged) -> str:
    return item.method or _row(item)


def figure_height(plan: Layout, width: float, alone: float) -> float:
    """Inches without legend and caption; `alone` is the height of a single panel."""
    if len(plan.panels) == 1:
        return alone
    rows = math.ceil(len(plan.panels) / _columns(plan, width))
    return (HEIGHT_ALONE if plan.one_each else HEIGHT) * rows + 0.3


def panel_axes(figure: Figure, plan: Layout, *, x_label: str) -> list[Axes]:
    """An axes for each panel, in rows, with common limits and with x labels below the lowest of each column."""
    panels = plan.panels
    width = float(figure.get_size_inches()[0])
    columns = _columns(plan, width)
    rows = math.ceil(len(panels) / columns)
    letters = max(14, int((width / columns - 0.3) / CHARACTER))
    if len(panels) > 1:
        x_label = textwrap.fill(x_label, letters)
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)

    for place, ax in enumerate(grid):
        if place >= len(panels):
            ax.remove()
            continue
        if len(panels) > 1:
            ax.set_title(textwrap.fill(panels[place].title, letters), fontsize=7.0)
        if place + columns >= len(panels):  # the lowest of its column
            ax.tick_params(labelbottom=True)
        if place >= (rows - 1) * columns:
            ax.set_xlabel(x_label)
    return grid[: len(panels)]


def label_y(figure: Figure, axes: Sequence[Axes], label: str, *, percent: bool) -> None:
    """Grid lines and a common label of the y axes; fractions are written as percent."""
    for ax in axes:
        value_axis(ax, label, percent=percent)
    if len(axes) > 1:
        name = axes[0].get_ylabel()
        for ax in axes:
            ax.set_ylabel("")
        figure.supylabel(name, fontsize=7.5)


def draw_legend(figure: Figure, plan: Layout, handles: Mapping[str, object], more: Mapping[str, str]) -> None:
    """The legend above the panels. more: label -> what is added to its name, if all labels of an entry share it."""
    names, shown = [], []
    for name, labels in plan.legend.items():
        shown.append(handles[labels[0]])
        added = {more.get(label, "") for label in labels}
        names.append(name + added.pop() if len(added) == 1 else name)
    if names:
        legend_above(figure, shown, names)


def _columns(plan: Layout, width: float) -> int:
    """Panels side by side: as many as fit, in rows of equal length where that is possible."""
    count = len(plan.panels)
    narrowest = NARROWEST_ALONE if plan.one_each else NARROWEST
    fit = max(1, min(count, int(width / narrowest)))
    rows = math.ceil(count / fit)
    return math.ceil(count / rows)
