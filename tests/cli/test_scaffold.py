"""The frame of the command line: start-up, global options, errors, progress."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from calls import TINY
from click.testing import CliRunner
from processes import RunCli, clean_environment
from stored_runs import add_run

from fltk import __version__
from fltk.cli.command import command, epilog, group
from fltk.cli.context import Settings
from fltk.cli.main import COMMANDS, Entry, cli, run
from fltk.cli.output import output_options
from fltk.cli.progress import RunProgress
from fltk.errors import FltkError, UsageError
from fltk.registry import Store

AGAIN = "run again with -vv for the traceback"
HEAVY = ("torch", "torchvision", "sklearn", "scipy", "matplotlib", "numpy", "sqlalchemy", "alembic")


def python(code: str, *args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a few lines in a fresh interpreter."""
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env=clean_environment(env), capture_output=True, text=True, check=False, timeout=120)


def on_terminal(code: str, env: Mapping[str, str] | None = None) -> str:
    """What a person would see: the same, on a pseudo-terminal."""
    pytest.importorskip("pty")
    spawn = "import pty, sys; pty.spawn([sys.executable, '-c', sys.argv[1]])"
    done = python(spawn, code, env={"TERM": "xterm", "COLUMNS": "100", **(env or {})})
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done.stdout


# Start-up


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["data", "--help"], ["no-such-command"], []])
def test_the_overview_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\nfrom fltk.cli.main import run\ncode = run(sys.argv[1:])\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = python(code, *args)
    assert done.stderr.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("args", [[], ["run1"], ["--by-seed"], ["--method", "attn", "--where", "alpha<9", "--json"]])
@pytest.mark.parametrize("there", [True, False])
def test_listing_runs_needs_no_torch(tmp_path: Path, there: bool, args: list[str]) -> None:
    """Also where there is no registry yet, whichever way that is told."""
    code = (
        "import sys\nfrom fltk.cli.main import run\ncode = run(sys.argv[1:])\n"
        "heavy = [m for m in ('torch', 'sklearn', 'scipy', 'matplotlib') if m in sys.modules]\n"
        "print(code, 'fltk.cli.runs' in sys.modules, heavy, file=sys.stderr)"
    )
    db = tmp_path / "r.db"
    if there:
        with Store(db, create=True) as store:
            add_run(store, "attn")
    done = python(code, "runs", "--db", str(db), *args)
    assert done.stderr.splitlines()[-1] == f"{int(not there)} True []", done.stderr


def test_help_and_version(run_cli: RunCli) -> None:
    short, long, version = run_cli("-h"), run_cli("--help"), run_cli("--version")
    assert short.returncode == long.returncode == version.returncode == 0
    assert short.stdout == long.stdout
    assert version.stdout == f"fltk {__version__}\n"
    for name, entry in COMMANDS.items():
        assert name in long.stdout and f"{entry.section}:" in long.stdout
    assert short.stderr == ""


def test_a_bare_call_shows_the_overview_and_is_wrong_usage(run_cli: RunCli) -> None:
    done = run_cli()
    assert done.returncode == 2 and done.stdout == "" and "Usage: fltk" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_ends_with_two_examples(name: str) -> None:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None and found.name == name
    for path, item in walk(found, f"fltk {name}"):
        assert item.help and item.help.splitlines()[0].endswith("."), f"{path}: the first line is one sentence"
        lines = [line.strip() for line in (item.epilog or "").splitlines() if line.strip().startswith("fltk ")]
        assert len(lines) >= 2 and all(line.startswith(path) for line in lines), f"{path}: two examples: {lines}"
        for param in item.params:
            assert not isinstance(param, click.Option) or param.help, f"{path}: {param.name} has no help"


def walk(item: click.Command, path: str) -> list[tuple[str, click.Command]]:
    """A command and its members, with what a user types to reach each."""
    members = item.commands.items() if isinstance(item, click.Group) else ()
    return [(path, item), *(pair for name, member in members for pair in walk(member, f"{path} {name}"))]


# Errors: one line, an exit code, no traceback


