"""The how-to page docs/own-method-and-data.md: its files, and its commands as a reader types them."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from calls import ROOT, fltk

from fltk import catalogue
from fltk.registry import Store

PAGE = (ROOT / "docs" / "own-method-and-data.md").read_text(encoding="utf-8")


def files() -> dict[str, str]:
    """The page's files: blocks of Python, by the name in their first line."""
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, re.DOTALL)
    return dict(blocks)


def commands() -> list[list[str]]:
    """The words of every command of the page, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_page_works_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, text in files().items():
        Path(name).write_text(text, encoding="utf-8")
    typed = commands()
    assert {words[0] for words in typed} == {"fltk", "python"} and len(typed) == 12
    for words in typed:
        if words[0] == "python":
            runpy.run_path(words[1])
            continue
        called = fltk("results.db", *words[1:])
        assert called.code == 0, (words, called)
        if words[1] == "reproduce":
            assert "identical" in called.out

    with Store("results.db", readonly=True) as store:
        runs = {run.id: run for run in store.runs()}
    assert runs[1].method.startswith("my.py:Mine@") and runs[1].config["train"]["model"].startswith("my.py:Net@")
    assert runs[1].dataset.startswith("wine#") and runs[3].config["params"] == {"tune": 10}
    assert runs[4].kind == "attack" and runs[4].parent == 1 and runs[5].kind == "join"
    assert Path("map.png").stat().st_size and Path("curves.pdf").stat().st_size


def test_the_frozen_head_of_the_page_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says its method does: the federation's head is the initial one after every round."""
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(files()["my.py"], encoding="utf-8")
    called = fltk("r.db", "train", "--method", "my.py", "--subset", "200", "--clients", "4", "--rounds", "2")
    assert called.code == 0, called
    from fltk.engine.serial import Serial
    from fltk.experiment import Place, job_of, restore
    from fltk.models.parts import HEAD
    from fltk.rounds import loop

    with Store("r.db") as store:
        config, prepared = restore(store.find_run("run1"), store, Place())
        job = job_of(config, prepared.federation)
        task = job.task()
        *_, last = loop.rounds(job, Serial(job), task=task)
    layout = task.layout
    trained = last.state.server["w"]
    assert layout.take(trained, HEAD).equal(layout.take(task.w0, HEAD))
    assert not layout.take(trained, ~HEAD).equal(layout.take(task.w0, ~HEAD))


def test_the_page_names_every_kind_and_the_readme_names_the_page() -> None:
    for kind in catalogue.KINDS.values():
        assert f"`{kind.group}`" in PAGE
        assert kind.option in PAGE
    assert "docs/own-method-and-data.md" in (ROOT / "README.md").read_text(encoding="utf-8")
