"""HTML as text: everything is escaped unless it was built here."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_VOID = ("img", "meta", "link")


class Safe(str):
    """Text that is HTML already."""


def text(value: Any) -> Safe:
    """Any value as HTML; None is a dash."""
    if isinstance(value, Safe):
        return value
    if isinstance(value, float):
        return number(value)
    words = "–" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)
    return Safe(html.escape(words.encode("utf-8", "replace").decode()))


def joined(parts: Iterable[Any], between: str = "") -> Safe:
    """The parts one after another."""
    return Safe(html.escape(between).join(text(part) for part in parts))


def element(name: str, /, *children: Any, **attributes: str | int | None) -> Safe:
    """<name attribute="value">children</name>; `class_` stands for class, None leaves an attribute out."""
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    written = (f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    start = f"<{name}{''.join(written)}>"
    return Safe(start if name in _VOID else f"{start}{joined(children)}</{name}>")


def number(value: float | None, *, percent: bool = False, digits: int | None = None, sign: bool = False) -> Safe:
    """A number for the eye that carries all its digits: <data value="0.9123456789">91.23</data>; NaN is a dash.

    `digits` decimals, without it six digits as needed; shares in percent have two.
    """
    if value is None or math.isnan(value):
        return text(None)
    shown = 100 * value if percent else value
    places = 2 if percent else digits
    words = f"{shown:.6g}" if places is None else f"{shown:.{places}f}"
    more = "+" if sign and value > 0 else ""
    return element("data", more + words.replace("-", "−"), value=repr(float(value)))


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


def table(caption: str, heads: Sequence[Head], rows: Iterable[Sequence[Any]]) -> Safe:
    """A table whose rows begin with their name, in a box of its own that scrolls."""
    top = element("tr", *(element("th", head.title, scope="col", class_=_class(head)) for head in heads))
    body = (element("tr", *_cells(heads, row)) for row in rows)
    made = element(
        "table", element("caption", element("span", caption)), element("thead", top), element("tbody", *body)
    )
    return box(made, caption)


def _cells(columns: Sequence[Head], row: Sequence[Any]) -> list[Safe]:
    first, *rest = zip(columns, row, strict=True)
    return [
        element("th", first[1], scope="row", class_=_class(first[0])),
        *(element("td", value, class_=_class(column)) for column, value in rest),
    ]


def _class(column: Head) -> str | None:
    return "n" if column.numeric else None


def box(content: Safe, label: str) -> Safe:
    """What may be wider than a phone: it scrolls by itself, with the keyboard too."""
    return element("div", content, class_="box", role="region", aria_label=label, tabindex="0")


def paragraph(*children: Any, class_: str | None = None) -> Safe:
    """One paragraph."""
    return element("p", *children, class_=class_)


def items(values: Iterable[Any]) -> Safe:
    """A list; nothing where there is nothing to list."""
    made = [element("li", value) for value in values]
    return element("ul", *made) if made else Safe()


def folded(summary: Any, *children: Any) -> Safe:
    """Content behind a line to click on."""
    return element("details", element("summary", summary), *children)


def code(lines: str) -> Safe:
    """Text to be copied."""
    return element("pre", element("code", lines))
