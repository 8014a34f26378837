"""Figures inside the page: as PNG with a palette, a fifth of the size of the same figure as SVG."""

from __future__ import annotations

import base64
import io

from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from fltk.plots.save import render
from fltk.report import markup

PIXELS = 96  # CSS pixels of an inch
DPI = 160  # of images: sharp on a phone's screen, and when a figure grows with the window
COLOURS = 128  # of an image: enough for smooth colour scales
WIDE = 420  # CSS pixels: broader figures scroll on a phone, so that their type stays readable


def image(figure: Figure, alt: str, caption: str) -> Markup:
    """A figure with its caption. `alt` says what is drawn, for readers who cannot see it."""
    width, height = figure.get_size_inches()
    size = round(PIXELS * width), round(PIXELS * height)
    drawn = base64.b64encode(reduced(render(figure, ".png", DPI))).decode()
    return markup.figure(f"data:image/png;base64,{drawn}", alt, caption, size, size[0] > WIDE)


def reduced(png: bytes) -> bytes:
    """The picture with a palette of colours. Equal input gives equal bytes."""
    with Image.open(io.BytesIO(png)) as picture:
        flat = picture.convert("RGB")
    palette = flat.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def row(*figures: Markup) -> Markup:
    """Figures next to each other where there is room."""
    return markup.figures(figures)
