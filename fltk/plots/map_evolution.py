"""How a collaboration map came about: one frame per round, as an animated GIF."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fltk.errors import FltkError, UsageError
from fltk.files import check_path, replacing
from fltk.plots.attention_maps import attention_maps, panel_title
from fltk.plots.map_data import Clients, MapPanel, map_rows, order_clients
from fltk.plots.style import COLUMN, Array, Row, paper

DPI = 200
HOLD = 5  # the last frame stays this many times as long
MOST_MS = 65_535  # a GIF's longest frame, in ms, as many viewers have it


@dataclass(frozen=True)
class Film:
    """Frames of equal size (height, width, 3) uint8 and the milliseconds that each is shown."""

    frames: tuple[Array, ...]
    durations: tuple[int, ...]


def map_evolution(
    panels: Sequence[MapPanel],
    clients: Clients | None = None,
    *,
    width: float = COLUMN,
    fps: float = 4.0,
    seed: int | None = None,
) -> tuple[Film, list[Row]]:
    """The maps of `panels` one after another on one colour scale, beside what `attention_maps` draws.

    width in inches, at 200 dots an inch. fps: rounds a second. seed: of the run, for the caption.
    FltkError without maps.
    """
    if not panels:
        raise FltkError("no collaboration map to draw: the run stored none at these rounds")
    clients = clients or Clients()
    order = order_clients(clients, len(panels[0].weights))
    cells = np.ix_(order, order)
    frames = []
    with paper():
        # The panel with the largest weights makes the figure, so that its scale fits every frame.
        figure, _ = attention_maps([_limit(panels)], clients, width=width, seed=seed)
        ax = figure.axes[0]
        image = ax.get_images()[0]
        for panel in panels:
            image.set_data(np.asarray(panel.weights, np.float64)[cells])
            # p would flicker, and set_title would put the text back over the marks of attackers
            ax.title.set_text(panel_title(replace(panel, p_value=math.nan), clients))
            frames.append(_pixels(figure))

    step = round(1000 / fps)
    durations = [step] * len(frames)
    durations[-1] = min(HOLD * step, MOST_MS)
    return Film(tuple(frames), tuple(durations)), map_rows(panels, clients, order)


def _pixels(figure: Figure) -> Array:
    """(height, width, 3) uint8."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=DPI)
    width, height = (int(side * DPI) for side in figure.get_size_inches())
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].copy()


def save_film(film: Film, path: Path, option: str = "--output") -> None:
    """Writes an animated GIF that repeats; equal films give equal bytes. FltkError when it cannot be written."""
    check_film_path(path, option)
    images = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in film.frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=list(film.durations),
        loop=0,
        disposal=1,
    )
    with replacing(path, option) as file:
        file.write(buffer.getvalue())


def check_film_path(path: Path, option: str = "--output") -> None:
    """Refuses anything but a .gif file in an existing folder, naming the option."""
    check_path(path, (".gif",), option)


def check_fps(fps: float) -> None:
    """Refuses speeds that a GIF cannot have."""
    if not 0.1 <= fps <= 50:
        raise UsageError(f"--fps must lie between 0.1 and 50, not {fps:g}")


def _limit(panels: Sequence[MapPanel]) -> MapPanel:
    """A panel whose colour scale is the common one: each cell's largest weight over the rounds."""
    stack = np.stack([np.asarray(panel.weights, np.float64) for panel in panels])
    top = np.nanmax(np.where(np.isfinite(stack), stack, -np.inf), axis=0)
    return MapPanel(panels[0].round, np.where(np.isfinite(top), top, np.nan), panels[0].alignment, panels[0].p_value)
