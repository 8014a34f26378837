"""The pieces of a report as HTML, made by the templates of this package; everything else is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


@cache
def templates() -> Environment:
    """The templates, with everything escaped that is put into them."""
    return Environment(
        loader=PackageLoader("fltk.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )


@cache
def _parts() -> Any:
    """The macros of parts.html."""
    return templates().get_template("parts.html").module


def source(name: str) -> str:
    """The text of a file next to the templates."""
    found, _, _ = PackageLoader("fltk.report").get_source(templates(), name)
    return found


def shown(value: Any) -> Any:
    """A value as the page shows it: None is a dash, a truth value a word, a number has six digits."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return str(value).encode("utf-8", "replace").decode()  # a lone surrogate is no UTF-8


def joined(parts: Iterable[Any], between: str = "") -> Markup:
    """The parts one after another."""
    return escape(between).join(escape(shown(part)) for part in parts)


def number(value: float | None, *, percent: bool = False, digits: int | None = None, sign: bool = False) -> Markup:
    """A number for the eye that carries all its digits: <data value="0.9123456789">91.23</data>; NaN is a dash.

    `digits` decimals, without it six digits as needed; shares in percent have two.
    """
    if value is None or math.isnan(value):
        return Markup("–")
    scaled = 100 * value if percent else value
    places = 2 if percent else digits
    words = f"{scaled:.6g}" if places is None else f"{scaled:.{places}f}"
    if sign and value > 0:
        words = f"+{words}"
    return measured(value, words.replace("-", "−"))


def measured(value: float, words: str) -> Markup:
    """Words that stand for a number, by which a column is sorted."""
    return Markup('<data value="{}">{}</data>').format(repr(float(value)), words)


@dataclass(frozen=True)
class Head:
    """The head of a column; columns of numbers stand right."""

    title: str
    numeric: bool = False


def words(*titles: str) -> list[Head]:
    """Heads of columns of words."""
    return [Head(title) for title in titles]


def numbers(*titles: str) -> list[Head]:
    """Heads of columns of numbers."""
    return [Head(title, numeric=True) for title in titles]


def table(
    caption: str, heads: Sequence[Head], rows: Iterable[Sequence[Any]], ids: Sequence[str] | None = None
) -> Markup:
    """A table whose rows begin with their name, in a box of its own that scrolls; `ids` are anchors of the rows."""
    made = [list(row) for row in rows]
    wrong = [row for row in made if len(row) != len(heads)]
    if wrong:
        raise ValueError(f"{caption}: {len(heads)} heads, but a row of {len(wrong[0])}")
    return Markup(_parts().table(caption, heads, made, ids))


def heading(title: Any) -> Markup:
    """The title of a part of a section."""
    return Markup("<h3>{}</h3>").format(title)


def paragraph(text: Any, class_: str | None = None) -> Markup:
    """One paragraph."""
    if class_ is None:
        return Markup("<p>{}</p>").format(text)
    return Markup('<p class="{}">{}</p>').format(class_, text)


def items(values: Iterable[Any]) -> Markup:
    """A list; nothing where there is nothing to list."""
    made = list(values)
    return Markup(_parts().items(made)) if made else Markup()


def folded(summary: Any, *children: Any) -> Markup:
    """Content that a click on its summary shows."""
    return Markup(_parts().folded(summary, joined(children)))


def code(lines: str) -> Markup:
    """Text to be copied."""
    return Markup("<pre><code>{}</code></pre>").format(lines)


def literal(text: str) -> Markup:
    """A word of a computer's, such as a fingerprint."""
    return Markup("<code>{}</code>").format(text)


def strong(text: Any) -> Markup:
    """What stands out."""
    return Markup("<strong>{}</strong>").format(text)


def emphasis(text: str) -> Markup:
    """A word about a value in place of the value."""
    return Markup("<em>{}</em>").format(text)


def mark(sign: str) -> Markup:
    """A sign after a number, which takes the same room where it is empty."""
    return Markup('<span class="mark">{}</span>').format(sign)


def link(anchor: str, text: str) -> Markup:
    """A link to a place of the page."""
    return Markup('<a href="#{}">{}</a>').format(anchor, text)


def figure(source: str, alt: str, caption: str, size: tuple[int, int], wide: bool) -> Markup:
    """A picture with its caption; a wide one scrolls in a box of its own."""
    return Markup(_parts().figure(source, alt, caption, *size, wide))


def figures(shown: Iterable[Markup]) -> Markup:
    """Figures next to each other where there is room; nothing where there is none."""
    made = list(shown)
    return Markup(_parts().figures(made)) if made else Markup()