@command("fail", examples=("fltk fail", "fltk fail x"))
@click.argument("how", default="fltk")
@output_options
def fail(how: str, format: str) -> int | None:
    """Fail in the way that was asked for."""
    errors: dict[str, BaseException] = {
        "fltk": FltkError("no run 7;\n use --db"),
        "usage": UsageError("--alpha must be positive"),
        "bug": KeyError("w"),
        "file": PermissionError(13, "Permission denied", "maps.png"),
        "full": OSError(28, "No space left on device"),
        "pool": BrokenPipeError(32, "Broken pipe"),
        "interrupt": KeyboardInterrupt(),
        "click": click.ClickException("told by click"),
    }
    if how in errors:
        raise errors[how]
    return int(how)


@group("club", examples=("fltk club", "fltk club member"))
def club() -> None:
    """Hold members."""


@club.command("member", epilog=epilog("fltk club member", "fltk club member -v"))
@click.pass_obj
def member(settings: Settings) -> None:
    """Show the settings."""
    click.echo(json.dumps([settings.db, str(settings.data_dir), settings.verbosity, settings.colour]))


@pytest.fixture
def extra_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of this file as if they were fltk's."""
    for name in ("fail", "club"):
        monkeypatch.setitem(COMMANDS, name, Entry(f"{__name__}:{name}", "Test", "Test."))


@pytest.mark.usefixtures("extra_commands")
@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("fltk", 1, "fltk: error: no run 7; use --db"),
        ("usage", 2, "fltk: error: --alpha must be positive"),
        ("bug", 1, f"fltk: internal error: KeyError: 'w'; {AGAIN}"),
        ("file", 1, "fltk: error: maps.png: Permission denied"),
        ("full", 1, "fltk: error: No space left on device"),
        ("pool", 1, f"fltk: internal error: BrokenPipeError: [Errno 32] Broken pipe; {AGAIN}"),
        ("interrupt", 130, "fltk: interrupted"),
        ("click", 1, "fltk: error: told by click"),
    ],
)
def test_every_failure_is_one_line_and_a_code(
    how: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["fail", how]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", line + "\n")
    assert run(["fail", how, "--json"]) == code
    told = json.loads(capsys.readouterr().err)
    assert told["schema"] == 1 and told["error"]["exit_code"] == code
    assert told["error"]["message"] in line


@pytest.mark.usefixtures("extra_commands")
def test_a_command_may_choose_its_exit_code() -> None:
    assert run(["fail", "3"]) == 3
    assert run(["fail", "0"]) == 0


@pytest.mark.usefixtures("extra_commands")
@pytest.mark.parametrize("args", [["-vv", "fail", "bug"], ["fail", "bug", "-vv"], ["fail", "-v", "-v", "bug"]])
def test_a_traceback_only_on_request(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run(args)
    assert "Traceback" in capsys.readouterr().err
    run(["fail", "bug", "-v"])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("tran",), "did you mean train?"),
        (("t",), "did you mean train?"),
        (("xyzzy",), "known: data,"),
        (("--dbb", "x"), "--db"),
        (("data", "--formt", "json"), "--format"),
        (("data", "--format", "jsn"), "json"),
    ],
)
def test_mistyped_names_get_the_nearest_ones(run_cli: RunCli, args: tuple[str, ...], hint: str) -> None:
    done = run_cli(*args)
    assert done.returncode == 2 and done.stdout == ""
    assert hint in done.stderr and done.stderr.startswith("fltk: error: ") and done.stderr.count("\n") == 1


def test_usage_errors_are_json_where_results_would_be(run_cli: RunCli) -> None:
    done = run_cli("data", "--format", "json", "--nonsense")
    assert done.returncode == 2 and done.stdout == ""
    assert json.loads(done.stderr)["error"]["exit_code"] == 2


SLEEPER = """
import sys, time, fltk.cli.main as m, click
from fltk.cli.command import command
@command("nap", examples=("fltk nap", "fltk nap"))
def nap():
    "Sleep."
    print("asleep", flush=True)
    time.sleep(60)
sys.modules["nap"] = type(sys)("nap"); sys.modules["nap"].nap = nap
m.COMMANDS["nap"] = m.Entry("nap:nap", "Test", "Sleep.")
m.main(["nap"])
"""


def test_ctrl_c_is_quiet_and_gives_130() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "fltk: interrupted\n"


