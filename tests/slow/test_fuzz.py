"""Thousands of hostile command lines, files and registries: each ends, with a result or one line about what is wrong.

Everything is drawn from fixed seeds and runs in this process; where a command would train, the engine refuses, so that
all that is checked before training is checked here, and no draw can ask for a year of it.
"""

from __future__ import annotations

import importlib
import io
import random
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
import pytest

from fltk.cli.main import COMMANDS, run
from fltk.errors import FltkError
from fltk.names import METHODS

pytestmark = pytest.mark.slow

LINES, FILES, REGISTRIES = 2000, 700, 50
CPU_SECONDS = 120.0  # of one command; what takes longer counts as endless
WALL_SECONDS = 1200.0  # the same for one that waits, on however busy a machine
MEMORY = 12 << 30  # what asks for more is told that there is too little
TINY = ("--subset", "300", "--clients", "4", "--newcomers", "1", "--rounds", "2")

SKIPPED = {"bench"}  # measures for minutes whatever is asked
# Left out: the network; processes of their own, which know nothing of this test; and the registry, which comes first.
SKIPPED_OPTIONS = {"--download", "--jobs", "--db", "--help", "--version", "--verbose", "--quiet"}
HOSTILE = [
    *("", " ", ",", "-", "--", "-1", "0", "1", "2", "7", "1e400", "1e308", "-1e308", "nan", "inf", "-inf", "0x10"),
    *("9" * 30, "9" * 5000, "1,2,3", "0,0", "1.5", "true", "none", "all", "null", "²", "٣", "1_000", "run1", "part1"),
    *("latest", "run999", "first", "local", "fedavg", "attn", "alpha<0.5", "alpha<", "a=b", "=", "mu=0.1", "mu=x"),
    *("\x1b[2J", "a\nb", "\u202ecod", "\udcff", "ü" * 300, "A" * 5000, "{}", "[]", "%s%n", "$(id)", "';--"),
    *("/dev/null", "/dev/zero", "/nonexistent/x.csv", "..", ".", "x.png", "x.csv", "x.npz", "x.html", "x.gif"),
    *("SELECT 1", "SELECT", "SELECT * FROM v_runs", "DELETE FROM run", "SELECT 1; SELECT 2", "SELECT x'00'"),
]
FILE = """
method = ["local", "fedprox"]
seed = [0, 1]
[partition]
subset = 200
clients = 3
newcomers = 0
alpha = [0.1, 0.5]
[train]
rounds = 2
lr = { log_uniform = [0.01, 0.5] }
[for.fedprox]
params.mu = [0.0, 0.1]
[[also]]
method = "scaffold"
train.momentum = 0.0
[random]
samples = 3
[evaluate]
deploy = "vote"
"""
CONFIG = """
method = "fedprox"
seed = 1
[partition]
subset = 200
clients = 3
newcomers = 0
[train]
rounds = 2
lr = 0.1
[params]
mu = 0.1
"""
READING = [
    ("runs",),
    ("runs", "run1"),
    ("runs", "--by-seed"),
    ("runs", "--json"),
    ("runs", "--removed"),
    ("runs", "note", "run1"),
    ("runs", "rm", "run1"),
    ("runs", "restore", "run1"),
    ("compare",),
    ("diff", "run1", "run2"),
    ("report", "-o", "page.html"),
    ("export", "--what", "runs", "-o", "runs.csv"),
    ("export", "--what", "metrics", "-o", "metrics.jsonl"),
    ("export", "--what", "client-metrics", "-o", "clients.tsv"),
    ("export", "--what", "maps", "-o", "maps.npz"),
    ("plot", "curves", "run1", "-o", "a.png"),
    ("plot", "clients", "run1", "-o", "b.png"),
    ("plot", "attention-maps", "run2", "-o", "c.png"),
    ("plot", "partition", "part1", "-o", "d.png"),
    ("partition", "list"),
    ("partition", "show", "part1"),
    ("partition", "export", "part1", "-o", "e.npz"),
    ("sql", "SELECT * FROM v_runs"),
    ("verify",),
    ("evaluate", "run1"),
    ("resume", "run1", "--from-round", "0"),
    ("reproduce", "run1"),
    ("join-new-client", "run1"),
    ("attack", "--run", "run1", "--kind", "sign-flip"),
    ("watch", "run1", "--every", "0.05"),
    ("db", "info"),
    ("db", "gc", "--yes"),
]


