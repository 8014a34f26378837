"""`fltk`: finds the command, imports only that one, and turns every failure into one line and an exit code.

0 done; 1 expected failure; 2 wrong usage; 3 not what was stored; 130 interrupted. A command may return another code as
an int.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import select
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

import click

from fltk import __version__
from fltk.cli.command import Group, epilog
from fltk.cli.context import Settings, global_options
from fltk.cli.terminal import echo
from fltk.errors import FltkError
from fltk.own_code import blame
from fltk.signals import ignore, interrupt_once


@dataclass(frozen=True)
class Entry:
    """Where a command lives and what the overview says about it, so that the overview imports no command."""

    target: str
    section: str
    help: str


COMMANDS = {
    "data": Entry("fltk.cli.data:data", "Prepare", "List the data sets and which of them are available."),
    "partition": Entry(
        "fltk.cli.partition:partition", "Prepare", "Partition a data set across clients and measure heterogeneity."
    ),
    "methods": Entry("fltk.cli.methods:methods", "Prepare", "List the methods, or explain one."),
    "attacks": Entry("fltk.cli.threats:attacks", "Prepare", "List the attacks, or explain one."),
    "defences": Entry("fltk.cli.threats:defences", "Prepare", "List the defences, or explain one."),
    "train": Entry("fltk.cli.train:train", "Experiment", "Train a federation with one method."),
    "sweep": Entry(
        "fltk.cli.sweep:sweep", "Experiment", "Run a hyper-parameter grid or search over methods and seeds."
    ),
    "watch": Entry("fltk.cli.watch:watch", "Experiment", "Follow a run in progress."),
    "resume": Entry("fltk.cli.resume:resume", "Experiment", "Continue a stopped or killed run."),
    "reproduce": Entry(
        "fltk.cli.reproduce:reproduce", "Experiment", "Re-run a stored run and check that it is bit-identical."
    ),
    "attack": Entry(
        "fltk.cli.attack:attack", "Experiment", "Train with malicious clients, compared with an unattacked baseline."
    ),
    "join-new-client": Entry(
        "fltk.cli.join:join_new_client", "Experiment", "Evaluate new (unseen) clients joining a trained federation."
    ),
    "evaluate": Entry(
        "fltk.cli.evaluate:evaluate",
        "Experiment",
        "Evaluate a run on every client, before and after local fine-tuning.",
    ),
    "bench": Entry("fltk.cli.bench:bench", "Experiment", "Measure how fast fltk is on this machine."),
    "runs": Entry("fltk.cli.runs:runs", "Look at results", "List, show, label and remove runs."),
    "compare": Entry("fltk.cli.compare:compare", "Look at results", "Compare methods over settings and seeds."),
    "diff": Entry("fltk.cli.diff:diff", "Look at results", "Show the differences between runs."),
    "export": Entry(
        "fltk.cli.export:export", "Look at results", "Export results (csv, parquet, npz) and weights (safetensors)."
    ),
    "plot": Entry("fltk.cli.plot:plot", "Look at results", "Draw figures of runs."),
    "report": Entry("fltk.cli.report:report", "Look at results", "Write an HTML report about runs."),
    "sql": Entry("fltk.cli.sql:sql", "Look at results", "Query the registry with a SELECT."),
    "verify": Entry("fltk.cli.verify:verify", "Maintain the registry", "Verify the integrity of the stored results."),
    "db": Entry("fltk.cli.db:db", "Maintain the registry", "Merge, upgrade, clean and describe the registry."),
}


class Interrupted(FltkError):
    """Ctrl-C, after the command had its chance to save, and to say in the exception how to go on."""

    exit_code = 130


class InternalError(FltkError):
    """A bug: everything that is no expected failure."""


class LazyGroup(Group):
    """The outermost group: a literal table of commands, each imported when it is used."""

    def shared_options(self) -> list[click.Parameter]:
        """Shown here, hidden in the commands."""
        return global_options(hidden=False)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table, which follows the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, by workflow."""
        width = max(len(name) for name in COMMANDS)
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                rows = [(name.ljust(width), entry.help) for name, entry in COMMANDS.items() if entry.section == section]
                formatter.write_dl(rows)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Options such as --help print here already, before there is anything to invoke."""
        with _expected():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _expected():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextmanager
def _expected() -> Iterator[None]:
    """Failures of every other kind become a `FltkError`."""
    try:
        yield
    except (FltkError, click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except KeyboardInterrupt as stop:
        raise Interrupted("; ".join(["interrupted", *map(str, stop.args)])) from None
    except BrokenPipeError as error:
        if _reader_left():
            raise  # click keeps quiet about it
        raise _internal(error) from None
    except OSError as error:
        if isinstance(error, ConnectionError) or error.strerror is None:
            raise _internal(error) from None
        _show_traceback(error)
        place = error.filename or ("stdout" if _fails(sys.stdout) else "")
        raise FltkError(f"{place}: {error.strerror}" if place else error.strerror) from None
    except Exception as error:
        own = blame(error)
        if own is not None:  # raised in the user's code: its line is what they need
            _show_traceback(error)
        raise own or _internal(error) from None


def _reader_left() -> bool:
    """Whether stdout is the broken pipe, and not one between worker processes."""
    try:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)  # errors are reported unasked
    except (AttributeError, OSError):  # no such call on this system; stdout is no file
        return False
    return bool(poller.poll(0))


def _fails(stream: TextIO) -> bool:
    """Whether a stream cannot take what was printed, which then goes nowhere: Python would complain as it ends."""
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        return True
    return False


def _internal(error: Exception) -> FltkError:
    """One line about a bug, or about too little memory, of which libraries tell in many ways and many lines."""
    _show_traceback(error)
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in first or "out of memory" in first:
        return FltkError("not enough memory: lower --hidden or --clients")
    return InternalError(f"{type(error).__name__}: {first}; run again with -vv for the traceback")


def _show_traceback(error: Exception) -> None:
    """Only for somebody who asked with -vv."""
    context = click.get_current_context(silent=True)
    settings = context.find_object(Settings) if context else None
    if settings is not None and settings.verbosity >= 2:
        echo("".join(traceback.format_exception(error)), nl=False, err=True)


@click.group(
    "fltk",
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "FLTK",
        "show_default": True,
        "max_content_width": 110,
    },
    epilog=epilog("fltk train --method attn --alpha 0.1", "fltk plot attention-maps latest -o maps.png"),
)
@click.version_option(__version__, prog_name="fltk", message="%(prog)s %(version)s")
def cli() -> None:
    """Experiments in personalised federated learning.

    Every option of a command can also come from a variable, such as FLTK_TRAIN_ROUNDS=5 or
    FLTK_RUNS_METHOD=attn. The options below have short ones, and may stand before or after the command.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The `fltk` program. SIGTERM, by which a cluster asks to end, and the end of the terminal are taken like Ctrl-C: a
    run saves its last round.
    """
    _open_streams()
    try:
        interrupt_once()
        code = run(sys.argv[1:] if args is None else args)
        ignore()
    except KeyboardInterrupt:  # before or after the command
        ignore()
        code = 130
    gc.freeze()  # all memory goes with the process; Python would first look for cycles in it, ten thousand runs long
    sys.exit(code)


def _open_streams() -> None:
    """Nowhere in place of a stream that the caller has closed, or a file opened next would stand where it was.

    Worker processes inherit it, for the same reason.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, errors="backslashreplace")  # noqa: SIM115  # to the end of the process
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


