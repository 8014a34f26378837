"""Methods, models, attacks, defences, schemes and data sets from files of the user's own, from one end to the other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from calls import Called, done, fltk
from own_files import MINE, plugin, wine
from processes import RunCli

from fltk import own_code
from fltk.registry import Store

SMALL = ("--clients", "4", "--newcomers", "1", "--rounds", "2")
DIGITS = ("--subset", "200", *SMALL)
ATTACK = """
from dataclasses import dataclass
from typing import ClassVar

from fltk.attacks.base import Attack, sent_update


@dataclass(frozen=True)
class Louder(Attack):
    title: ClassVar[str] = "updates times a factor"
    on_upload: ClassVar[bool] = True

    factor: float = 3.0

    def poison_upload(self, own, forged, group, scene, memory):
        return sent_update(own, self.factor * group.updates([own])[0])
"""
DEFENCE = """
from dataclasses import dataclass

from fltk.defences.median import Median


@dataclass(frozen=True)
class Middle(Median):
    pass
"""
SCHEME = """
import numpy as np


def by_turns(labels, n, rng):
    order = rng.permutation(len(labels))
    return [order[client::n] for client in range(n)]
"""
LOAD = """
from sklearn.datasets import load_breast_cancer


def load():
    bunch = load_breast_cancer()
    return {"x": bunch.data, "y": bunch.target, "classes": list(bunch.target_names)}
"""
HOSTILE = """
from pathlib import Path

Path({mark!r}).write_text("executed")

"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one, of a user who has run no code yet."""
    monkeypatch.chdir(tmp_path)
    become_another(tmp_path / "me", monkeypatch)
    return tmp_path


