"""`fltk plot`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, epilog, group
from fltk.cli.context import Settings
from fltk.cli.options import Names
from fltk.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fltk.registry import RunRow, Store

FOLDER = Path("plots")


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


def figure_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--output, --data and --width, the same for every figure."""
    for option in (
        click.option(
            "--width",
            type=Names(("column", "page")),
            default=None,
            cls=Option,
            section="Figure",
            help="width of one column of a paper, or of the page [default: as the figure needs]",
        ),
        click.option(
            "--data",
            "data",
            type=click.Path(dir_okay=False, path_type=Path),
            cls=Option,
            section="Figure",
            help="also write what was drawn, as CSV",
        ),
        click.option(
            "--output",
            "-o",
            type=click.Path(dir_okay=False, path_type=Path),
            cls=Option,
            section="Figure",
            help="file to write: .png, .svg or .pdf [default: plots/KIND-RUN.png]",
        ),
    ):
        function = option(function)
    return function


def _write(
    draw: Callable[[float | None], tuple[Figure, list[dict[str, Any]]]],
    default: str,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """Check the names first, then draw, write, and say where."""
    from fltk.plots.save import check_data_path, check_figure_path, save_data, save_figure
    from fltk.plots.style import COLUMN, DOUBLE

    if output is None:
        FOLDER.mkdir(exist_ok=True)
        output = FOLDER / f"{default}.png"
    check_figure_path(output)
    if data is not None:
        check_data_path(data)
    figure, rows = draw(None if width is None else {"column": COLUMN, "page": DOUBLE}[width])
    save_figure(figure, output)
    click.echo(output)
    if data is not None:
        save_data(rows, data)
        click.echo(data)


@plot.command(
    "attention-maps",
    epilog=epilog("fltk plot attention-maps run42", "fltk plot attention-maps latest --rounds 1,5,30"),
)
@click.argument("run")
@click.option("--rounds", cls=Option, section="Figure", help="rounds separated by commas [default: about four, spread]")
@click.option(
    "--slice",
    "slice_",
    default="whole",
    cls=Option,
    section="Figure",
    help="part of the model whose map is shown, for methods that treat parts differently",
)
@figure_options
@click.pass_obj
def attention_maps(
    settings: Settings,
    run: str,
    rounds: str | None,
    slice_: str,
    output: Path | None,
    data: Path | None,
    width: str | None,
) -> None:
    """Who learns from whom, round by round.

    Rows receive, columns contribute. Clients are ordered by known group or by similarity of their label distributions,
    which is drawn beside the maps with its off-diagonal correlation. Works for every method.
    """
    import numpy as np

    from fltk.evaluation.metrics import attention_alignment, label_similarity
    from fltk.plots.attention_maps import Clients, MapPanel, spread_rounds
    from fltk.plots.attention_maps import attention_maps as figure
    from fltk.plots.style import DOUBLE
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = store.find_run(run)
        stored = store.maps(found.id, _rounds(rounds) or spread_rounds(store.map_rounds(found.id)))
        summary = _summary(store, found)
    if not stored:
        raise UsageError(f"{found.label} has no maps yet: it has finished no round")
    if slice_ not in stored[0].slices:
        raise UsageError(f"--slice: {found.label} has maps of {', '.join(stored[0].slices)}, not of {slice_!r}")
    at = stored[0].slices.index(slice_)
    counts = np.array(summary["label_counts"])[: summary["clients"]]
    if len(counts) < 2:
        raise UsageError(f"{found.label} has a single client: there is nobody to learn from and no map to draw")
    similarity = label_similarity(counts)
    groups = None if summary["groups"] is None else np.array(summary["groups"])[: summary["clients"]]
    panels = []
    for m in stored:
        fit = attention_alignment(m.array[at], similarity, prior=_prior(found, counts))
        panels.append(MapPanel(m.round, m.array[at], fit.spearman, fit.p_value))
    who = Clients(similarity=similarity, groups=groups)
    _write(lambda w: figure(panels, who, width=w or DOUBLE), f"attention-maps-run{found.id}", output, data, width)


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
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = [store.find_run(ref) for ref in run]
        labels = _labels(found)
        lines = [Curve(labels[r.id], *store.scalars(r.id, key)[key]) for r in found]
    _write(
        lambda w: accuracy_curves(lines, width=w or COLUMN, y_label=_named(key), percent=key.endswith("_acc")),
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
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        found = [store.find_run(ref) for ref in run]
        labels = _labels(found, each=True)
        scores = [ClientScores(labels[r.id], store.client_values(r.id, key)[1][-1]) for r in found]
    _write(
        lambda w: client_accuracy(scores, width=w or COLUMN, y_label=_named(key), percent=key.endswith("_acc")),
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
    import numpy as np

    from fltk.plots.partition import PartitionTable, partition_bubbles
    from fltk.plots.style import COLUMN
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        if ref.startswith("part"):
            row = store.find_partition(ref)
            summary, number = row.summary, row.id
        else:
            run = store.find_run(ref)
            summary, number = _summary(store, run), run.partition_id or 0
    table = PartitionTable(
        counts=np.array(summary["label_counts"]),
        classes=tuple(summary["classes"]),
        newcomers=summary["newcomers"],
        groups=None if summary["groups"] is None else np.array(summary["groups"]),
    )
    _write(lambda w: partition_bubbles(table, width=w or COLUMN), f"partition-part{number}", output, data, width)


def _prior(run: RunRow, counts: Any) -> Any:
    """The data-size prior n^gamma that attn multiplies into its rows; other maps are taken as they are."""
    if run.method != "attn" or run.config["train"]["agg_weights"] == "uniform":
        return None
    return counts.sum(1) ** float(run.config["params"]["gamma"])


def _rounds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--rounds takes whole numbers separated by commas, not {text!r}") from None


def _summary(store: Store, run: RunRow) -> dict[str, Any]:
    if run.partition_id is None:
        raise UsageError(f"{run.label} has no stored partition")
    return store.find_partition(run.partition_id).summary


def _named(key: str) -> str:
    """`personal_test_acc` as a person would say it."""
    return key.replace("_acc", "_accuracy").replace("_", " ")


def _labels(runs: Sequence[RunRow], each: bool = False) -> dict[int, str]:
    """Names of the lines: the method, and what else tells runs apart (the run number only where each is a line)."""
    from fltk.cli.runs import _params

    def label(run: RunRow, *, long: bool) -> str:
        partition = run.config["partition"]
        parts = [run.method, *(f"{k}={v}" for k, v in _params(run).items())]
        if len({str({**r.config["partition"], "partition_seed": 0}) for r in runs}) > 1:
            scheme = partition["scheme"]
            parts.append(
                f"{partition['dataset']} {scheme}" + (f" {partition['alpha']:g}" if "dirichlet" in scheme else "")
            )
        return " ".join(parts) + (f" (run{run.id})" if long else "")

    short = {run.id: label(run, long=False) for run in runs}
    twice = {text for text in short.values() if list(short.values()).count(text) > 1}
    return {run.id: label(run, long=each and short[run.id] in twice) for run in runs}
