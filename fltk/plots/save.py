"""Writing figures and their data: equal input gives equal bytes, and a file is there whole or not at all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fltk.files import check_path, replacing
from fltk.plots.style import Row, paper

# Formats and the metadata that must be blanked: dates would change the bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def check_figure_path(path: Path, option: str = "--output") -> str:
    """The suffix of a figure file, lower case. UsageError or FltkError that names the option when unusable.

    To be called before long work, so that a mistyped name is told at once.
    """
    return check_path(path, _METADATA, option)


def check_data_path(path: Path, option: str = "--data") -> None:
    """Refuses anything but a .csv file in an existing folder, naming the option."""
    check_path(path, (".csv",), option)


def save_figure(figure: Figure, path: Path, option: str = "--output") -> None:
    """Writes PNG (300 dpi), SVG or PDF by the file's suffix. FltkError when the file cannot be written."""
    _write(path, render(figure, check_figure_path(path, option)), option)


def render(figure: Figure, suffix: str, dpi: int = 300) -> bytes:
    """The bytes of the file with this suffix; `dpi` counts for .png and for images inside the others."""
    buffer = io.BytesIO()
    with paper():
        figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=_METADATA[suffix])
    return buffer.getvalue()


def save_data(rows: Sequence[Row], path: Path, option: str = "--data") -> None:
    """Writes what a figure draws as CSV: UTF-8, floats that read back exactly, unknown values empty."""
    check_data_path(path, option)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    _write(path, text.getvalue().encode(), option)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and math.isnan(value) else value


def _write(path: Path, content: bytes, option: str) -> None:
    with replacing(path, option) as file:
        file.write(content)
