"""`fltk runs code`."""

from __future__ import annotations

import click

from fltk.cli.command import command
from fltk.cli.context import Settings
from fltk.cli.terminal import echo


@command("code", examples=("fltk runs code run42", "fltk runs code run42 > mine.py"))
@click.argument("run")
@click.pass_obj
def code(settings: Settings, /, run: str) -> None:
    """Print the own code that is stored with a run.

    It is printed as text and not run; characters that a terminal obeys are shown as escapes. Read it before
    `--trust-stored-code`.
    """
    from fltk.registry import Store
    from fltk.registry.plugins import stored_code

    with Store(settings.db, readonly=True) as store:
        found = stored_code(store.find_run(run))
    for one in {code.sha256: code for code in found}.values():
        echo(f"# {one.path} (SHA-256 {one.sha256})")
        echo(one.source.decode("utf-8", "replace").rstrip("\n"))
    if not found:
        settings.say(f"{run} was trained with built-in code alone")