SAVER = """
import sys, fltk.cli.main as m
from fltk.cli.command import command
@command("save", examples=("fltk save", "fltk save"))
def save():
    "Save."
    try:
        print("at work", flush=True)
        sys.stdin.readline()
    except KeyboardInterrupt:
        print("saving", flush=True)
        sys.stdin.readline()
        print("saved", flush=True)
        raise
sys.modules["save"] = type(sys)("save"); sys.modules["save"].save = save
m.COMMANDS["save"] = m.Entry("save:save", "Test", "Save.")
m.main(["save"])
"""


@pytest.mark.parametrize("third", [False, True])
def test_a_second_ctrl_c_disturbs_nothing_and_a_third_ends_at_once(third: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SAVER],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "fltk: ending; once more ends at once, and saves nothing\n"
    if third:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    out, err = process.communicate("" if third else "go on\n", timeout=60)
    assert process.returncode == 130
    assert (out, err) == (("", "") if third else ("saved\n", "fltk: interrupted\n"))


FLOOD = """
import sys, fltk.cli.main as m, click
from fltk.cli.command import command
from fltk.cli.output import Column, emit
@command("flood", examples=("fltk flood", "fltk flood"))
@click.argument("kind")
def flood(kind):
    "Print much."
    print("first", flush=True)
    sys.stdin.read()
    if kind == "print":
        print("x")
    else:
        emit([{"a": i} for i in range(50_000)], [Column("a")], kind)
sys.modules["flood"] = type(sys)("flood"); sys.modules["flood"].flood = flood
m.COMMANDS["flood"] = m.Entry("flood:flood", "Test", "Print.")
m.main(["flood", sys.argv[1]])
"""


@pytest.mark.parametrize("kind", ["print", "csv", "table"])
def test_a_reader_that_leaves_early_causes_no_noise(kind: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FLOOD, kind],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("args", [["data", "--help"], ["--help"], ["--version"], ["data"]])
def test_a_full_disk_is_one_line(args: list[str]) -> None:
    done = shell("exec fltk >/dev/full", *args)
    assert (done.returncode, done.stderr) == (1, "fltk: error: stdout: No space left on device\n")


