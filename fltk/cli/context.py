"""What every command knows: the registry, the data folder, how much to say and in which colours."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fltk.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_DB = "results.db"
Callback = Callable[[click.Context, click.Parameter, Any], None]


@dataclass(frozen=True)
class Settings:
    """The global options, as `ctx.obj` (use `@click.pass_obj`)."""

    db: str = DEFAULT_DB
    data_dir: Path | None = None
    verbosity: int = 0  # -1: errors only, 0: normal, 1: more, 2: with tracebacks
    colour: bool | None = None  # None: as the terminal allows

    @property
    def quiet(self) -> bool:
        """Errors only."""
        return self.verbosity < 0

    def console(self, *, stderr: bool = True, width: int | None = None) -> Console:
        """A rich console that keeps to the colour choice; on stderr unless told otherwise.

        Colour is forced through the colour system and not through `force_terminal`, which would also animate
        progress bars into log files.
        """
        from rich.console import Console

        system: Any = "auto" if self.colour is None else "standard" if self.colour else None
        plain = None if self.colour is None else not self.colour
        return Console(stderr=stderr, width=width, highlight=False, color_system=system, no_color=plain)

    def say(self, message: str, *, level: int = 0) -> None:
        """One line on stderr for a person; `level` 1 needs -v, and -q silences all."""
        if self.verbosity >= level:
            # Through sys.stderr as it is now: click would write below a live display, which then stays on the screen.
            print(message, file=sys.stderr)

    def notes(self, texts: Iterable[str]) -> None:
        """What a reader of a figure or table should know, a line each."""
        for text in texts:
            self.say(f"note: {text}")


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection, for a command that reads many runs and ends; also a decorator.

    Rows make no cycles, and looking for some among ten thousand of them takes a sixth of the time of a command.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """--db, --data-dir, --color, -q and -v.

    The group shows them; every command takes them too, hidden, because people type them last. What stands
    after the command wins.
    """

    shared: dict[str, Any] = {"expose_value": False, "hidden": hidden, "is_eager": True, "default": None}
    shared |= {"show_default": False, "allow_from_autoenv": False}

    def make(names: str, text: str, callback: Callback, env: str | None = None, **more: Any) -> click.Option:
        """Only the group reads variables; its commands would read them again over its options."""
        variable = None if hidden else env
        return click.Option(names.split(), callback=callback, help=text, envvar=variable, **shared, **more)

    db = f"registry of runs [env: FLTK_DB; default: {DEFAULT_DB}]"
    folder = "folder with data sets [env: FLTK_DATA; default: ~/.cache/fltk]"
    colour = "colours [env: FLTK_COLOR; default: on terminals, unless NO_COLOR is set]"
    quiet = "print errors only on stderr [env: FLTK_QUIET=1]"
    more = "say more; -vv shows tracebacks of internal errors [env: FLTK_VERBOSE=2]"
    set_db, set_folder = _store("db", str), _store("data_dir", lambda text: Path(text).expanduser())
    set_quiet, set_verbosity = _store("verbosity", lambda quiet: -1), _store("verbosity", int)
    return [
        make("--db global_db", db, set_db, "FLTK_DB", metavar="FILE|URL"),
        make("--data-dir global_data", folder, set_folder, "FLTK_DATA", metavar="FOLDER"),
        make("--color/--no-color global_color", colour, _set_colour, "FLTK_COLOR"),
        make("-q --quiet global_quiet", quiet, set_quiet, "FLTK_QUIET", is_flag=True),
        make("-v --verbose global_verbose", more, set_verbosity, "FLTK_VERBOSE", count=True),
    ]


def _store(name: str, convert: Callable[[Any], Any]) -> Callback:
    """A callback that puts a given value into the settings and leaves them alone otherwise."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        settings = ctx.ensure_object(Settings)
        if value == "" and ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            raise UsageError(f"{param.opts[0]} must not be empty")  # an unset shell variable must not mean the default
        if value:
            _set(ctx, replace(settings, **{name: convert(value)}))

    return callback


def _set_colour(ctx: click.Context, param: click.Parameter, value: bool | None) -> None:
    """click ignores NO_COLOR, so that the variable is read here; the option wins over it."""
    settings = ctx.ensure_object(Settings)
    if value is None and settings.colour is None and os.environ.get("NO_COLOR"):
        value = False
    if value is not None:
        _set(ctx, replace(settings, colour=value))
        ctx.color = value


def _set(ctx: click.Context, settings: Settings) -> None:
    """For this command and for the outermost group, which reports its errors."""
    ctx.obj = ctx.find_root().obj = settings
