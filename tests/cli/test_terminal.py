"""Nothing that comes from a file, a registry or a command line is obeyed by the terminal."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import click
import pytest
from calls import TINY, done, fltk

from fltk.cli import terminal
from fltk.cli.command import command
from fltk.cli.output import Column, emit, render
from fltk.cli.terminal import visible, visible_json
from fltk.registry import Store

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\u2066\udc9b\x7f"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\u2066\udc9b\x7f"


def obeyed(text: str) -> list[str]:
    """The characters that a terminal would obey."""
    return [char for char in text if not char.isprintable() and char not in "\n\t"]


def test_control_characters_become_visible_and_other_text_stays() -> None:
    assert visible(HOSTILE) == SHOWN
    plain = "Müller, 東京 👩\u200d🔬\n\tα = 0.1, ± \\x1b"
    assert visible(plain) == plain
    assert visible("a\r\nb\u2028c") == "a\\r\nb\\u2028c"


def test_json_reads_back_as_the_same_text() -> None:
    text = json.dumps({"note": HOSTILE.replace("\udc9b", ""), "tag": "\U000e0041"}, ensure_ascii=False, indent=2)
    shown = visible_json(text)
    assert not obeyed(shown)
    assert json.loads(shown) == json.loads(text)


@pytest.mark.parametrize("format", ["table", "latex", "json", "jsonl"])
def test_every_format_for_the_eye(format: str) -> None:
    rows = [{"name": HOSTILE, "tags": {HOSTILE: [HOSTILE]}, HOSTILE: Path(HOSTILE)}]
    columns = [Column("name"), Column("tags"), Column(HOSTILE)]
    assert not obeyed(render(rows, columns, format, title=HOSTILE, extra={HOSTILE: HOSTILE}))


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_formats_for_programs_are_exact_unless_a_terminal_reads_them(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"name": "\x1b[2J"}]
    assert "\x1b[2J" in render(rows, [Column("name")], format)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert not obeyed(render(rows, [Column("name")], format))


def test_colours_of_tables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    @command("listing", examples=())
    def listing() -> None:
        """List."""
        emit([{"name": HOSTILE}], [Column("name")])

    shown = click.testing.CliRunner().invoke(listing, ["--color"]).output
    assert SHOWN in shown and "\x1b[1m" in shown


def test_what_a_registry_holds(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "local")
    text = HOSTILE.replace("\udc9b", "")
    with Store(db) as store:
        store.set_note(1, text)
        store.set_tag(1, "paper", text)
        store.finish(1, "failed", text)
    for args in (
        ("runs", "run1"),
        ("runs", "--tag", "paper"),
        ("runs", "tag", f"more={text}", "run1"),
        ("sql", "SELECT '\x1b[2J' AS \"\x1b]0;owned\x07\", note FROM v_runs"),
        ("runs", "run1", "--json"),
        ("watch", "run1"),
    ):
        called = fltk(db, *args, quiet=False)
        assert called.code == 0 and not obeyed(called.out + called.err), args
    assert done(db, "runs", "note", "run1") == text + "\n"  # a pipe gets the note back as it was given


@pytest.mark.parametrize(
    "args",
    [
        ("runs", HOSTILE),
        ("runs", "--where", f"alpha<{HOSTILE}"),
        ("train", "--method", HOSTILE),
        ("train", "--set", HOSTILE),
        ("sql", f"SELECT {HOSTILE}"),
        ("sweep", HOSTILE),
        (HOSTILE,),
        ("data", f"--{HOSTILE}"),
    ],
)
def test_errors(tmp_path: Path, args: tuple[str, ...]) -> None:
    db = tmp_path / "r.db"
    for more in ((), ("--json",)):
        called = fltk(db, *args, *more)
        assert called.code in (1, 2) and called.err and not obeyed(called.out + called.err)


def test_nothing_else_prints() -> None:
    """`fltk.cli.terminal` is the one module that writes to stdout or stderr."""
    for file in sorted(Path(terminal.__file__).parent.glob("*.py")):
        if file.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"), file
