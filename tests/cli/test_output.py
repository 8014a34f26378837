"""Every output format: strict, whole, and safe for what reads it next."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fltk.cli.command import command
from fltk.cli.output import Column, emit, output_options, render
from fltk.errors import UsageError

ROWS = [
    {"name": "attn & [red]", "acc": 0.91234567, "n": 3, "note": None, "ok": True, "list": [1, 2]},
    {"name": "local, plain", "acc": math.nan, "n": 20, "note": "a\tb", "ok": False, "list": []},
    {"name": "fedavg", "acc": np.float32(0.5), "n": np.int64(7), "note": "x" * 300, "ok": True, "list": ()},
]
COLUMNS = [
    Column("name", "method"),
    Column("acc", "accuracy", digits=3, best="max"),
    Column("n"),
    Column("note"),
    Column("ok"),
]


@command("listing", examples=("fltk listing", "fltk listing --json"))
@output_options
def listing(format: str) -> None:
    """List rows."""
    emit(ROWS, COLUMNS, format, title="Results", extra={"seed": 1})


def printed(*args: str) -> str:
    """What the listing puts on stdout."""
    done = CliRunner().invoke(listing, args, standalone_mode=False)
    assert done.exception is None, done.exception
    return done.stdout


def test_json_is_strict_and_carries_whole_rows() -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    told = json.loads(printed("--json"), parse_constant=refuse)
    assert told["schema"] == 1 and told["seed"] == 1
    assert [row["acc"] for row in told["rows"]] == [0.91234567, None, 0.5]
    assert told["rows"][0]["list"] == [1, 2] and told["rows"][2]["n"] == 7
    lines = printed("--format", "jsonl").splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == told["rows"]


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_separated_values_read_back(format: str, delimiter: str) -> None:
    rows = list(csv.DictReader(io.StringIO(printed("--format", format)), delimiter=delimiter))
    assert [row["name"] for row in rows] == [row["name"] for row in ROWS]
    assert float(rows[0]["acc"]) == ROWS[0]["acc"] and math.isnan(float(rows[1]["acc"]))
    assert rows[0]["note"] == "" and rows[1]["note"] == "a\tb" and rows[0]["ok"] == "true"


def test_a_piped_table_is_plain_and_whole() -> None:
    lines = printed().splitlines()
    assert lines[0] == "Results" and lines[-1] == "seed: 1" and len(lines) == 6
    assert "x" * 300 in lines[4] and "attn & [red]" in lines[2]
    assert "0.912" in lines[2] and "nan" not in lines[3] and " - " in lines[2] and " - " in lines[3]
    assert "\x1b" not in "".join(lines) and not any(line.endswith(" ") for line in lines)


def test_latex_is_escaped_and_marks_the_best() -> None:
    text = printed("--format", "latex")
    assert r"\begin{tabular}{lrrll}" in text and r"\toprule" in text and r"\bottomrule" in text
    assert r"attn \& [red] & \textbf{0.912} & 3 & -- & yes \\" in text
    assert text.count("textbf") == 1


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv", "tsv", "latex"])
def test_no_rows_are_no_error(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    emit([], COLUMNS, format)
    out = capsys.readouterr().out
    assert out == "" if format == "jsonl" else out


def test_json_and_another_format_exclude_each_other() -> None:
    done = CliRunner().invoke(listing, ["--json", "--format", "csv"], standalone_mode=False)
    assert isinstance(done.exception, UsageError) and "--json" in str(done.exception)
    assert json.loads(printed("--format", "json", "--json"))


# On terminals of any width


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table on a terminal of this width."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "50")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", Terminal())
    columns = [Column("run"), Column("method"), Column("dataset"), Column("status"), Column("acc", "personal acc", 4)]
    text = render(rows, columns, "table", extra={"folder": "here"})
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()  # heads are bold


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


RUNS = [
    {"run": "run1", "method": "cluster-kmeans", "dataset": "digit-domains", "status": "interrupted", "acc": 0.91234},
    {"run": "run2", "method": "attn", "dataset": "mnist", "status": "done: after round 3", "acc": None},
]


@pytest.mark.parametrize("width", range(8, 121, 4))
def test_no_width_breaks_a_word(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = on_terminal(monkeypatch, width, RUNS)
    words = {word for line in lines for word in line.split()}
    for row in RUNS:
        for value in row.values():
            for word in str(value).split():
                assert word in words or word in ("0.91234", "None"), (width, word, lines)
    assert "0.9123" in words and lines[-1] == "folder: here"


def test_below_the_needed_width_rows_are_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_terminal(monkeypatch, 50, RUNS) == [
        "run: run1",
        "method: cluster-kmeans",
        "dataset: digit-domains",
        "status: interrupted",
        "personal acc: 0.9123",
        "",
        "run: run2",
        "method: attn",
        "dataset: mnist",
        "status: done: after round 3",
        "folder: here",
    ]
    wide = on_terminal(monkeypatch, 100, RUNS)
    assert wide[0].split() == ["run", "method", "dataset", "status", "personal", "acc"]
    assert all(len(line) <= 100 for line in wide)
    tight = on_terminal(monkeypatch, 70, RUNS)
    assert tight[0].split()[:2] == ["run", "method"] and all(len(line) <= 70 for line in tight)


def test_hashes_may_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = on_terminal(monkeypatch, 80, [{"run": "run1", "method": "m", "dataset": "0123456789abcdef" * 4}])
    assert lines[0].split()[:2] == ["run", "method"] and all(len(line) <= 80 for line in lines)