class Endless(BaseException):
    """A command that has used up its time."""


@dataclass
class Found:
    """What went wrong, command line by command line."""

    count: int = 0
    tracebacks: list[Any] = field(default_factory=list)
    internal: list[Any] = field(default_factory=list)
    endless: list[Any] = field(default_factory=list)
    obeyed: list[Any] = field(default_factory=list)

    def call(self, db: Path, args: tuple[str, ...]) -> None:
        """Run one command line in this process and judge how it ended."""
        self.count += 1
        out, err = io.StringIO(), io.StringIO()
        try:
            with limited(), redirect_stdout(out), redirect_stderr(err):
                code = run(["--db", str(db), *args])
        except Endless:
            self.endless.append(args)
            return
        except Exception as error:
            self.tracebacks.append((args, repr(error)))
            return

        told = err.getvalue()
        if "Traceback" in told or code not in (0, 1, 2, 3):
            self.tracebacks.append((args, told[-500:]))
        if "internal error" in told:
            self.internal.append((args, told[-300:]))
        if any(ord(char) < 32 and char not in "\n\t" for char in told):
            self.obeyed.append(args)

    def check(self) -> None:
        """Nothing went wrong."""
        kinds = ("tracebacks", "internal", "endless", "obeyed")
        counts = {kind: len(getattr(self, kind)) for kind in kinds}
        few = {kind: getattr(self, kind)[:20] for kind in kinds}
        print(f"{self.count} command lines: {counts}")
        assert not any(counts.values()), f"{counts}: {few}"


@contextmanager
def limited() -> Iterator[None]:
    """Ends what takes too long."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Endless

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with runs of two methods, their evaluation, and a partition."""
    db = tmp_path_factory.mktemp("shelf") / "r.db"
    with redirect_stdout(io.StringIO()):
        for args in (
            ("train", "--method", "fedavg", "--name", "first", *TINY),
            ("train", "--method", "attn", *TINY),
            ("evaluate", "run2"),
        ):
            assert run(["--db", str(db), "-q", *args]) == 0
    return db


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to write into, a limit on memory, and an engine that refuses to train."""

    def refuse(*_: object) -> NoReturn:
        raise FltkError("nothing is trained in this test")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLTK_DATA", raising=False)
    monkeypatch.setenv("FLTK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("fltk.engine.make", refuse)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def copied(shelf: Path, folder: Path) -> Path:
    """A registry of its own, with its folder of files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(shelf, folder / "r.db")
    shutil.copytree(shelf.with_name("r.artifacts"), folder / "r.artifacts")
    return folder / "r.db"


def leaves() -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that call it."""
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, entry in COMMANDS.items():
        if name in SKIPPED:
            continue
        module, _, attribute = entry.target.partition(":")
        made = getattr(importlib.import_module(module), attribute)
        if isinstance(made, click.Group):
            found += [((name, inner), command) for inner, command in made.commands.items()]
            found.append(((name,), made))
        else:
            found.append(((name,), made))
    return found


def drawn_line(draw: random.Random, words: tuple[str, ...], command: click.Command) -> tuple[str, ...]:
    """A command with some of its options and arguments, with values that are plausible or hostile."""
    line = [*words]
    if words[0] in ("train", "attack"):
        line += TINY
    for param in command.params:
        if isinstance(param, click.Argument):
            wanted = draw.random() < 0.8
            line += [_value(draw, param)] if wanted else []
    options = [p for p in command.params if isinstance(p, click.Option) and not SKIPPED_OPTIONS & set(p.opts)]
    for option in draw.sample(options, min(len(options), draw.choice((0, 1, 1, 2, 3)))):
        name = draw.choice([*option.opts, *option.secondary_opts])
        line.append(name)
        if not option.is_flag and not option.count:
            line.append(_value(draw, option))
    if draw.random() < 0.1:
        line.insert(draw.randrange(len(line) + 1), draw.choice(HOSTILE))
    return tuple(line)


def _value(draw: random.Random, param: click.Parameter) -> str:
    """A name that exists, or anything."""
    known = [str(choice) for choice in getattr(param.type, "choices", ())]
    if known and draw.random() < 0.5:
        return draw.choice(known)
    if "--method" in param.opts and draw.random() < 0.5:
        return draw.choice([*METHODS])
    return draw.choice(HOSTILE)


def test_hostile_command_lines(shelf: Path, tmp_path: Path) -> None:
    draw, found, commands = random.Random(1), Found(), leaves()
    for number in range(LINES):
        if number % 100 == 0:
            db = copied(shelf, tmp_path / "copy")
        found.call(db, drawn_line(draw, *draw.choice(commands)))
    found.check()


def mutated(draw: random.Random, text: str) -> str:
    """A file with a few characters or lines changed, doubled, moved, or replaced by something hostile."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        lines = text.split("\n")
        at, place = draw.randrange(len(lines)), draw.randrange(len(text))
        kind = draw.randrange(6)
        if kind == 0:
            lines[at] = lines[draw.randrange(len(lines))]
        elif kind == 1:
            key, equals, _ = lines[at].partition("=")
            lines[at] = key + equals + draw.choice([*HOSTILE, "[" * 3000, "{a=" * 500, "1e400", "0x" + "f" * 5000])
        elif kind == 2:
            del lines[at]
        elif kind == 3:
            lines.insert(at, draw.choice(["[a]", "[[also]]", "[for.x]", "[train]", "a.b.c = 1", "x = [", '"' * 3]))
        else:
            char = draw.choice("[]{}\"'=.,#\x00\x1b\n0x-9")
            lines = (text[:place] + char + text[place + (kind == 4) :]).split("\n")
        text = "\n".join(lines) or "\n"
    return text