def shell(line: str, *args: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell, in which `fltk` stands for the program with `args`."""
    env = clean_environment()
    env.pop("PYTHONUNBUFFERED", None)  # with it, nothing is left that could tell which stream has failed
    return subprocess.run(
        ["sh", "-c", line.replace("fltk", f'"{sys.executable}" -m fltk "$@"'), "sh", *args],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("args", "closed", "code"),
    [
        (["data"], ">&-", 0),
        (["--version"], ">&-", 0),
        (["data"], "<&- >&- 2>&-", 0),
        (["data", "--nonsense"], "2>&-", 2),
        (["data", "--nonsense"], ">&- 2>&-", 2),
        (["data", "--nonsense"], "2>/dev/full", 2),
        (["verify"], "2>&-", 1),
    ],
)
def test_a_closed_stream_changes_no_exit_code(args: list[str], closed: str, code: int) -> None:
    done = shell(f"exec fltk {closed}", *args, "--db", "/nowhere/r.db")
    assert (done.returncode, done.stderr) == (code, "")


def test_workers_get_no_file_in_place_of_a_closed_stream(tmp_path: Path) -> None:
    """A registry that is open as number 1 would be written to by whoever prints."""
    args = ("train", *TINY, "--method", "fedavg", "--engine", "process:1", "--db", str(tmp_path / "r.db"))
    done = shell("exec fltk <&- >&-", *args)
    assert done.returncode == 0, done.stderr
    assert "verdict: sound" in shell("exec fltk", "verify", "--db", str(tmp_path / "r.db")).stdout


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_ctrl_c_at_the_start_is_quiet(wait: float) -> None:
    """Also while the command line is imported. What ends Python itself, before fltk is read, is left out."""
    ready, told = os.pipe()
    code = f"import os, runpy; os.write({told}, b'x'); runpy.run_module('fltk', run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); {code}", "data"],
        env=clean_environment(),
        pass_fds=[told],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.read(ready, 1)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    os.close(ready)
    os.close(told)
    assert process.returncode in (-signal.SIGINT, 130, 0) and err in ("", "fltk: interrupted\n")


# Global options


@pytest.mark.usefixtures("extra_commands")
@pytest.mark.parametrize(
    ("args", "env", "expected"),
    [
        (["club", "member"], {}, ["results.db", "None", 0, None]),
        (["--db", "a.db", "-q", "club", "member"], {}, ["a.db", "None", -1, None]),
        (["club", "member", "--db", "b.db", "-v"], {}, ["b.db", "None", 1, None]),
        (["--db", "a.db", "club", "--data-dir", "d", "member", "--db", "b.db"], {}, ["b.db", "d", 0, None]),
        (["club", "member"], {"FLTK_DB": "e.db", "FLTK_DATA": "/d"}, ["e.db", "/d", 0, None]),
        (["club", "member", "--db", "b.db"], {"FLTK_DB": "e.db"}, ["b.db", "None", 0, None]),
        (["club", "member"], {"FLTK_DATA": ""}, ["results.db", "None", 0, None]),
        (["-vv", "club", "member"], {"NO_COLOR": "1"}, ["results.db", "None", 2, False]),
        (["--color", "club", "member"], {"NO_COLOR": "1"}, ["results.db", "None", 0, True]),
        (["club", "member", "--color"], {"NO_COLOR": "1"}, ["results.db", "None", 0, True]),
        (["--no-color", "club", "member"], {}, ["results.db", "None", 0, False]),
        (["club", "member"], {"FLTK_QUIET": "1", "FLTK_COLOR": "0"}, ["results.db", "None", -1, False]),
        (["club", "member"], {"FLTK_COLOR": "1", "NO_COLOR": "1"}, ["results.db", "None", 0, True]),
        (["club", "member"], {"FLTK_VERBOSE": "2"}, ["results.db", "None", 2, None]),
        (["club", "member", "-q"], {"FLTK_VERBOSE": "2"}, ["results.db", "None", -1, None]),
    ],
)
def test_global_options_before_and_after_the_command(
    args: list[str], env: dict[str, str], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FLTK_DB", "FLTK_DATA", "FLTK_QUIET", "FLTK_VERBOSE", "FLTK_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(cli, args, env=env, standalone_mode=False)
    assert done.exception is None
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize(("setting", "escapes"), [(None, False), (False, False), (True, True)])
def test_the_console_obeys_the_colour_choice_in_a_pipe(
    setting: bool | None, escapes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Settings(colour=setting).console().print("[red]warm[/red]")
    assert ("\x1b[" in capsys.readouterr().err) is escapes


def test_no_color_reaches_a_terminal() -> None:
    code = (
        "from fltk.cli.main import cli\n"
        "settings = cli.make_context('fltk', ['data']).obj\n"
        "settings.console(stderr=False).print('[red]warm[/red]')\n"
    )
    plain, coloured = on_terminal(code, env={"NO_COLOR": "1"}), on_terminal(code)
    assert "warm" in plain and "\x1b[" not in plain
    assert "\x1b[31m" in coloured


def test_say_keeps_to_the_verbosity(capsys: pytest.CaptureFixture[str]) -> None:
    Settings(verbosity=-1).say("nothing")
    Settings().say("detail", level=1)
    Settings().say("note")
    assert capsys.readouterr() == ("", "note\n")


# Progress


def test_a_log_gets_about_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for total, expected in ((30, 10), (7, 7), (95, 10), (1, 1)):
        with RunProgress(Settings(), "attn") as progress:
            progress.start(total)
            for round in range(1, total + 1):
                progress.update(round, {"loss": 1.23456, "accuracy": 0.5})
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == expected
        assert lines[-1] == f"attn: round {total}/{total}  loss 1.235  accuracy 0.5"


def test_quiet_means_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(Settings(verbosity=-1)) as progress:
        progress.start(2)
        progress.update(2, {})
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_vanishes() -> None:
    shown = on_terminal(
        "from fltk.cli.context import Settings\n"
        "from fltk.cli.progress import RunProgress\n"
        "with RunProgress(Settings(), 'attn') as progress:\n"
        "    progress.start(3)\n"
        "    progress.update(3, {'loss': 1.0})\n"
    )
    assert "3/3" in shown and "loss 1" in shown
    assert shown.rstrip().endswith("\x1b[2K"), "the line is erased at the end"
