"""The display of a sweep while it runs: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from calls import done, fltk

from fltk.cli.context import Settings
from fltk.cli.progress import RunProgress
from fltk.cli.sweep_board import Board
from fltk.config import RunConfig, TrainConfig
from fltk.sweep.cells import Cell
from fltk.sweep.play import Event
from fltk.sweep.state import CellState

GRID = """
method = ["local", "fedprox"]
[partition]
subset = 200
clients = 3
newcomers = 0
[train]
rounds = 2
"""


class Terminal(io.TextIOWrapper):
    """Stands for a terminal, with bytes below its text as a real one has."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)

    def isatty(self) -> bool:
        return True

    def getvalue(self) -> str:
        """What was written to it."""
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in (("TERM", "xterm"), ("COLUMNS", "120"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    return Terminal()


def cells(count: int, rounds: int = 100) -> list[CellState]:
    configs = [RunConfig(train=TrainConfig(rounds=rounds), method="local", seed=seed) for seed in range(count)]
    return [CellState(Cell(config, str(config.seed), frozenset()), None) for config in configs]


def test_nothing_is_said_before_there_are_cells(terminal: Terminal) -> None:
    with redirect_stderr(terminal), Board(Settings(), "grid") as board:
        board.add([])
        assert terminal.getvalue() == "" and board.live is None
        board.add(cells(2))
    assert "grid: 2 cells, 2 new" in terminal.getvalue() and "grid: 0 of 2, 2 new" in terminal.getvalue()


def test_x_of_n_and_the_time_that_is_left() -> None:
    now = [0.0]
    board = Board(Settings(verbosity=-1), "grid", expected=8, clock=lambda: now[0])
    board.add(cells(4))
    assert board.table().title.plain == "grid: 0 of 8, 4 new"  # type: ignore[union-attr]
    board.hear(Event("0", "started", 1))
    now[0] = 60.0
    board.hear(Event("0", "done", 1))
    # 100 rounds in a minute, and 700 are left.
    assert board.table().title.plain == "grid: 1 of 8, 1 done, 3 new, about 7 min left"  # type: ignore[union-attr]
    now[0] = 3600.0
    board.hear(Event("1", "round", 2, round=50))
    # 150 rounds in an hour, and 650 are left.
    assert board.table().title.plain.endswith("about 4.3 h left")  # type: ignore[union-attr]


def test_a_line_that_is_printed_meanwhile_stands_above_the_display(terminal: Terminal) -> None:
    """Written past the display it would be followed by a second copy of it, and the first would stay."""
    settings = Settings()
    with redirect_stderr(terminal), RunProgress(settings, "local seed 0") as bar:
        bar.start(3)
        settings.say("run1: local on part1")
    before = terminal.getvalue().partition("run1: local on part1")[0]
    assert before.count("0/3") >= 1 and before.endswith("\x1b[2K"), "the bar is erased before the line"


def test_a_sweep_is_followed_by_file_and_by_name(tmp_path: Path) -> None:
    db, grid = tmp_path / "r.db", tmp_path / "grid.toml"
    grid.write_text(GRID, encoding="utf-8")
    done(db, "sweep", str(grid))
    for sweep in (str(grid), "grid"):
        called = fltk(db, "watch", "--sweep", sweep, "--every", "0.05", "--json", quiet=False)
        rows = json.loads(called.out)["rows"]
        assert [(row["method"], row["state"], row["rounds"]) for row in rows] == [
            ("local", "done", 2),
            ("fedprox", "done", 2),
        ]
        assert "grid: 2 cells, 2 done" in called.err
    assert "did you mean grid" in fltk(db, "watch", "--sweep", "grit").line
    assert "leave out the RUN" in fltk(db, "watch", "run1", "--sweep", "grid").line


def test_a_sweep_that_no_process_plays_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fltk.cli.watch_sweep.IDLE", 0.0)
    db, grid = tmp_path / "r.db", tmp_path / "grid.toml"
    grid.write_text(GRID, encoding="utf-8")
    done(db, "sweep", str(grid))
    grid.write_text(GRID.replace('"fedprox"', '"fedavg"'), encoding="utf-8")
    rows = json.loads(done(db, "watch", "--sweep", str(grid), "--every", "0.05", "--json"))["rows"]
    assert [row["state"] for row in rows] == ["done", "new"]
