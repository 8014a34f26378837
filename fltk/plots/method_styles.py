"""One colour and one marker per method, the same in every figure.

Built-in methods have theirs in a table. Other methods get theirs from a hash of their name, among the pairs of colour
and marker that no built-in method has, so that a method looks the same in every figure and in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.colors import to_hex, to_rgb

# Okabe and Ito's palette, with a wine red in place of its yellow, which is too light for lines on white.
BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PINK, ORANGE, SKY, WINE = "#CC79A7", "#E69F00", "#56B4E9", "#882255"
COLOURS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK, WINE)
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "d")

SOLID, LONG, DOTTED, DASH_DOT, SHORT = "-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3))
DASHES: tuple[Any, ...] = (SOLID, LONG, DOTTED, DASH_DOT, SHORT)

# Methods that are often compared differ in colour and marker; relatives share a colour and differ in marker and dash.
TABLE: dict[str, tuple[str, str, Any]] = {
    "local": (BLACK, "X", DOTTED),
    "oracle": (BLACK, "*", SHORT),
    "fedavg": (VERMILION, "s", SOLID),
    "fedprox": (VERMILION, "v", LONG),
    "scaffold": (VERMILION, "P", DOTTED),
    "fedavgm": (VERMILION, "o", LONG),
    "fedadagrad": (VERMILION, "X", SHORT),
    "fedadam": (VERMILION, "D", DASH_DOT),
    "fedyogi": (VERMILION, "<", DOTTED),
    "feddf": (ORANGE, "s", SOLID),
    "ccvr": (ORANGE, "p", SHORT),
    "pfedgraph": (PINK, "s", DOTTED),
    "moon": (ORANGE, "X", DOTTED),
    "fedmd": (BLACK, "D", LONG),
    "fedem": (WINE, "o", LONG),
    "fedsoft": (WINE, "s", DOTTED),
    "fedavg-ft": (ORANGE, "^", LONG),
    "perfedavg": (ORANGE, "<", DASH_DOT),
    "fedper": (SKY, "D", DASH_DOT),
    "fedrep": (SKY, "d", LONG),
    "lg-fedavg": (SKY, "v", DOTTED),
    "fedbn": (VERMILION, "p", DASH_DOT),
    "fedala": (SKY, ">", SHORT),
    "ditto": (GREEN, "v", SHORT),
    "pfedme": (GREEN, "<", DOTTED),
    "apfl": (GREEN, "P", DASH_DOT),
    "fedamp": (PINK, "P", LONG),
    "heurfedamp": (PINK, "p", DASH_DOT),
    "ifca": (WINE, "<", DASH_DOT),
    "cfl": (WINE, "X", LONG),
    "cluster-kmeans": (WINE, "d", DOTTED),
    "cluster-gmm": (WINE, "p", SHORT),
    "attn": (BLUE, "o", SOLID),
}
_TAKEN = {(colour, marker) for colour, marker, _ in TABLE.values()}

# The second, third, ... variant of a method: its own colour, with these shares of black or white.
_SHADES = ((0.0, 0.0), (0.5, 0.0), (0.45, 1.0))
_SHADES_OF_BLACK = ((0.0, 0.0), (0.3, 1.0), (0.55, 1.0))


@dataclass(frozen=True)
class LineStyle:
    """What tells a line from the others, in colour and in grey. `hollow`: its markers are white inside."""

    color: str
    marker: str
    dash: Any
    hollow: bool = False

    @property
    def face(self) -> str:
        """The colour inside its markers."""
        return "white" if self.hollow else self.color

    @property
    def edge(self) -> str:
        """The colour around its markers: white where lines cross them."""
        return self.color if self.hollow else "white"


def method_style(name: str) -> LineStyle:
    """The style of a method, whatever else a figure draws."""
    if name in TABLE:
        return LineStyle(*TABLE[name])
    return _hashed(name, 0)


def line_styles(lines: Iterable[tuple[str, str]]) -> dict[str, LineStyle]:
    """A style for each line, given as (label, method): label -> style, all different.

    The first line of a method has the method's style. Further lines of it keep its marker and hue and differ in
    lightness, dash and filling.
    """
    methods = dict(lines)
    of_method = _method_styles(set(methods.values()))

    found: dict[str, LineStyle] = {}
    drawn = dict.fromkeys(of_method, 0)
    for label, method in methods.items():
        found[label] = _variant(of_method[method], drawn[method])
        drawn[method] += 1
    return found


def _method_styles(names: set[str]) -> dict[str, LineStyle]:
    """Styles of methods; of two that hash to the same pair, the second by name takes another one."""
    found: dict[str, LineStyle] = {}
    used = set(_TAKEN)
    for name in sorted(names):
        if name in TABLE:
            found[name] = method_style(name)
            continue

        attempt = 0
        style = _hashed(name, attempt)
        while (style.color, style.marker) in used and attempt < 1000:
            attempt += 1
            style = _hashed(name, attempt)
        used.add((style.color, style.marker))
        found[name] = style
    return found


def _hashed(name: str, attempt: int) -> LineStyle:
    """The style that a name and the number of an attempt hash to, none of a built-in method."""
    digest = hashlib.sha256(f"{name}/{attempt}".encode()).digest()
    free = [(colour, marker) for colour in COLOURS for marker in SHAPES]
    free = _without(free, _TAKEN)
    colour, marker = free[int.from_bytes(digest[:4], "big") % len(free)]
    return LineStyle(colour, marker, DASHES[digest[4] % len(DASHES)])


def _without(pairs: Sequence[tuple[str, str]], taken: set[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for pair in pairs if pair not in taken]


def _variant(style: LineStyle, k: int) -> LineStyle:
    """The k-th line of a method; 30 of them differ."""
    if k == 0:
        return style
    shades = _SHADES_OF_BLACK if style.color == BLACK else _SHADES
    share, grey = shades[k % len(shades)]
    red, green, blue = ((1 - share) * part + share * grey for part in to_rgb(style.color))
    first = DASHES.index(style.dash)
    return replace(style, color=to_hex((red, green, blue)), dash=DASHES[(first + k) % len(DASHES)], hollow=k % 2 == 1)
