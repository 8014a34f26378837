"""The study of docs/study.md, smaller: its own file and its own six commands, each as a process."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from calls import ROOT
from processes import RunCli

from fltk.registry import Store

PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
SMALLER = {
    "alpha = [0.1, 0.5, 5.0]": "alpha = [0.5, 5.0]\nsubset = 300\nclients = 4\nnewcomers = 1",
    "rounds = 20": "rounds = 2",
    "seed = [0, 1, 2]": "seed = [0, 1]",
    'method = ["local", "fedavg", "fedavg-ft", "ditto", "attn"]': 'method = ["local", "fedavg", "fedavg-ft"]',
}


def commands() -> list[list[str]]:
    """The commands of the page's numbered sections, one each."""
    return [shlex.split(block) for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]


def small_study() -> str:
    """The page's file, with less to do."""
    (text,) = re.findall(r"```toml\n(# study\.toml.*?)```", PAGE, re.DOTALL)
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.slow
def test_six_commands_from_a_file_to_a_table_a_figure_and_a_report(tmp_path: Path, run_cli: RunCli) -> None:
    typed = commands()
    assert len(typed) == 6 and {words[0] for words in typed} == {"fltk"}
    (tmp_path / "study.toml").write_text(small_study(), encoding="utf-8")

    outputs = []
    for words in typed:
        called = run_cli(*words[1:], cwd=tmp_path, timeout=600)
        assert called.returncode == 0, (words, called.stderr)
        outputs.append(called.stdout)

    _, status, table, *_ = outputs
    with Store(tmp_path / "study.db", readonly=True) as store:
        assert len(store.runs(status="done")) == 3 * 2 * 2 * 2
    rows = [line.split() for line in status.splitlines()[1:]]
    assert [row[3] for row in rows] == ["2"] * 6, "two trials for each method and setting"
    assert "Tuned (lr): the best of 2 trials for each method and setting" in table
    assert "Paired differences to fedavg-ft" in table and "unequal" not in table

    latex = (tmp_path / "study.tex").read_text(encoding="utf-8")
    assert "the best of 2 trials" in latex and r"\mathbf" in latex and "Avg. rank" in latex
    assert (tmp_path / "study.pdf").read_bytes().startswith(b"%PDF")
    with (tmp_path / "study.csv").open(encoding="utf-8", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"local", "fedavg", "fedavg-ft"}
    assert "the best of 2 trials" in (tmp_path / "study.html").read_text(encoding="utf-8")


def test_the_readme_names_the_page() -> None:
    assert "docs/study.md" in (ROOT / "README.md").read_text(encoding="utf-8")
