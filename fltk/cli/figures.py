"""What figures of the command line share: --output, --data, --width and --rounds, and writing the files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option
from fltk.cli.options import Names
from fltk.cli.terminal import echo
from fltk.errors import UsageError
from fltk.fields import whole
from fltk.objectives import ACCURACY, headline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fltk.registry import RunRow

FOLDER = Path("plots")
MOST = 4  # runs that a file's name has one by one
LONGEST = 100  # characters of a file's name


def figure_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--output, --data and --width, the same for every figure."""
    return _options("file to write: .png, .svg or .pdf [default: plots/KIND-RUN.png]", function)


def film_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a figure that moves."""
    return _options("file to write: .gif [default: plots/attention-RUN.gif]", function)


def _options(files: str, function: Callable[..., Any]) -> Callable[..., Any]:
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
            help=files,
        ),
    ):
        function = option(function)
    return function


def write_figure(
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
    echo(output)
    if data is not None:
        save_data(rows, data)
        echo(data)


def figure_name(kind: str, runs: Sequence[int], *options: object) -> str:
    """A file's name that tells figures of other runs and options apart: each run, or spans of many, then the options.

    Options that are None were left at their default. Of very long names the end is a digest.
    """
    spans = [[runs[0], runs[0]]] if runs else []
    for number in runs[1:]:
        if len(runs) > MOST and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    told = [f"run{first}" if first == last else f"run{first}to{last}" for first, last in spans]
    told += [re.sub(r"[^\w.+]+", "_", str(value)) for value in options if value is not None]
    name = "-".join([kind, *told])
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def rounds_of(text: str | None) -> list[int] | None:
    """Round numbers of --rounds."""
    if text is None:
        return None
    rounds = []
    for part in text.split(","):
        number = whole(part)
        if number is None:
            raise UsageError(f"--rounds takes whole numbers separated by commas, not {text!r}")
        rounds.append(number)
    return rounds


def drawn_key(key: str | None, runs: Sequence[RunRow]) -> str:
    """The number that is drawn: the one that was named, or the runs' headline measure of personal models on test data.

    UsageError where runs have different ones, which no axis can hold.
    """
    if key is not None:
        return key
    found = {headline(run.last).key for run in runs}
    if len(found) > 1:
        names = " and ".join(sorted(found))
        raise UsageError(f"these runs are scored by {names}: name runs of one measure, or a --key")
    return f"personal_test_{found.pop() if found else ACCURACY.key}"
