"""`fltk runs rm`, `restore`, `tag` and `note`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Option, command
from fltk.cli.context import Settings
from fltk.cli.output import Column, emit, output_options
from fltk.cli.terminal import echo_exact
from fltk.errors import DamagedRun

if TYPE_CHECKING:
    from fltk.registry import RunRow, Store

COLUMNS = [Column("run"), Column("name"), Column("method"), Column("seed"), Column("state")]
TAGGED = [Column("run"), Column("name"), Column("method"), Column("tags")]


@command("rm", examples=("fltk runs rm run42", "fltk runs rm failed-one run7 run8"))
@click.argument("run", nargs=-1, required=True)
@output_options
@click.pass_obj
def remove(settings: Settings, /, run: tuple[str, ...], format: str) -> None:
    """Remove runs from all lists.

    `fltk runs restore` brings them back; nothing is deleted before `fltk db gc`. Runs that were made of a removed one
    stay. When one run cannot be removed, none is.
    """
    _change(settings, run, format, "removed", lambda store: store.find_run, lambda store: store.remove_runs)


@command("restore", examples=("fltk runs restore run42", "fltk runs restore run7 run8"))
@click.argument("run", nargs=-1, required=True)
@output_options
@click.pass_obj
def restore(settings: Settings, /, run: tuple[str, ...], format: str) -> None:
    """Bring removed runs back.

    `fltk runs --removed` lists them.
    """
    _change(settings, run, format, "restored", lambda store: store.find_removed, lambda store: store.restore_runs)


def _change(
    settings: Settings,
    refs: Sequence[str],
    format: str,
    state: str,
    find: Callable[[Store], Callable[[str], RunRow]],
    change: Callable[[Store], Callable[[Sequence[int]], None]],
) -> None:
    """Find all runs, then change them together."""
    from fltk.registry import Store

    lines: dict[int, dict[str, Any]] = {}
    with Store(settings.db) as store:
        for ref in refs:
            try:
                row = find(store)(ref)
            except DamagedRun as damaged:  # it can be removed, though not be read
                lines[damaged.run] = {"run": f"run{damaged.run}", "state": f"{state}, damaged"}
            else:
                lines[row.id] = _line(row) | {"state": state}
        change(store)(list(lines))
    emit(list(lines.values()), COLUMNS, format)


def _line(row: RunRow) -> dict[str, Any]:
    return {"run": f"run{row.id}", "name": row.name, "method": row.method, "seed": row.seed}


@command("tag", examples=("fltk runs tag paper=table1 run1 run2 run3", "fltk runs tag --remove draft run42"))
@click.argument("tag", metavar="KEY[=VALUE]")
@click.argument("run", nargs=-1, required=True)
@click.option("--remove", is_flag=True, cls=Option, section="Tag", help="take the tag off instead")
@output_options
@click.pass_obj
def tag(settings: Settings, /, tag: str, run: tuple[str, ...], remove: bool, format: str) -> None:
    """Put a tag on runs.

    A tag with the same key is replaced. `fltk runs --tag KEY[=VALUE]` lists the runs that have it.
    """
    from fltk.registry import Store

    key, _, value = tag.partition("=")
    with Store(settings.db) as store:
        rows = {row.id: row for row in map(store.find_run, run)}
        for number in rows:
            if remove:
                store.remove_tag(number, key)
            else:
                store.set_tag(number, key, value)
        changed = [store.find_run(number) for number in rows]
    shown = [_line(row) | {"tags": [k + (f"={v}" if v else "") for k, v in row.tags.items()]} for row in changed]
    emit(shown, TAGGED, format)


@command("note", examples=("fltk runs note run42 'the one of figure 3'", "fltk runs note run42"))
@click.argument("run")
@click.argument("text", required=False)
@click.pass_obj
def note(settings: Settings, /, run: str, text: str | None) -> None:
    """Write or print the note of a run.

    TEXT takes the place of the note that is there. It may have many lines; `-` reads it from the standard input, and
    '' removes the note.
    """
    from fltk.registry import Store
    from fltk.registry.base import NOTE_LENGTH

    if text is None:
        with Store(settings.db, readonly=True) as store:
            found = store.find_run(run).note
        if found:
            echo_exact(found)
        return
    # One character more than is admitted, so that a longer one is refused without being read to its end.
    content = sys.stdin.read(NOTE_LENGTH + 2).rstrip("\n") if text == "-" else text
    with Store(settings.db) as store:
        store.set_note(store.find_run(run).id, content)


EDITS = (remove, restore, tag, note)
