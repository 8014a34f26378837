"""`fltk plot`: figures that compare methods by what they cost and by what clients gain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.figures import drawn_key, figure_name, figure_options, write_figure
from fltk.cli.filters import best_on_option, filter_options, runs_to_draw
from fltk.errors import UsageError


@command(
    "bytes",
    examples=("fltk plot bytes run1 run2 run3", "fltk plot bytes --best-on val --tag sweep=study -o bytes.pdf"),
)
@filter_options(kind="train", status="done")
@best_on_option
@click.option(
    "--key",
    default=None,
    show_default="personal models on test data",
    cls=Option,
    section="Figure",
    help="which number of a round is drawn",
)
@figure_options
@click.pass_obj
def bytes_(
    settings: Settings,
    /,
    run: tuple[str, ...],
    best_on: str | None,
    key: str | None,
    output: Path | None,
    data: Path | None,
    width: str | None,
    **filters: Any,
) -> None:
    """Accuracy against the bytes that clients send and receive.

    Bytes are those of all clients since the first round, as models are stored (no compression). Runs that differ only
    in their seeds become one line with a band of one standard deviation. A method that sends nothing is a horizontal
    line at its last accuracy.
    """
    from fltk.metrics.metric_names import is_percent, named
    from fltk.plots.curves import Curve, accuracy_bytes
    from fltk.plots.labels import line_labels
    from fltk.plots.stored import sent_bytes
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        chosen, notes = runs_to_draw(store, run, filters, best_on)
        labels = line_labels(chosen)
        shown = drawn_key(key, labels.runs)
        curves = []
        for each in labels.runs:
            rounds, values = store.scalars(each.id, shown)[shown]
            sent = sent_bytes(store, each, rounds)
            curves.append(Curve(labels.names[each.id], rounds, values, sent, **labels.tag(each)))
    settings.notes([*notes, *labels.notes])
    write_figure(
        lambda w: accuracy_bytes(curves, width=w or COLUMN, y_label=named(shown), percent=is_percent(shown)),
        figure_name("bytes", [each.id for each in labels.runs], key),
        output,
        data,
        width,
    )


@command(
    "gains",
    examples=("fltk plot gains run2 run3 run6", "fltk plot gains --best-on val --tag sweep=study -o gains.pdf"),
)
@filter_options(kind="train", status="done")
@best_on_option
@click.option(
    "--key",
    default=None,
    show_default="personal models on test data",
    cls=Option,
    section="Figure",
    help="which number of a client is compared",
)
@figure_options
@click.pass_obj
def gains(
    settings: Settings,
    /,
    run: tuple[str, ...],
    best_on: str | None,
    key: str | None,
    output: Path | None,
    data: Path | None,
    width: str | None,
    **filters: Any,
) -> None:
    """What each client gains over local training in the last round, sorted.

    A run is compared with a run of local on the same partition and seed: one that is named, or else a finished run of
    the registry with the same training settings. Runs that differ only in their seeds become one line: gains are sorted
    in each run and averaged by rank. Malicious clients are left out.
    """
    from dataclasses import replace

    from fltk.metrics.metric_names import is_percent, named
    from fltk.objectives.measures import measure_of
    from fltk.plots.clients import client_gains
    from fltk.plots.labels import line_labels
    from fltk.plots.stored import LOCAL, last_gains
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        chosen, notes = runs_to_draw(store, run, filters, best_on)
        labels = line_labels(chosen)
        shown = drawn_key(key, labels.runs)
        if measure_of(shown) is None:
            raise UsageError(f"--key {key}: gains are differences of a measure, such as personal_test_acc")
        drawn, alone = [], []
        for each in labels.runs:
            if each.method == LOCAL:
                continue
            found = last_gains(store, each, shown, labels.runs)
            if found is None:
                alone.append(each.label)
            else:
                drawn.append(replace(found, label=labels.names[each.id], **labels.tag(each)))
    if alone and not drawn:
        raise UsageError(
            f"{alone[0]} has no run of {LOCAL} on the same partition, with the same seed and training settings; train "
            f"it, or name a run of {LOCAL} on that partition"
        )
    missing = [f"left out, no run of {LOCAL} on the same data: {', '.join(alone)}"] if alone else []
    settings.notes([*notes, *labels.notes, *missing])
    write_figure(
        lambda w: client_gains(drawn, width=w or COLUMN, what=named(shown), percent=is_percent(shown)),
        figure_name("gains", [each.id for each in labels.runs], key),
        output,
        data,
        width,
    )
