"""`fltk plot`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, epilog, group
from fltk.cli.context import Settings
from fltk.cli.figures import figure_options, rounds_of, write_figure
from fltk.cli.filters import filter_options, select_runs
from fltk.cli.plot_clients import attention_gif, attention_stats, clusters, embeddings
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
    epilog=epilog("fltk plot attention-maps run42", "fltk plot attention-maps latest --rounds 1,5,30"),
)
@click.argument("run")
@click.option("--rounds", cls=Option, section="Figure", help="rounds separated by commas [default: about four, spread]")
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
    run: str,
    rounds: str | None,
    layer: str,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """Who learns from whom, round by round.

    Rows receive, columns contribute. Clients are ordered by known group or by similarity of their label distributions,
    which is drawn beside the maps with its off-diagonal correlation. Works for every method. Several layers are shown
    in the last round, unless --rounds names others.
    """
    from fltk.plots.attention_maps import attention_maps as figure
    from fltk.plots.attention_maps import spread_rounds
    from fltk.plots.stored import map_panels
    from fltk.plots.style import DOUBLE
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = store.find_run(run, "train")
        several = layer == "all" or "," in layer
        there = store.map_rounds(found.id)
        chosen = rounds_of(rounds) or (there[-1:] if several else spread_rounds(there))
        panels, who = map_panels(store, found, chosen, layer)
    write_figure(lambda w: figure(panels, who, width=w or DOUBLE), f"attention-maps-run{found.id}", output, data, width)


@plot.command(
    "curves",
    epilog=epilog("fltk plot curves run1 run2", "fltk plot curves run1 run2 --key train_loss -o loss.pdf"),
)
@click.argument("run", nargs=-1, required=True)
@click.option(
    "--key",
    default="personal_test_acc",
    cls=Option,
    section="Figure",
    help="which number of a round is drawn",
)
@figure_options
@click.pass_obj
def curves(
    settings: Settings,
    run: tuple[str, ...],
    key: str,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """Accuracy over communication rounds.

    Runs of one method (and hyper-parameters) over several seeds become one line with a band of one standard deviation.
    """
    from fltk.plots.curves import Curve, accuracy_curves
    from fltk.plots.stored import labels_of, named
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = [store.find_run(ref) for ref in run]
        labels = labels_of(found)
        lines = [Curve(labels[r.id], *store.scalars(r.id, key)[key]) for r in found]
    write_figure(
        lambda w: accuracy_curves(lines, width=w or COLUMN, y_label=named(key), percent=key.endswith("_acc")),
        "curves-" + "-".join(f"run{r.id}" for r in found[:4]),
        output,
        data,
        width,
    )


@plot.command(
    "clients",
    epilog=epilog("fltk plot clients run1 run2 run3", "fltk plot clients latest --key personal_val_acc"),
)
@click.argument("run", nargs=-1, required=True)
@click.option(
    "--key",
    default="personal_test_acc",
    cls=Option,
    section="Figure",
    help="which number of a client is drawn",
)
@figure_options
@click.pass_obj
def clients(
    settings: Settings,
    run: tuple[str, ...],
    key: str,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """Accuracy of every client in the last round, sorted, for one or several runs."""
    from fltk.plots.clients import ClientScores, client_accuracy
    from fltk.plots.stored import labels_of, named
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = [store.find_run(ref) for ref in run]
        labels = labels_of(found, each=True)
        scores = [ClientScores(labels[r.id], store.client_values(r.id, key)[1][-1]) for r in found]
    write_figure(
        lambda w: client_accuracy(scores, width=w or COLUMN, y_label=named(key), percent=key.endswith("_acc")),
        "clients-" + "-".join(f"run{r.id}" for r in found[:4]),
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
    from fltk.plots.stored import partition_table, summary_of
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        if re.fullmatch(r"part\d+", ref):
            row = store.find_partition(ref)
            summary, number = row.summary, row.id
        else:
            run = store.find_run(ref)
            summary, number = summary_of(store, run), run.partition_id or 0
    table = partition_table(summary)
    write_figure(lambda w: partition_bubbles(table, width=w or COLUMN), f"partition-part{number}", output, data, width)


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

    RUN is a run of join-new-client. Runs of one method over several seeds become one line with a band of one standard
    deviation. Training from scratch and FedAvg with fine-tuning have made at least as many steps at each point as the
    method that takes the most.
    """
    from fltk.plots.join import join_figure
    from fltk.plots.stored import join_run, labels_of
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = [store.find_run(ref, "join") for ref in run]
        labels = labels_of(found)
        drawn = [join_run(store, r, labels[r.id]) for r in found]
    default = "join-" + "-".join(f"run{r.id}" for r in found[:4])
    write_figure(lambda w: join_figure(drawn, shots=shots, width=w), default, output, data, width)


@plot.command(
    "critical-difference",
    epilog=epilog(
        "fltk plot critical-difference --dataset fmnist",
        "fltk plot critical-difference --method local,fedavg-ft,attn --metric personal_test_acc.worst10 -o ranks.pdf",
    ),
)
@filter_options(kind="train", status="done")
@click.option("--metric", cls=Option, section="Figure", metavar="NAME[.STATISTIC]", help="as in fltk compare")
@figure_options
@click.pass_obj
def critical_difference(
    settings: Settings,
    /,
    run: tuple[str, ...],
    metric: str | None,
    output: Path | None,
    data: Path | None,
    width: str | None,
    **filters: Any,
) -> None:
    """Average ranks of methods over settings, with bars over those that do not differ (Nemenyi).

    Ranks are taken by the mean over seeds, in the settings that all methods have.
    """
    from fltk.evaluation.compare import compare
    from fltk.plots.critical_difference import critical_difference as figure
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        table = compare(store, select_runs(store, run, filters, "rank", kind="train", status="done"), metric)
    ranks = table.ranks()
    if ranks is None:
        raise UsageError(
            "average ranks need two settings in which all of at least two methods have a value; see fltk compare"
        )
    for note in table.notes:
        settings.say(f"note: {note}")
    what = table.metric.name
    write_figure(lambda w: figure(ranks, what=what, width=w or COLUMN), "critical-difference", output, data, width)


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

    RUN is a run of fltk attack; without any, all of the registry that fulfil the filters. Runs that differ in their
    seed are averaged. A column is a method with its defence.
    """
    from fltk.plots.attack import attack_figure
    from fltk.plots.stored import attacked_run
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = select_runs(store, run, filters, "draw", kind="attack", status="done")
        clean = [r.label for r in found if r.kind != "attack"]
        if clean:
            raise UsageError(f"{clean[0]} is no attacked run; fltk attack --run {clean[0]} makes one of it")
        drawn = [attacked_run(store, r, _column(r.method, r.config)) for r in sorted(found, key=_place)]
    default = "attack-" + "-".join(f"run{r.id}" for r in found[:4])
    write_figure(lambda w: attack_figure(drawn, width=w), default, output, data, width)


def _place(run: RunRow) -> tuple[int, ...]:
    """Where a run stands in the figure: by attack, method and defence, each in the order of its list."""
    asked = [run.config.get(table, {}).get(key, "") for table, key in (("attack", "kind"), ("defence", "defence"))]
    known = ((METHODS, run.method), (DEFENCES, asked[1]), (ATTACKS, asked[0]))
    return tuple([*names].index(name) if name in names else -1 for names, name in known)


def _column(method: str, config: dict[str, Any]) -> str:
    """A method and its defence."""
    return f"{method} + {config['defence']['defence']}" if "defence" in config else method


for member in (embeddings, clusters, attention_gif, attention_stats):
    plot.add_command(member)
