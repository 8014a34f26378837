"""`fltk train`, `fltk runs` and `fltk methods`: equal results from equal settings, however they are given."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from calls import PATIENCE, TINY, done, fltk, lines_told, played, start

from fltk.names import METHODS
from fltk.registry import Store

ROTATED = ("--scheme", "rotated", "--groups", "2")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "r.db"


def rows(text: str) -> list[dict[str, Any]]:
    """The rows of --json output."""
    found = json.loads(text)
    assert found["schema"] == 1
    return list(found["rows"])


def digests(db: Path, run: int) -> dict[int, str]:
    with Store(db, readonly=True) as store:
        return store.digests(run)


def test_worker_processes_change_no_bit(db: Path) -> None:
    """One command line, three very different methods, in worker processes and without."""
    args = ("train", "--method", "scaffold,ifca,attn", *TINY, *ROTATED, "--participation", "0.5")
    process = start(db, *args, "--engine", "process:2", "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and lines_told(err) == []
    assert [row["run"] for row in rows(out)] == ["run1", "run2", "run3"]
    done(db, *args)
    with Store(db) as store:
        for run in (1, 2, 3):
            assert played(store, run) == played(store, run + 3)
        assert len({store.digests(run)[2] for run in (1, 2, 3)}) == 3
        assert len(store.partitions()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_worker_processes_change_no_bit_of_any_method(db: Path, method: str) -> None:
    args = ("train", "--method", method, *TINY, *ROTATED)
    process = start(db, "-q", *args, "--engine", "process:2")
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    done(db, *args)
    assert digests(db, 1) == digests(db, 2)


def test_flag_beats_variable_beats_file(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "exp.toml"
    path.write_text(
        'method = "fedprox"\nseed = 3\n[partition]\nsubset = 300\nclients = 4\nnewcomers = 1\n'
        "[train]\nlr = 0.1\nrounds = 5\nbatch-size = 8\n[params]\nmu = 0.5\n"
    )
    monkeypatch.setenv("FLTK_TRAIN_ROUNDS", "2")
    monkeypatch.setenv("FLTK_TRAIN_LR", "0.2")
    done(db, "train", "--config", str(path), "--lr", "0.3", "--set", "mu=0.25")
    monkeypatch.delenv("FLTK_TRAIN_ROUNDS")
    monkeypatch.delenv("FLTK_TRAIN_LR")
    with Store(db) as store:
        run = store.find_run(1)
    train = run.config["train"]
    assert (train["lr"], train["rounds"], train["batch_size"], train["model"]) == (0.3, 2, 8, "mlp")
    assert (run.method, run.seed, run.config["params"]) == ("fedprox", 3, {"mu": 0.25})
    wanted = {"train.lr": "flag", "train.rounds": "env", "train.batch_size": "file", "train.epochs": "default"}
    assert wanted.items() <= run.origin.items()
    assert (run.origin["method"], run.origin["params.mu"]) == ("file", "flag")
    told = {row["key"]: (row["value"], row["origin"]) for row in rows(done(db, "runs", "run1", "--json"))}
    assert told["train.lr"] == (0.3, "flag") and told["train.rounds"] == (2, "env")
    assert told["train.batch_size"] == (8, "file") and told["train.epochs"] == (1, "default")
    assert told["method"] == ("fedprox", "file") and told["status"] == ("done", None)
    assert "train.rounds,2,env" in done(db, "runs", "run1", "--format", "csv").splitlines()
    flags = ("--lr", "0.3", "--batch-size", "8", "--set", "mu=0.25", "--seed", "3")
    done(db, "train", "--method", "fedprox", *TINY, *flags)
    assert digests(db, 1) == digests(db, 2)
    with Store(db) as store:
        assert store.find_run(2).config_hash == run.config_hash


def test_several_methods_and_seeds_share_partitions(db: Path) -> None:
    out = done(db, "train", "--method", "local, fedavg", "--seed", "0,1", *TINY, "--json")
    found = [(row["run"], row["method"], row["seed"], row["partition"]) for row in rows(out)]
    assert found == [
        ("run1", "local", 0, "part1"),
        ("run2", "fedavg", 0, "part1"),
        ("run3", "local", 1, "part2"),
        ("run4", "fedavg", 1, "part2"),
    ]
    done(db, "train", "--method", "local", "--seed", "5", "--partition-seed", "0", *TINY)
    with Store(db) as store:
        assert store.find_run("latest").partition_id == 1
        assert store.digests(5) != store.digests(1)


def test_skip_done(db: Path) -> None:
    done(db, "train", "--method", "fedavg", *TINY, "--seed", "0")
    out = fltk(db, "train", "--method", "fedavg", *TINY, "--seed", "0,1", "--skip-done", "--json", quiet=False)
    assert [row["run"] for row in rows(out.out)] == ["run1", "run2"]
    assert "run1 is finished with the same configuration: skipped" in out.err
    out = fltk(db, "train", "--method", "fedavg", *TINY, "--lr", "0.1", "--skip-done", quiet=False)
    assert out.code == 0 and "run3: fedavg" in out.err
    done(db, "train", "--method", "fedavg", *TINY)
    with Store(db) as store:
        assert len(store.runs()) == 4
        assert store.digests(4) == store.digests(1)


def test_a_stored_partition_gives_the_same_run(db: Path) -> None:
    options = (*TINY[:-2], "--alpha", "0.3", "--partition-seed", "7")
    done(db, "partition", "make", *options, "--name", "mine")
    train = ("train", "--method", "attn", "--rounds", "2")
    done(db, *train, "--partition", "part1")
    done(db, *train, "--partition", "mine")
    done(db, *train, *options)
    with Store(db) as store:
        assert played(store, 1) == played(store, 2) == played(store, 3)
        assert {row.partition_id for row in store.runs()} == {1} and len(store.partitions()) == 1
        assert len({row.config_hash for row in store.runs()}) == 1


def test_names_notices_and_the_latest_run(db: Path) -> None:
    called = fltk(db, "train", "--method", "fedavg", *TINY, "--name", "baseline", quiet=False)
    assert called.err.splitlines()[0] == "run1: fedavg on part1" and lines_told(called.err) == []
    facts = [rows(done(db, "runs", ref, "--json")) for ref in ("baseline", "latest", "run1", "1")]
    assert facts[0] == facts[1] == facts[2] == facts[3]


def test_listing_runs(db: Path) -> None:
    done(db, "train", "--method", "local,fedavg", "--seed", "0,1", *TINY)
    done(db, "train", "--method", "fedavg", *TINY, "--alpha", "5")
    listed = rows(done(db, "runs", "--json"))
    assert [row["run"] for row in listed] == [f"run{k}" for k in range(1, 6)]
    with Store(db) as store:
        for row in listed:
            assert row["personal_test_acc"] == store.find_run(row["run"]).last["personal_test_acc"]
    assert [r["run"] for r in rows(done(db, "runs", "--where", "alpha<0.5", "--method", "fedavg", "--json"))] == [
        "run2",
        "run4",
    ]
    assert rows(done(db, "runs", "--where", "alpha>100", "--json")) == []
    table = done(db, "runs").splitlines()
    assert table[0].startswith("run ") and len(table) == 6
    groups = rows(done(db, "runs", "--by-seed", "--where", "alpha<0.5", "--json"))
    assert [(g["method"], g["seeds"], g["runs"]) for g in groups] == [
        ("local", 2, ["run1", "run3"]),
        ("fedavg", 2, ["run2", "run4"]),
    ]
    one, two = (listed[k]["personal_test_acc"] for k in (0, 2))
    assert groups[0]["personal"] == pytest.approx((one + two) / 2)
    assert groups[0]["personal_std"] == pytest.approx(abs(one - two) / 2**0.5)
    for format in ("csv", "tsv", "jsonl", "latex", "table"):
        assert done(db, "runs", "--format", format)
    assert len(list(csv.DictReader(io.StringIO(done(db, "runs", "--format", "csv"))))) == 5


def test_methods_are_listed_and_explained(tmp_path: Path) -> None:
    none = tmp_path / "none.db"
    listed = rows(done(none, "methods", "--json"))
    assert [row["method"] for row in listed] == list(METHODS) and all(row["summary"] for row in listed)
    assert len(done(none, "methods").splitlines()) == len(METHODS) + 1
    for row in listed:
        text = done(none, "methods", row["method"])
        assert text.startswith(row["method"]) and len(text.splitlines()) > 5
        found = json.loads(done(none, "methods", row["method"], "--json"))
        assert [h["name"] for h in found["rows"]] == (row["hyper_parameters"] or []) and found["description"]
        assert all(h["help"] for h in found["rows"])
    assert not none.exists()


def test_pfllib_clients_are_trained(db: Path, data_dir: Path) -> None:
    folder = data_dir / "PFLlib-MNIST"
    if not folder.is_dir():
        pytest.skip("FLTK_DATA has no PFLlib-MNIST")
    args = ("--from-pfllib", str(folder))
    done(db, "partition", *args)
    out = done(db, "train", "--method", "fedavg", *args, "--rounds", "1", "--steps", "2", "--hidden", "8", "--json")
    assert rows(out)[0]["partition"] == "part1" and rows(out)[0]["personal_test_acc"] > 0
    with Store(db) as store:
        config = store.find_run(1).config["partition"]
    assert (config["dataset"], config["scheme"], config["newcomers"]) == ("pfllib", "pfllib", 0)
    again = ("train", "--method", "fedavg", "--partition", "part1", "--rounds", "1", "--steps", "2", "--hidden", "8")
    done(db, *again)
    assert digests(db, 1) == digests(db, 2)


def test_variables_are_named_after_what_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorthand reads the variables of the group it stands for, and all are called like their options."""
    db = tmp_path / "r.db"
    monkeypatch.setenv("FLTK_PARTITION_ALPHA", "0.7")
    done(db, "partition", *TINY[:6])
    done(db, "partition", "make", *TINY[:6])
    with Store(db) as store:
        assert [row.config["alpha"] for row in store.partitions()] == [0.7]
    monkeypatch.setenv("FLTK_TRAIN_PARTITION", "part1")
    done(db, "train", "--method", "local,fedavg", "--rounds", "1")
    for name in ("FLTK_RUNS_METHOD", "FLTK_RUNS_LIST_METHOD"):
        with monkeypatch.context() as only:
            only.setenv(name, "local")
            for words in (("runs",), ("runs", "list")):
                assert [row["method"] for row in rows(done(db, *words, "--json"))] == ["local"]
    monkeypatch.setenv("FLTK_RUNS_METHOD", "local")
    assert [row["method"] for row in rows(done(db, "runs", "--method", "fedavg", "--json"))] == ["fedavg"]


def test_runs_by_kind(db: Path) -> None:
    done(db, "train", "--method", "local", *TINY)
    assert len(rows(done(db, "runs", "--kind", "train", "--json"))) == 1
    assert rows(done(db, "runs", "--kind", "join", "--json")) == []
    assert "unknown kind 'trian'; did you mean train" in fltk(db, "runs", "--kind", "trian").line


def test_a_name_given_twice_is_one_run(db: Path) -> None:
    assert len(rows(done(db, "train", "--method", "local,local", "--seed", "0,0", *TINY, "--json"))) == 1


@pytest.mark.parametrize("kind", ["methods", "attacks", "defences"])
def test_an_unknown_name_blames_no_option(db: Path, kind: str) -> None:
    line = fltk(db, kind, "nosuch").line
    assert f"NAME: unknown {kind[:-1]} 'nosuch'" in line and "--" not in line.replace("--help", "")


def test_a_perceptron_without_hidden_layers_is_softmax_regression(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "fedavg", "--hidden", "none")
    with Store(db) as store:
        run = store.find_run(1)
    assert run.config["train"]["hidden"] == "none"
    assert run.last["bytes_up"] == 4 * (64 + 1) * 10 * run.last["participants"]
