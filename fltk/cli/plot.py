"""`fltk plot`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, epilog, group
from fltk.cli.context import Settings
from fltk.cli.figures import drawn_key, figure_name, figure_options, rounds_of, write_figure
from fltk.cli.filters import best_on_option, filter_options, runs_to_draw, select_runs
from fltk.cli.plot_clients import attention_gif, attention_stats, clusters, embeddings
from fltk.cli.plot_compare import bytes_, gains
from fltk.cli.sweep_trials import search_figure
from fltk.errors import UsageError
from fltk.names import ATTACKS, DEFENCES, METHODS

if TYPE_CHECKING:
    from fltk.registry import RunRow


@group(
    "plot",
    examples=(
        "fltk plot attention-maps run42",
        "fltk plot curves run1 run2 run3 -o curves.pdf --data curves.csv",
    ),
)
def plot() -> None:
    """Draw figures of runs.

    PNG, SVG or PDF by the name of --output; --data writes the numbers that were drawn.
    """


@plot.command(
    "attention-maps",
    epilog=epilog(
        "fltk plot attention-maps run42",
        "fltk plot attention-maps latest --rounds 1,5,30",
        "fltk plot attention-maps run41 run42",
    ),
)
@click.argument("run", nargs=-1, required=True)
@click.option(
    "--rounds",
    cls=Option,
    section="Figure",
    help="rounds separated by commas [default: about four, spread; of several runs the last]",
)
@click.option(
    "--layer",
    default="whole",
    cls=Option,
    section="Figure",
    help="part of the model whose map is shown, for methods that treat parts differently; several separated by commas, "
    "or all",
)
@figure_options
@click.pass_obj
def attention_maps(
    settings: Settings,
    run: tuple[str, ...],
    rounds: str | None,
    layer: str,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """Collaboration maps: which clients learn from which, round by round, or in the last round of several runs.

    Rows receive, columns contribute. Clients are ordered by known group or by similarity of their label distributions,
    which is drawn next to the maps. Where groups are known, the title has the share of the weight on other clients that
    stays inside them, and that of a uniform map; otherwise the correlation with label similarity. Works for every
    method. Several layers are shown in the last round, unless --rounds names others. Maps of several runs have one
    colour scale.
    """
    from fltk.plots.attention_maps import compare_maps
    from fltk.plots.labels import run_labels
    from fltk.plots.map_data import MapSet, spread_rounds
    from fltk.plots.stored import map_panels
    from fltk.plots.style import DOUBLE
    from fltk.registry import Store

    asked = rounds_of(rounds)
    with Store(settings.db, readonly=True) as store:
        found = [store.find_run(ref, "train") for ref in dict.fromkeys(run)]
        names = run_labels(found)
        last_only = len(found) > 1 or layer == "all" or "," in layer
        sets = []
        for each in found:
            there = store.map_rounds(each.id)
            chosen = asked or (there[-1:] if last_only else spread_rounds(there))
            panels, who = map_panels(store, each, chosen, layer)
            sets.append(MapSet(panels, who, names[each.id], each.seed))
    default = figure_name("attention-maps", [each.id for each in found], rounds, None if layer == "whole" else layer)
    write_figure(lambda w: compare_maps(sets, width=w or DOUBLE), default, output, data, width)


@plot.command(
    "curves",
    epilog=epilog("fltk plot curves run1 run2", "fltk plot curves --best-on val --tag sweep=study -o study.pdf"),
)
@filter_options(kind="train", status="done")
@best_on_option
@click.option(
    "--key",
    default=None,
    show_default="the headline measure of personal models on test data",
    cls=Option,
    section="Figure",
    help="which number of a round is drawn",
)
@figure_options
@click.pass_obj
def curves(
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
    """Accuracy over communication rounds.

    Runs that differ only in their seeds become one line with a band of one standard deviation. A run that is not
    finished has its own line. Many lines are drawn in panels. The caption names the seeds, and lines that cover each
    other.
    """
    from fltk.metrics.metric_names import is_percent, is_share, named, scale
    from fltk.plots.curves import Curve, accuracy_curves
    from fltk.plots.labels import line_labels
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        chosen, notes = runs_to_draw(store, run, filters, best_on)
        labels = line_labels(chosen)
        drawn = drawn_key(key, labels.runs)
        lines = []
        for r in labels.runs:
            rounds, values = store.scalars(r.id, drawn)[drawn]
            lines.append(Curve(labels.names[r.id], rounds, values / scale(drawn), **labels.tag(r)))
    settings.notes([*notes, *labels.notes])
    write_figure(
        lambda w: accuracy_curves(
            lines, width=w or COLUMN, y_label=named(drawn), percent=is_percent(drawn), share=is_share(drawn)
        ),
        figure_name("curves", [r.id for r in labels.runs], key),
        output,
        data,
        width,
    )


@plot.command(
    "clients",
    epilog=epilog("fltk plot clients run1 run2 run3", "fltk plot clients latest --key personal_val_acc"),
)
@filter_options(kind="train", status="done")
@best_on_option
@click.option(
    "--key",
    default=None,
    show_default="the headline measure of personal models on test data",
    cls=Option,
    section="Figure",
    help="which number of a client is drawn",
)
@figure_options
@click.pass_obj
def clients(
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
    """Accuracy of every client in the last round, sorted, for one or several runs.

    Runs that differ only in their seeds become one line: clients are sorted in each run and averaged by rank. Malicious
    clients are left out.
    """
    from fltk.metrics.metric_names import higher_is_better, is_percent, named
    from fltk.plots.clients import client_accuracy
    from fltk.plots.labels import line_labels
    from fltk.plots.stored import last_values
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        chosen, notes = runs_to_draw(store, run, filters, best_on)
        labels = line_labels(chosen)
        drawn = drawn_key(key, labels.runs)
        scores = []
        for r in labels.runs:
            scores.append(replace(last_values(store, r, drawn), label=labels.names[r.id], **labels.tag(r)))
    settings.notes([*notes, *labels.notes])
    write_figure(
        lambda w: client_accuracy(
            scores,
            width=w or COLUMN,
            y_label=named(drawn),
            percent=is_percent(drawn),
            higher=higher_is_better(drawn),
        ),
        figure_name("clients", [r.id for r in labels.runs], key),
        output,
        data,
        width,
    )


@plot.command("partition", epilog=epilog("fltk plot partition part1", "fltk plot partition run42 -o partition.svg"))
@click.argument("ref", metavar="RUN|PARTITION")
@figure_options
@click.pass_obj
def partition(settings: Settings, ref: str, output: Path | None, data: Path | None, width: str | None) -> None:
    """Who holds which labels: one bubble per client and class, its area the number of training samples."""
    from fltk.plots.partition import partition_bubbles
    from fltk.plots.stored import partition_of, partition_table
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        named = re.fullmatch(r"part\d+", ref)
        row = store.find_partition(ref) if named else partition_of(store, store.find_run(ref))
    table, seed = partition_table(row.summary), row.config.get("partition_seed")
    write_figure(
        lambda w: partition_bubbles(table, width=w or COLUMN, seed=seed),
        f"partition-part{row.id}",
        output,
        data,
        width,
    )


@plot.command(
    "join",
    epilog=epilog("fltk plot join latest", "fltk plot join run50 run51 run52 --shots 5 -o join.pdf --data join.csv"),
)
@click.argument("run", nargs=-1, required=True)
@click.option(
    "--shots", cls=Option, section="Figure", help="shots of the left panel [default: the most that all share]"
)
@figure_options
@click.pass_obj
def join(
    settings: Settings,
    run: tuple[str, ...],
    shots: str | None,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """Accuracy of newcomers over epochs of fine-tuning, and over shots where runs have several.

    RUN is a run of join-new-client. Runs that differ only in their seeds become one line with a band of one standard
    deviation. Training from scratch and FedAvg with fine-tuning have made at least as many steps at each point as the
    method that takes the most. The left panel shows every epoch of fine-tuning, the right one what a newcomer kept of
    it.
    """
    from fltk.plots.join import join_figure
    from fltk.plots.labels import line_labels
    from fltk.plots.stored import join_run
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        labels = line_labels([store.find_run(ref, "join") for ref in run])
        drawn = []
        for r in labels.runs:
            drawn.append(join_run(store, r, labels.names[r.id], labels.conditions[r.id], labels.rows[r.id]))
    settings.notes(labels.notes)
    default = figure_name("join", [r.id for r in labels.runs], shots and f"shots{shots}")
    write_figure(lambda w: join_figure(drawn, shots=shots, width=w), default, output, data, width)


@plot.command(
    "critical-difference",
    epilog=epilog(
        "fltk plot critical-difference --dataset fmnist",
        "fltk plot critical-difference --method local,fedavg-ft,attn --metric personal_test_acc.worst10 -o ranks.pdf",
    ),
)
@filter_options(kind="train", status="done")
@best_on_option
@click.option("--metric", cls=Option, section="Figure", metavar="NAME[.STATISTIC]", help="as in fltk compare")
@figure_options
@click.pass_obj
def critical_difference(
    settings: Settings,
    /,
    run: tuple[str, ...],
    best_on: str | None,
    metric: str | None,
    output: Path | None,
    data: Path | None,
    width: str | None,
    **filters: Any,
) -> None:
    """Average ranks of methods over settings, with bars over those that do not differ (Nemenyi).

    Ranks are taken by the mean over seeds, in the settings that all methods have. Methods that never reach a target
    (rounds_to_target, ...) come last.
    """
    from fltk.evaluation.compare import compare
    from fltk.evaluation.metric_values import DERIVED
    from fltk.evaluation.tuning import best_trials
    from fltk.plots.captions import seeds_told
    from fltk.plots.critical_difference import critical_difference as figure
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = select_runs(store, run, filters, "rank", kind="train", status="done")
        table = compare(store, found, metric, tuning=best_trials(found) if best_on else None)
    ranks = table.ranks()
    if ranks is None:
        raise UsageError(
            "average ranks need two settings in which all of at least two methods have a value; see fltk compare"
        )
    settings.notes([*table.notes, *table.advice])
    told = f": {table.metric.description}" if table.metric.source in DERIVED else ""
    what = f"{table.metric.name}{told}, {seeds_told(r.seed for r in found)}"
    default = figure_name("critical-difference", [r.id for r in found], metric)
    write_figure(lambda w: figure(ranks, what=what, width=w or COLUMN), default, output, data, width)


@plot.command(
    "attack",
    epilog=epilog(
        "fltk plot attack run7 run8 run9", "fltk plot attack --dataset mnist -o attack.pdf --data attack.csv"
    ),
)
@filter_options(kind="attack", status="done")
@figure_options
@click.pass_obj
def attack(
    settings: Settings,
    /,
    run: tuple[str, ...],
    output: Path | None,
    data: Path | None,
    width: str | None,
    **filters: Any,
) -> None:
    """Accuracy that attacks cost benign clients, attacks x methods, and the weight that attackers get over rounds.

    RUN is a run of fltk attack; without any, all of the registry that fulfil the filters. Runs that differ only in
    their seeds are averaged. A row is an attack and a column a method with its defence, each with the settings in
    which runs differ. Runs on different data sets or partitions have a matrix each.
    """
    from fltk.plots.attack import attack_figure
    from fltk.plots.labels import attack_labels
    from fltk.plots.stored import attacked_run
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = select_runs(store, run, filters, "draw", kind="attack", status="done")
        clean = [r.label for r in found if r.kind != "attack"]
        if clean:
            raise UsageError(f"{clean[0]} is no attacked run; fltk attack --run {clean[0]} makes one of it")
        labels = attack_labels(sorted(found, key=_place))
        drawn = [attacked_run(store, r, labels.places[r.id]) for r in labels.runs]
    settings.notes(labels.notes)
    default = figure_name("attack", sorted(r.id for r in labels.runs))
    write_figure(lambda w: attack_figure(drawn, width=w), default, output, data, width)


def _place(run: RunRow) -> tuple[int, ...]:
    """Where a run stands in the figure: by attack, method and defence, each in the order of its list."""
    asked = [run.config.get(table, {}).get(key, "") for table, key in (("attack", "kind"), ("defence", "defence"))]
    known = ((METHODS, run.method), (DEFENCES, asked[1]), (ATTACKS, asked[0]))
    # The order of the built-in lists; own code and a missing attack or defence stand before them.
    return tuple([*names].index(name) if name in names else -1 for names, name in known)


for member in (bytes_, gains, embeddings, clusters, attention_gif, attention_stats, search_figure):
    plot.add_command(member)
