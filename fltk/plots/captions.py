"""What stands below a figure in small type: seeds, bands, and lines that cover each other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure

from fltk.plots.lines import MeanLine

SIZE = 6.5  # points
CHARACTER_WIDTH = 0.047  # inches, of this size
_LINE = 0.115  # inches
MOST = 4  # names written out
NEAR = 0.03  # of the y axis: about the size of a marker
GREY = "#555555"


class Seeded(Protocol):
    """What has a label, a setting, and the seed of its run, if that is known."""

    @property
    def label(self) -> str: ...

    @property
    def setting(self) -> str: ...

    @property
    def seed(self) -> int | None: ...


def add_caption(figure: Figure, sentences: Iterable[str]) -> None:
    """The sentences below the axes, wrapped to the figure's width; the figure grows by their height."""
    text = " ".join(sentence for sentence in sentences if sentence)
    if not text:
        return
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(text, int((width - 0.1) / CHARACTER_WIDTH))
    figure.set_size_inches(width, height + _LINE * len(lines))
    figure.supxlabel("\n".join(lines), color=GREY, fontsize=SIZE, linespacing=1.15)


def seeds_caption(items: Sequence[Seeded], *, spread: str = "Band: one standard deviation over seeds.") -> str:
    """Which seeds the lines are means over; of lines with other seeds than most, their names or their setting.

    spread: what is added where a line is the mean over several seeds. Empty where no seed is known.
    """
    groups = _by_seeds(items)
    if not groups:
        return ""
    several = any(len(numbers) > 1 for numbers in groups)
    if len(groups) == 1:
        told = seeds_told(next(iter(groups)))
        text = f"Mean over {told}." if several else sentence(told)
    else:
        text = sentence("; ".join(_group_told(numbers, labels, items) for numbers, labels in groups.items()))
    return f"{text} {spread}".strip() if several else text


def _by_seeds(items: Sequence[Seeded]) -> dict[tuple[int, ...], list[str]]:
    """Seeds -> the labels that have them, the seeds of most labels first."""
    seeds: dict[str, set[int]] = {}
    for item in items:
        if item.seed is not None:
            seeds.setdefault(item.label, set()).add(item.seed)

    groups: dict[tuple[int, ...], list[str]] = {}
    for label, found in seeds.items():
        groups.setdefault(tuple(sorted(found)), []).append(label)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _group_told(seeds: tuple[int, ...], labels: Sequence[str], items: Sequence[Seeded]) -> str:
    return f"{seeds_told(seeds)}: {listed(_by_setting(labels, items))}"


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def _by_setting(labels: Sequence[str], items: Sequence[Seeded]) -> list[str]:
    """The labels; for all labels of a setting its name."""
    inside: dict[str, set[str]] = {}
    for item in items:
        inside.setdefault(item.setting, set()).add(item.label)

    names: list[str] = []
    left = set(labels)
    for setting, own in inside.items():
        if setting and own <= left:
            names.append(setting)
            left -= own
    return names + [label for label in labels if label in left]


def seed_caption(seed: int | None) -> str:
    """The seed of a figure of one run; empty where it is not known."""
    return "" if seed is None else f"Seed {seed}."


def seeds_told(seeds: Iterable[int]) -> str:
    """`seed 0`, `seeds 0, 1, 2`, `seeds 0 to 9`."""
    numbers = sorted(set(seeds))
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"seeds {numbers[0]} to {numbers[-1]}"
    return f"seeds {', '.join(map(str, numbers))}"


def listed(names: Sequence[str]) -> str:
    """The names; of many the first, and how many more there are."""
    shown = ", ".join(names[:MOST])
    return f"{shown} and {len(names) - MOST} more" if len(names) > MOST else shown


def overlap_caption(lines: Sequence[MeanLine], *, percent: bool) -> str:
    """Which lines cover each other all the way, and how far apart they are at most; empty where none do.

    lines: those of one panel.
    """
    told = [_overlap_told(group, percent=percent) for group in _overlapping(lines)]
    return f"Lines that cover each other: {'; '.join(told)}." if told else ""


def _overlap_told(group: Sequence[MeanLine], *, percent: bool) -> str:
    labels = [line.label for line in group]
    names = " and ".join(labels) if len(labels) == 2 else listed(labels)

    most = 0.0
    for place, line in enumerate(group):
        for other in group[:place]:
            most = max(most, _distance(line, other))
    gap = f"{100 * most:.1f} points" if percent else f"{most:.2g}"
    return f"{names} (at most {gap} apart)"


def _overlapping(lines: Sequence[MeanLine]) -> list[list[MeanLine]]:
    """Groups of two lines or more, of which each is near to all others."""
    if len(lines) < 2:
        return []
    values = np.concatenate([line.mean for line in lines])
    near = NEAR * float(values.max() - values.min())

    groups: list[list[MeanLine]] = []
    for line in lines:
        group = _near_group(line, groups, near)
        if group is None:
            groups.append([line])
        else:
            group.append(line)
    return [group for group in groups if len(group) > 1]


def _near_group(line: MeanLine, groups: Sequence[list[MeanLine]], near: float) -> list[MeanLine] | None:
    """The first group whose lines are all near to this one."""
    for group in groups:
        if max(_distance(line, other) for other in group) <= near:
            return group
    return None


def _distance(one: MeanLine, other: MeanLine) -> float:
    """The largest difference over the rounds that both have; infinite where they share none."""
    shared = np.intersect1d(one.rounds, other.rounds)
    if not shared.size:
        return float("inf")
    a = one.mean[np.searchsorted(one.rounds, shared)]
    b = other.mean[np.searchsorted(other.rounds, shared)]
    return float(np.abs(a - b).max())
