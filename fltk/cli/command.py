"""What commands are made of: global options everywhere, options in sections, help with examples."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.core import ParameterSource

from fltk.cli.context import global_options
from fltk.errors import hint
from fltk.names import fold

# What other programs call our options and commands, folded by `names.fold`; only for suggestions.
OPTION_SYNONYMS = {
    "learningrate": "--lr",
    "locallearningrate": "--lr",
    "algorithm": "--method",
    "algo": "--method",
    "strategy": "--method",
    "data": "--dataset",
    "numclients": "--clients",
    "nclients": "--clients",
    "globalrounds": "--rounds",
    "numrounds": "--rounds",
    "numserverrounds": "--rounds",
    "communicationrounds": "--rounds",
    "localepochs": "--epochs",
    "numepochs": "--epochs",
    "localsteps": "--steps",
    "batchsize": "--batch-size",
    "localbatchsize": "--batch-size",
    "joinratio": "--participation",
    "clientfraction": "--participation",
    "fractiontrain": "--participation",
    "fractionfit": "--participation",
    "beta": "--alpha",
    "dirichletalpha": "--alpha",
    "evalgap": "--eval-every",
    "defense": "--defence",
    "aggregator": "--defence",
    "attack": "--kind",
    "maliciousfraction": "--malicious",
    "gpu": "--device",
    "out": "--output",
    "randomseed": "--seed",
    "seeds": "--seed",
    "methods": "--method",
    "datasets": "--dataset",
}
COMMAND_SYNONYMS = {
    "run": "train",
    "fit": "train",
    "simulate": "train",
    "simulation": "train",
    "test": "evaluate",
    "list": "runs",
    "ls": "runs",
    "show": "runs",
    "results": "runs",
    "log": "runs",
    "draw": "plot",
    "figure": "plot",
    "visualize": "plot",
    "visualise": "plot",
    "join": "join-new-client",
    "newclient": "join-new-client",
    "rerun": "reproduce",
    "repeat": "reproduce",
    "replay": "reproduce",
    "grid": "sweep",
    "search": "sweep",
    "tune": "sweep",
    "continue": "resume",
    "datasets": "data",
    "algorithms": "methods",
    "strategies": "methods",
    "defenses": "defences",
    "split": "partition",
    "generate": "partition",
    "query": "sql",
    "check": "verify",
    "table": "compare",
}


class Finite(click.FloatRange):
    """A finite number in a range: click's ranges let NaN through, and infinity where a side is open."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a usage error that names the option."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return float(number)


class Option(click.Option):
    """An option that `--help` shows under a heading of its own."""

    def __init__(self, *args: Any, section: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable is called as one types it, FLTK_TRAIN_ROUNDS, and not after the name in the code.

        What a group does without the name of a member needs none in the variable either: FLTK_RUNS_METHOD.
        """
        if not self.allow_from_autoenv:
            return None
        word = max(self.opts, key=len).lstrip("-").replace("-", "_").upper()
        above = ctx.parent
        short = above is not None and getattr(above.command, "shorthand", None) == ctx.command.name
        prefixes = [ctx.auto_envvar_prefix, above.auto_envvar_prefix if above is not None and short else None]
        return next((found for prefix in prefixes if prefix and (found := os.environ.get(f"{prefix}_{word}"))), None)

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """The value; one without content is refused, since an unset shell variable must not mean the default."""
        given = value if isinstance(value, list | tuple) else [value]
        if ctx.get_parameter_source(self.name or "") is ParameterSource.COMMANDLINE and any(map(_empty, given)):
            raise click.UsageError(f"{max(self.opts, key=len)} must not be empty", ctx)
        return super().process_value(ctx, value)


def _empty(value: Any) -> bool:
    """Whether this is a text, or a list separated by commas, with nothing in it."""
    return isinstance(value, str) and not value.replace(",", " ").strip()


class Command(click.Command):
    """A click command that also takes the global options and shows its own in sections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *global_options(hidden=True)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it; for an unknown option that has another name in other programs, ours is suggested."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            own = OPTION_SYNONYMS.get(fold(error.option_name))
            known = {name for param in self.params for name in param.opts}
            if own is None or own not in known:
                raise
            told = f"No such option {error.option_name!r}. Did you mean {own!r}?"
            raise click.UsageError(told, error.ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Sections in order of appearance, the general one last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        general = sections.pop("Options", [])
        for title, records in [*sections.items(), ("Options", general)]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Group(click.Group):
    """A click group of such commands that says what was close when a name is mistyped."""

    command_class = Command
    group_class = type
    shorthand: str | None = None  # the member that is meant where none is named

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *self.shared_options()]

    def shared_options(self) -> list[click.Parameter]:
        """The global options; only the outermost group shows them."""
        return global_options(hidden=True)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command with the nearest names."""
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(near_match("command", args[0], known), ctx=ctx)
        return super().resolve_command(ctx, args)


def behind_global(args: list[str]) -> int:
    """Where the first word stands that is no global option."""
    with_value, alone = ("--db", "--data-dir"), ("-q", "--quiet", "-v", "-vv", "--verbose", "--color", "--no-color")
    position = 0
    while position < len(args) and args[position].split("=")[0] in (*with_value, *alone):
        position += 2 if args[position] in with_value else 1
    return min(position, len(args))


def near_match(kind: str, name: str, known: Iterable[str]) -> str:
    """`no such command 'tra'; did you mean train?`, or what there is."""
    return f"no such {kind} {name!r}; {hint(name, list(known), COMMAND_SYNONYMS)}"


def epilog(*examples: str) -> str:
    """The end of a command's help: examples as a user types them, protected from click's re-wrapping."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)


def command(name: str, *, examples: Iterable[str]) -> Callable[[Callable[..., Any]], Command]:
    """Declare a command of fltk; the first sentence of the docstring is its help, `examples` ends it."""
    return click.command(name, cls=Command, epilog=epilog(*examples))


def group(name: str, *, examples: Iterable[str]) -> Callable[[Callable[..., Any]], Group]:
    """Declare a group of commands; its members come from `@NAME.command("member", epilog=epilog(...))`."""
    return click.group(name, cls=Group, epilog=epilog(*examples))