class _Told(logging.Handler):
    """Warnings of the library, as one line on stderr; -q silences them."""

    def emit(self, record: logging.LogRecord) -> None:
        context = click.get_current_context(silent=True)
        settings = (context.find_object(Settings) if context else None) or Settings()
        settings.say(f"fltk: {record.getMessage()}")


def run(args: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors become one line on stderr."""
    logger = logging.getLogger("fltk")
    if not any(isinstance(handler, _Told) for handler in logger.handlers):
        logger.addHandler(_Told())
        logger.propagate = False
    try:
        code = cli.main(args=list(args), prog_name="fltk", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _report(_with_hint(error), error.exit_code, error, args)
        return error.exit_code
    except FltkError as error:
        _report(str(error), error.exit_code, error, args)
        return error.exit_code
    except click.Abort as error:
        stopped = isinstance(error.__cause__, KeyboardInterrupt)
        return 130 if stopped else 1


def _with_hint(error: click.ClickException) -> str:
    """click's message, and for wrong usage where to read on."""
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message.rstrip('.')} (see {error.ctx.command_path} --help)"
    return message


def _report(message: str, code: int, error: Exception, args: Sequence[str]) -> None:
    """One line on stderr, or one JSON object where the results would have been JSON."""
    line = " ".join(message.split())
    if _wants_json(args):
        body = {"type": type(error).__name__, "message": line, "exit_code": code}
        text = json.dumps({"schema": 1, "error": body})
    elif isinstance(error, Interrupted):
        text = f"fltk: {line}"
    else:
        kind = "internal error" if isinstance(error, InternalError) else "error"
        text = f"fltk: {kind}: {line}"
    try:
        echo(text, err=True)
    except OSError:  # a full disk, or a terminal that is gone: the exit code is all that can be told
        _fails(sys.stderr)


def _wants_json(args: Sequence[str]) -> bool:
    """Read from the raw arguments, because they may be what is wrong."""
    pairs = zip(args, [*args[1:], ""], strict=False)
    return any(
        word in ("--json", "--format=json", "--format=jsonl") or (word == "--format" and value in ("json", "jsonl"))
        for word, value in pairs
    )
