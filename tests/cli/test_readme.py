"""The commands of README.md, as a reader types them one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from calls import ROOT, Called, fltk

README = ROOT / "README.md"
SLOW = {"bench"}  # a minute; it has tests of its own
# Smaller than what README makes, so that the test is quick; rounds stay as they are: the commands name some.
SMALLER = {
    "FLTK_TRAIN_SUBSET": "300",
    "FLTK_TRAIN_CLIENTS": "4",
    "FLTK_TRAIN_HIDDEN": "8",
    "FLTK_TRAIN_STEPS": "1",
}


def blocks(language: str, start: str, stop: str) -> list[str]:
    """The fenced blocks of a part of README.md."""
    text = README.read_text(encoding="utf-8")
    part = text[text.index(start) : text.index(stop)]
    return re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)


def typed(lines: str) -> list[list[str]]:
    """The words of each `fltk` command, without comments."""
    return [shlex.split(line, comments=True)[1:] for line in lines.splitlines() if line.startswith("fltk ")]


QUICK = [words for block in blocks("sh", "## Quick start", "## What a run is") for words in typed(block)]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type in, with the sweep file of README.md."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plots").mkdir()  # by make demo
    (grid,) = blocks("toml", "## Quick start", "## What a run is")
    small = 'clients = 4\nnewcomers = 0\nsubset = 300\nscheme = "rotated"'
    grid = grid.replace('scheme = "rotated"', small).replace("[train]\n", "[train]\nrounds = 2\n")
    (tmp_path / "grid.toml").write_text(grid)
    return tmp_path


def call(folder: Path, words: list[str]) -> Called:
    return fltk(folder / "results.db", *words)


def test_the_quick_start_works_as_typed(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALLER.items():
        monkeypatch.setenv(name, value)
    assert {"train", "resume", "reproduce", "report", "export", "sweep", "attack"} <= {words[0] for words in QUICK}
    for words in QUICK:
        if words[0] not in SLOW:
            called = call(reader, words)
            assert called.code == 0, (words, called)
    for name in ("curves.pdf", "curves.csv", "run7.html", "client3.safetensors", "plots/demo-attention.png"):
        assert (reader / name).stat().st_size, name


def test_every_command_of_readme_names_options_that_there_are(reader: Path) -> None:
    """Also of the commands that are not run: what is typed is understood."""
    text = README.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    commands = typed("\n".join(lines))
    assert len(commands) > len(QUICK)
    for words in commands:
        options = [word for word in words if re.fullmatch(r"--[a-z-]+", word)]
        command = words[2:] if words[0] == "--db" else words
        member = command[:2] if command[0] in ("plot", "db") else command[:1]
        shown = call(reader, [*member, "--help"]).out
        assert all(option in shown or option == "--db" for option in options), (words, options)