def become_another(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on as a process of another user: nothing is loaded, and another record holds what is known."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    monkeypatch.setattr("fltk.own_code._loaded", {})
    monkeypatch.setattr("fltk.own_code._admitted", {})
    monkeypatch.setattr("fltk.ledger._seen", {})


def test_a_method_and_a_model_of_a_file_are_trained_attacked_joined_drawn_and_reproduced(home: Path) -> None:
    plugin(home)
    own = ("--method", "my.py:Mine", "--model", "my.py:Net", "--dataset", str(wine(home / "wine.csv")))
    done("r.db", "train", *own, "--label", "kind", "--client", "cellar", "--set", "shrink=0.25", *SMALL)

    with Store("r.db", readonly=True) as store:
        run = store.find_run("run1")
    assert re.fullmatch(r"my\.py:Mine@[0-9a-f]{12}", run.method)
    assert run.config["params"] == {"shrink": 0.25} and run.config["partition"]["scheme"] == "natural"
    kinds = {record["kind"]: record for record in run.git["own_code"]}
    assert kinds.keys() == {"method", "model"} and kinds["method"]["source"] == MINE
    assert kinds["method"]["path"] == str(home / "my.py") and kinds["method"]["sha256"].startswith(run.method[-12:])

    printed = done("r.db", "runs", "code", "run1")
    assert printed.startswith(f"# {home / 'my.py'} (SHA-256 ") and printed.endswith(MINE) and printed.count(MINE) == 1
    assert str(home / "my.py") in done("r.db", "runs", "run1")

    done("r.db", "join-new-client", "run1")
    done("r.db", "attack", "--run", "run1", "--kind", "sign-flip", "--defence", "median")
    done("r.db", "evaluate", "run1")
    done("r.db", "plot", "attention-maps", "run1", "-o", "maps.png")
    done("r.db", "report", "run1", "-o", "report.html")
    assert "identical" in done("r.db", "reproduce", "run1", "run3")
    assert "my.py:Mine" in done("r.db", "runs", "--method", "my.py:Mine")


def test_worker_processes_get_the_source_and_come_to_the_same_bits(home: Path, run_cli: RunCli) -> None:
    plugin(home)
    own = ("train", "--method", "my.py:Mine", "--model", "my.py:Net", "--dataset", str(wine(home / "wine.csv")))
    asked = (*own, "--label", "kind", "--client", "cellar", *SMALL)
    done("r.db", *asked)
    called = run_cli("--db", "r.db", *asked, "--engine", "process:2", cwd=home)
    assert called.returncode == 0, called.stderr
    with Store("r.db", readonly=True) as store:
        assert store.digests(1) == store.digests(2) and len(store.digests(1)) == 2


def test_an_attack_a_defence_a_scheme_and_a_data_set_of_files(home: Path) -> None:
    plugin(home, ATTACK, "attack.py")
    plugin(home, DEFENCE, "defence.py")
    plugin(home, SCHEME, "scheme.py")
    plugin(home, LOAD, "data.py")
    data = ("--dataset", "data.py", "--scheme", "scheme.py:by_turns", *SMALL)
    done("r.db", "train", "--method", "fedavg", *data)
    done("r.db", "attack", "--kind", "attack.py:Louder", "--set-attack", "factor=9", "--defence", "defence.py:Middle")
    with Store("r.db", readonly=True) as store:
        clean, attacked = store.find_run("run1"), store.find_run("run2")
    assert clean.dataset.startswith("data.py:load@") and clean.config["partition"]["scheme"].startswith(
        "scheme.py:by_turns@"
    )
    assert attacked.config["attack"]["kind"].startswith("attack.py:Louder@")
    assert attacked.config["attack_params"] == {"factor": 9.0}
    assert attacked.config["defence"]["defence"].startswith("defence.py:Middle@")
    assert "identical" in done("r.db", "reproduce", "run2")


def test_help_of_a_plugin_is_that_of_a_built_in_one(home: Path) -> None:
    plugin(home)
    told = done("r.db", "methods", "my.py")
    assert told.startswith("my.py\n\nMine: FedAvg that shrinks") and "share of the local update" in told
    assert "0 to 1" in told
    plugin(home, ATTACK, "attack.py")
    assert "factor" in done("r.db", "attacks", "attack.py:Louder")
    plugin(home, DEFENCE, "defence.py")
    assert "No hyper-parameters." in done("r.db", "defences", "defence.py")


def test_a_setting_outside_its_range_is_refused_as_for_a_built_in_method(home: Path) -> None:
    plugin(home)
    line = fltk("r.db", "train", "--method", "my.py:Mine", "--set", "shrink=2", *DIGITS).line
    assert "shrink=2" in line and "0 to 1" in line
    assert "did you mean shrink" in fltk("r.db", "train", "--method", "my.py:Mine", "--set", "shrnk=1", *DIGITS).line


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("def f(:\n", "my.py:Mine", "my.py: line 1: SyntaxError"),
        ("x = 1\ny = x / 0\n", "my.py:Mine", "my.py: line 2: ZeroDivisionError: division by zero"),
        ("import no_such_module\n", "my.py:Mine", "my.py: line 1: ModuleNotFoundError"),
        (MINE, "my.py:Nine", "has no 'Nine'; it has Mine"),
        (MINE, "my.py:Net", "Net must be a class that derives from fltk.protocol.method.Method"),
        (MINE, "their.py:Mine", "their.py: No such file"),
        ("class A:\n    pass\n", "my.py", "name one method of the file"),
        (MINE.replace("@dataclass(frozen=True)\n", ""), "my.py:Mine", "put @dataclass(frozen=True) above class Mine"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(home: Path, text: str, name: str, told: str) -> None:
    plugin(home, text)
    line = fltk("r.db", "train", "--method", name, *DIGITS).line
    assert told in line and line.startswith("fltk: error: ")


@pytest.mark.parametrize("engine", ["serial", "process:2"])
def test_an_exception_in_own_code_names_file_and_line(home: Path, engine: str, run_cli: RunCli) -> None:
    text = MINE.replace("        upload = super()", "        {}['nothing']\n        upload = super()")
    plugin(home, text)
    line = text.splitlines().index("        {}['nothing']") + 1
    called = run_cli("train", "--method", "my.py:Mine", "-q", "--engine", engine, *DIGITS, cwd=home)
    assert called.returncode == 1
    assert called.stderr == f"fltk: error: {home / 'my.py'}: line {line}: KeyError: 'nothing'\n"


def test_a_model_that_is_no_module(home: Path) -> None:
    plugin(home, "def Net(shape, outputs):\n    return shape\n")
    line = fltk("r.db", "train", "--method", "fedavg", "--model", "my.py", *DIGITS).line
    assert "it gave tuple, not a torch.nn.Module" in line


def test_other_code_is_another_configuration_and_reproduce_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(home)
    done("r.db", "train", "--method", "my.py:Mine", *DIGITS)
    plugin(home, MINE + "\n# edited\n")
    done("r.db", "train", "--method", "my.py:Mine", *DIGITS)
    with Store("r.db", readonly=True) as store:
        first, second = store.find_run("run1"), store.find_run("run2")
    assert first.config_hash != second.config_hash and first.method != second.method

    become_another(home / "me", monkeypatch)  # the same user in a new process
    refused = fltk("r.db", "reproduce", "run1")
    assert refused.code == 3 and "my.py has changed since" in refused.err and "--trust-stored-code" in refused.err
    told = done("r.db", "reproduce", "run1", "--trust-stored-code")
    assert "identical" in told and "the source that is stored with the run was used" in told
    assert "identical" in done("r.db", "reproduce", "run2")


def test_a_sweep_over_own_methods_and_settings(home: Path) -> None:
    plugin(home)
    (home / "grid.toml").write_text(
        'method = ["fedavg", "my.py:Mine"]\n[partition]\nsubset = 200\nclients = 4\n[train]\nrounds = 1\n'
        '[for."my.py:Mine"]\nparams = { shrink = [0.1, 0.9] }\n',
        encoding="utf-8",
    )
    done("r.db", "sweep", "grid.toml")
    with Store("r.db", readonly=True) as store:
        found = [(run.method.split("@")[0], run.config["params"]) for run in store.runs(status="done")]
    assert len(found) == 3 and ("my.py:Mine", {"shrink": 0.9}) in found


# A registry from somebody else


def refused(called: Called) -> str:
    """The one line of a command that must not run somebody's code."""
    assert called.code != 0 and called.err.count("\n") == 1, called
    return called.err


def test_nothing_of_a_strangers_registry_is_executed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source would write a file when it is run. The stranger's file lies there as well, as it was sent."""
    mark = home / "executed"
    theirs = home / "theirs"
    theirs.mkdir()
    monkeypatch.chdir(theirs)
    plugin(theirs, HOSTILE.format(mark=str(mark)) + MINE)
    for seed in ("0", "1"):
        done("r.db", "train", "--method", "my.py:Mine", "--model", "my.py:Net", "--seed", seed, *DIGITS[:2], *SMALL)
    done("r.db", "evaluate", "run1")
    assert mark.exists()
    mark.unlink()

    become_another(home / "other", monkeypatch)
    for words in (
        ("runs",),
        ("runs", "run1"),
        ("runs", "code", "run1"),
        ("runs", "--format", "json"),
        ("runs", "--by-seed"),
        ("compare",),
        ("diff", "run1", "run2"),
        ("plot", "curves", "run1", "run2", "-o", "curves.png"),
        ("plot", "attention-maps", "run1", "-o", "maps.png"),
        ("plot", "clients", "run1", "-o", "clients.png"),
        ("report", "run1", "-o", "report.html"),
        ("export", "run1", "--what", "runs", "-o", "run1.csv"),
        ("verify",),
        ("methods",),
    ):
        called = fltk("r.db", *words)
        assert called.code == 0, (words, called)
        assert not mark.exists(), words
    assert fltk("mine.db", "db", "merge", "r.db").code == 0 and not mark.exists()

    for db, words in (
        ("r.db", ("reproduce", "run1")),
        ("mine.db", ("reproduce", "run1")),
        ("r.db", ("resume", "run1", "--from-round", "0")),
        ("r.db", ("join-new-client", "run1")),
        ("r.db", ("attack", "--run", "run1", "--kind", "sign-flip")),
        ("r.db", ("evaluate", "run1")),
        ("r.db", ("export", "run1", "--what", "weights", "-o", "w.safetensors")),
        ("r.db", ("plot", "embeddings", "run1", "-o", "e.png")),
    ):
        line = refused(fltk(db, *words))
        assert "you have not run this code here" in line, (words, line)
        assert not mark.exists(), words

    assert "identical" in done("r.db", "reproduce", "run1", "--trust-stored-code")
    assert mark.exists()


def test_a_stored_configuration_that_names_a_file_without_its_hash_is_not_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a stranger had written the row by hand, so that it passes for what a user typed."""
    import sqlite3

    done("r.db", "train", "--method", "fedavg", *DIGITS)
    mark = home / "executed"
    plugin(home, HOSTILE.format(mark=str(mark)) + MINE, "evil.py")
    with sqlite3.connect("r.db") as connection:
        (text,) = connection.execute("select config from run where id = 1").fetchone()
        config = json.loads(text)
        config["method"] = "evil.py:Mine"
        connection.execute("update run set config = ?, method = ? where id = 1", (json.dumps(config), "evil.py:Mine"))
    for words in (
        ("reproduce", "run1"),
        ("report", "run1", "-o", "r.html"),
        ("attack", "--run", "run1", "--kind", "sign-flip"),
    ):
        fltk("r.db", *words)
        assert not mark.exists(), words
    assert "without its hash" in refused(fltk("r.db", "reproduce", "run1"))


def test_stored_source_that_does_not_have_its_hash_is_not_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = own_code.Code("my.py", "0" * 64, b"raise SystemExit")
    with pytest.raises(Exception, match="does not have its hash"):
        own_code.admit([code])


def test_an_old_run_is_readable_without_its_package(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(home)
    done("r.db", "train", "--method", "my.py:Mine", *DIGITS)
    (home / "my.py").unlink()
    become_another(home / "other", monkeypatch)
    (row,) = json.loads(done("r.db", "runs", "--json"))["rows"]
    assert row["method"].startswith("my.py:Mine@") and np.isfinite(row["personal_test_acc"])
