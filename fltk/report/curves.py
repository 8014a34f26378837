"""Accuracy and loss over the rounds, methods side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from fltk.evaluation.comparison_table import Entry
from fltk.metrics.metric_names import is_percent, is_share, named
from fltk.objectives import headline
from fltk.plots.curves import Curve, accuracy_curves
from fltk.plots.labels import own_line
from fltk.report.content import Content, Section
from fltk.report.figures import image, row
from fltk.report.markup import heading, joined

KINDS = ("personal_test", "global_test")


def section(content: Content) -> Section | None:
    """For each setting what its runs recorded; None where no round was."""
    parts: list[Markup] = []
    for setting, entries in content.by_setting(content.trained):
        measure = headline(entries[0].run.last)
        keys = [*(f"{kind}_{measure.key}" for kind in KINDS), "train_loss"]
        figures = [drawn for key in keys if (drawn := _figure(content, setting, entries, key)) is not None]
        if figures:
            parts += [heading(setting), row(*figures)]
    return Section("curves", "Curves", joined(parts)) if parts else None


def _figure(content: Content, setting: str, entries: Sequence[Entry], key: str) -> Markup | None:
    curves = []
    for entry in entries:
        if key not in entry.run.last:
            continue
        rounds, values = content.store.scalars(entry.run.id, key)[key]
        if np.isfinite(values).any():
            label = own_line(entry.method, entry.run)
            curves.append(Curve(label, rounds, values, method=entry.run.method, seed=entry.run.seed))
    if not curves:
        return None
    percent = is_percent(key)
    shown = {"percent": percent, "share": is_share(key)}
    figure, rows = accuracy_curves(curves, y_label=named(key), **shown)
    last = {line["label"]: line["mean"] for line in rows}
    ends = ", ".join(f"{label} {_told(value, percent)}" for label, value in last.items())
    spread = " Bands: one standard deviation over seeds." if any(line["runs"] > 1 for line in rows) else ""
    spread += " Runs that are not finished have lines of their own." if any("(run" in label for label in last) else ""
    what = named(key)
    return image(figure, f"{what} over rounds, {setting}. At the end: {ends}.", f"{what.capitalize()}.{spread}")


def _told(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.3g}"
