"""`fltk plot`: figures of what a method makes of its clients: tokens, clusters, and maps over the rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.figures import FOLDER, figure_name, figure_options, film_options, rounds_of, write_figure
from fltk.cli.options import Names
from fltk.cli.terminal import echo
from fltk.errors import UsageError

if TYPE_CHECKING:
    from fltk.evaluation.tokens import Tokens
    from fltk.plots.embeddings import Marks
    from fltk.registry import RunRow, Store

CLUSTERED = "cluster-kmeans, cluster-gmm, cfl, ifca, oracle, and attn with --set hier=kmeans"


@command(
    "embeddings",
    examples=("fltk plot embeddings run42", "fltk plot embeddings latest --projection tsne --token birth"),
)
@click.argument("run")
@click.option(
    "--token",
    type=Names(("method", "birth")),
    default="method",
    cls=Option,
    section="Figure",
    help="what the method knows clients by, or one round of local work from the common initial model",
)
@click.option(
    "--projection",
    type=Names(("pca", "tsne")),
    default="pca",
    cls=Option,
    section="Figure",
    help="principal components, or t-SNE, which keeps neighbours only",
)
@click.option(
    "--round", "round_", type=int, cls=Option, section="Figure", help="a stored checkpoint [default: the last]"
)
@click.option(
    "--newcomers/--no-newcomers",
    default=True,
    cls=Option,
    section="Figure",
    help="also those of the partition, as they would join now",
)
@figure_options
@click.pass_obj
def embeddings(
    settings: Settings,
    run: str,
    token: str,
    projection: str,
    round_: int | None,
    newcomers: bool,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """Clients as points: who looks alike to the server.

    Colours are known groups, or the label that a client has most of; shapes are the clusters that the method found.
    Tokens are directions; where a method knows clients by their models only and many share one, tokens of one round of
    local work from the initial model are drawn instead. Reads the run's data and a checkpoint.
    """
    from fltk.evaluation.replay import state_of
    from fltk.evaluation.tokens import client_tokens
    from fltk.experiment import Place, job_of, restore
    from fltk.plots.embeddings import client_embeddings, in_plane
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = store.find_run(run, "train")
        place = Place(settings.data_dir)
        config, prepared = restore(found, store, place)
        job = job_of(config, prepared.federation)
        state = state_of(found, store, job, place, round_).state
        tokens = client_tokens(job, state, token, newcomers=newcomers)
        marks = _marks(store, found, tokens)
    if tokens.note:
        settings.say(f"{found.label}: {tokens.note}")
    points = in_plane(tokens.rows, projection, found.seed)
    chosen = (None if token == "method" else token, None if projection == "pca" else projection)
    name = figure_name("embeddings", [found.id], *chosen, round_ and f"round{round_}", None if newcomers else "clients")
    write_figure(
        lambda w: client_embeddings(points, marks, width=w or COLUMN, seed=found.seed), name, output, data, width
    )


def _marks(store: Store, run: RunRow, tokens: Tokens) -> Marks:
    """Colours and shapes of the clients whose tokens are drawn."""
    import numpy as np

    from fltk.plots.embeddings import Marks, kind_of
    from fltk.plots.stored import groups_of, summary_of

    summary = summary_of(store, run)
    ids = list(tokens.ids)
    groups = groups_of(summary, summary["clients"] + summary["newcomers"])
    counts = np.array(summary["label_counts"])[ids]
    kind, title, names = kind_of(None if groups is None else groups[ids].tolist(), counts, summary["classes"])
    return Marks(kind, title, names, tokens.clusters, tokens.newcomers)


@command(
    "clusters",
    examples=("fltk plot clusters run42", "fltk plot clusters latest --width page -o clusters.pdf"),
)
@click.argument("run")
@figure_options
@click.pass_obj
def clusters(settings: Settings, run: str, output: Path | None, data: Path | None, width: str | None) -> None:
    """Who is in which cluster, round by round.

    For methods that put clients into clusters (cluster-kmeans, cluster-gmm, cfl, ifca, oracle, and attn with --set
    hier=kmeans or hier=gmm).
    Where the true groups are known, clients are ordered by them and the adjusted Rand index is drawn above.
    """
    from fltk.plots.clusters import Membership, cluster_membership
    from fltk.plots.stored import groups_of, summary_of
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = store.find_run(run, "train")
        if "cluster" not in store.client_keys(found.id):
            raise UsageError(f"{found.label} ({found.method}) has no clusters; {CLUSTERED} make some")
        rounds, table = store.client_values(found.id, "cluster")
        groups = groups_of(summary_of(store, found), table.shape[1])
        agreement = _at(store, found, rounds) if groups is not None else None
    member = Membership(rounds, table, groups, agreement)
    write_figure(
        lambda w: cluster_membership(member, width=w or COLUMN, seed=found.seed),
        f"clusters-run{found.id}",
        output,
        data,
        width,
    )


def _at(store: Store, run: RunRow, rounds: Any) -> Any:
    """The adjusted Rand index at these rounds, NaN where there is none; None if there never is."""
    import numpy as np

    if "cluster_ari" not in store.scalar_keys(run.id):
        return None
    known = dict(zip(*(a.tolist() for a in store.scalars(run.id, "cluster_ari")["cluster_ari"]), strict=True))
    return np.array([known.get(int(number), np.nan) for number in rounds])


@command(
    "attention-gif",
    examples=("fltk plot attention-gif run42", "fltk plot attention-gif latest --fps 8 -o maps.gif"),
)
@click.argument("run")
@click.option(
    "--rounds", cls=Option, section="Figure", help="rounds separated by commas [default: all that have a map]"
)
@click.option(
    "--layer",
    default="whole",
    cls=Option,
    section="Figure",
    help="part of the model whose map is shown, for methods that treat parts differently",
)
@click.option("--fps", default=4.0, cls=Option, section="Figure", help="rounds a second")
@film_options
@click.pass_obj
def attention_gif(
    settings: Settings,
    run: str,
    rounds: str | None,
    layer: str,
    fps: float,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """How a collaboration map came about, as an animated GIF.

    One frame a round, drawn as by `fltk plot attention-maps`, on one colour scale. --output ends in .gif.
    """
    from fltk.plots.map_evolution import check_film_path, check_fps, map_evolution, save_film
    from fltk.plots.save import check_data_path, save_data
    from fltk.plots.stored import map_panels
    from fltk.plots.style import COLUMN, DOUBLE
    from fltk.registry import Store

    check_fps(fps)
    if layer == "all" or "," in layer:
        raise UsageError("--layer takes a single part of the model here")
    with Store(settings.db, readonly=True) as store:
        found = store.find_run(run, "train")
        if output is None:
            FOLDER.mkdir(exist_ok=True)
            name = figure_name("attention", [found.id], rounds, None if layer == "whole" else layer)
            output = FOLDER / f"{name}.gif"
        check_film_path(output)
        if data is not None:
            check_data_path(data)
        panels, who = map_panels(store, found, rounds_of(rounds) or store.map_rounds(found.id), layer)
    film, rows = map_evolution(panels, who, width=DOUBLE if width == "page" else COLUMN, fps=fps, seed=found.seed)
    save_film(film, output)
    echo(output)
    if data is not None:
        save_data(rows, data)
        echo(data)


@command(
    "attention-stats",
    examples=("fltk plot attention-stats run1 run2 run3", "fltk plot attention-stats latest --data stats.csv"),
)
@click.argument("run", nargs=-1, required=True)
@figure_options
@click.pass_obj
def attention_stats(
    settings: Settings, run: tuple[str, ...], output: Path | None, data: Path | None, width: str | None
) -> None:
    """Self-weight and row entropy of the collaboration maps over the rounds.

    A self-weight of 1 is local training, an entropy of 1 the same weight for every client. Runs that differ only in
    their seeds become one line with a band of one standard deviation. A run that is not finished has its own line.
    """
    from fltk.plots.attention_stats import MapStats, map_stats
    from fltk.plots.attention_stats import attention_stats as figure
    from fltk.plots.labels import line_labels
    from fltk.plots.stored import map_rounds
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        labels = line_labels([store.find_run(ref, "train") for ref in run])
        stats = []
        for each in labels.runs:
            rounds = map_rounds(store, each)
            stored = (store.maps(each.id, [number])[0] for number in rounds)  # one at a time: maps can be large
            numbers = map_stats((found.round, found.array[0]) for found in stored)
            stats.append(MapStats(labels.names[each.id], *numbers, **labels.tag(each)))
    settings.notes(labels.notes)
    write_figure(
        lambda w: figure(stats, width=w or COLUMN),
        figure_name("attention-stats", [r.id for r in labels.runs]),
        output,
        data,
        width,
    )