def test_hostile_files(shelf: Path, tmp_path: Path) -> None:
    draw, found = random.Random(2), Found()
    db = copied(shelf, tmp_path / "copy")
    path = tmp_path / "exp.toml"
    for number in range(FILES):
        sweep = number % 2 == 0
        text = mutated(draw, FILE if sweep else CONFIG)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        found.call(db, ("sweep", str(path), "--dry-run") if sweep else ("train", "--config", str(path)))
    found.check()


def flipped(draw: random.Random, db: Path) -> None:
    """Some bytes of the file are others."""
    content = bytearray(db.read_bytes())
    for _ in range(draw.choice((1, 10, 100))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    db.write_bytes(content)


def cut(draw: random.Random, db: Path) -> None:
    """The end of the file is lost."""
    content = db.read_bytes()
    db.write_bytes(content[: draw.randrange(len(content))])


def edited(draw: random.Random, db: Path) -> None:
    """A value is of another kind, or is what a hostile hand would write."""
    with closing(sqlite3.connect(db)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = draw.choice([name for name in tables if not name.startswith("sqlite_")])
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info('{table}')")]
        values = [
            "",
            "x",
            "{",
            "[]",
            "null",
            '{"a": 1}',
            -1,
            2**62,
            1e308,
            b"\x00\xff",
            "\x1b[2J",
            "../../x",
            "[" * 5000,
        ]
        try:
            connection.execute(f'UPDATE "{table}" SET "{draw.choice(columns)}" = ?', (draw.choice(values),))
            connection.commit()
        except sqlite3.Error:  # a constraint keeps it out
            pass


def emptied(draw: random.Random, db: Path) -> None:
    """A table or a view is missing, and so are files beside the database."""
    with closing(sqlite3.connect(db)) as connection:
        query = "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
        kind, name = draw.choice(connection.execute(query).fetchall())
        connection.execute(f'DROP {kind} "{name}"')
        connection.commit()
    for path in sorted(db.with_name("r.artifacts").rglob("*")):
        if path.is_file() and draw.random() < 0.5:
            path.write_bytes(b"")


DAMAGES: list[Callable[[random.Random, Path], None]] = [flipped, cut, edited, edited, emptied]


def test_damaged_registries(shelf: Path, tmp_path: Path) -> None:
    draw, found = random.Random(3), Found()
    for number in range(REGISTRIES):
        db = copied(shelf, tmp_path / "copy")
        DAMAGES[number % len(DAMAGES)](draw, db)
        sound = db.read_bytes()
        for args in READING:
            db.write_bytes(sound)  # as the one before has found it
            for suffix in ("-wal", "-shm"):
                db.with_name(f"r.db{suffix}").unlink(missing_ok=True)
            found.call(db, args)
    found.check()
