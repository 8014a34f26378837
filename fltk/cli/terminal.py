"""Text on its way to the terminal: the one place where a command prints.

Names, notes, tags, results of SQL and files of others may hold characters that a terminal obeys instead of showing.
Here they become visible: ESC is printed as \\x1b.
"""

from __future__ import annotations

import json
import sys
import unicodedata

import click

KEPT = "\n\t"
JOINERS = "\u200c\u200d"  # change how letters and emoji join, and nothing else
# Control characters, halves of surrogate pairs, line and paragraph separators, and formats such as the marks that turn
# the direction of a line around.
UNSAFE = ("Cc", "Cs", "Zl", "Zp", "Cf")


def echo(text: object = "", *, nl: bool = True, err: bool = False) -> None:
    """Print text for a person to read."""
    if not err:
        click.echo(visible(str(text)), nl=nl)
        return
    # Through sys.stderr as it is now: click would write below a live display, which then stays on the screen.
    print(visible(str(text)), end="\n" if nl else "", file=sys.stderr, flush=True)


def echo_exact(text: str, *, nl: bool = True) -> None:
    """Print text that another program may read: unchanged, unless stdout is a terminal."""
    click.echo(visible(text) if sys.stdout.isatty() else text, nl=nl, color=True)


def echo_rendered(text: str) -> None:
    """Print what `fltk.cli.output.render` made: visible already, and perhaps with rich's colours, which stay."""
    click.echo(text, nl=False, color=True)  # rich has decided; click would take escapes out of CSV


def visible(text: str) -> str:
    """The same text with every character that a terminal would obey written as an escape, such as \\x1b."""
    if text.replace("\n", "").replace("\t", "").isprintable():  # nearly always
        return text
    return "".join(map(_visible, text))


def visible_json(text: str) -> str:
    """JSON with such characters as \\u escapes, which read back as the same text."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(map(_visible_in_json, text))


def _obeyed(char: str) -> bool:
    return char not in KEPT and char not in JOINERS and unicodedata.category(char) in UNSAFE


def _visible(char: str) -> str:
    return ascii(char)[1:-1] if _obeyed(char) else char


def _visible_in_json(char: str) -> str:
    return json.dumps(char)[1:-1] if _obeyed(char) else char
