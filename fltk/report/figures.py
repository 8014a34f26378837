"""Figures inside the page: as SVG, or as PNG where thousands of marks would make that larger."""

from __future__ import annotations

import base64

from matplotlib.figure import Figure

from fltk.plots.save import render
from fltk.report.markup import Safe, box, element

PIXELS = 96  # CSS pixels of an inch
DPI = 200  # of images: sharp on a phone's screen
WIDE = 420  # CSS pixels: broader figures scroll on a phone, so that their type stays readable


def image(figure: Figure, alt: str, caption: str) -> Safe:
    """A figure with its caption. `alt` says what is drawn to who cannot see it."""
    width, height = (round(PIXELS * inches) for inches in figure.get_size_inches())
    drawn, kind = render(figure, ".svg", DPI), "svg+xml"
    if len(drawn) > 200_000:
        small = render(figure, ".png", DPI)
        drawn, kind = (small, "png") if len(small) < len(drawn) else (drawn, kind)
    source = f"data:image/{kind};base64,{base64.b64encode(drawn).decode()}"
    picture = element("img", src=source, alt=alt, width=width, height=height)
    wide = width > WIDE
    shown = box(picture, alt) if wide else picture
    return element("figure", shown, element("figcaption", caption), class_="wide" if wide else None)


def row(*figures: Safe) -> Safe:
    """Figures beside each other where there is room."""
    return element("div", *figures, class_="figures") if figures else Safe()
