"""`fltk join-new-client`: steps and references, runs of their own, joining during training, bad input in one line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import TINY, done, fltk, kept, kill, start, wait_for

from fltk import experiment
from fltk.config import JoinConfig
from fltk.engine.serial import Serial
from fltk.evaluation import newcomers
from fltk.evaluation.join import join_all
from fltk.experiment import Place
from fltk.methods import method_class
from fltk.registry import Store
from fltk.rounds import loop

JOIN = "join-new-client"
SMALL = (
    "--subset",
    "400",
    "--clients",
    "4",
    "--newcomers",
    "3",
    "--alpha",
    "1",
    "--rounds",
    "12",
    "--lr-schedule",
    "cosine",
)
STEPS = ["arrival", "joined", "tuned", "scratch", "fedavg_ft"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of fedper, fedavg, attn and ditto on part1, run1 to run4; run5 without newcomers."""
    db = tmp_path_factory.mktemp("join") / "r.db"
    done(db, "train", "--method", "fedper,fedavg,attn,ditto", *SMALL)
    done(db, "train", "--method", "fedavg", *TINY[:4], "--newcomers", "0", "--rounds", "2")
    return db


@pytest.fixture
def db(shelf: Path) -> Iterator[Path]:
    """The shelf; whatever a test adds, runs 1 to 5 are what they were."""
    with Store(shelf) as store:
        before = [kept(store, run) for run in range(1, 6)]
    yield shelf
    with Store(shelf) as store:
        assert [kept(store, run) for run in range(1, 6)] == before


def joined(db: Path, *args: str) -> dict[str, Any]:
    """What it prints as JSON, which names the new run."""
    found = json.loads(done(db, JOIN, *args, "--json"))
    return {**found, "run": found["rows"][0]["run"]}


def cells(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["shots"], row["step"]): row for row in found["rows"]}


def test_the_registry_has_what_is_printed(db: Path) -> None:
    found = joined(db, "run3", "--finetune-head", "--shots", "2,all", "--name", "late")
    rows = cells(found)
    assert list(rows) == [(shots, step) for shots in ("2", "all") for step in STEPS]
    with Store(db) as store:
        run = store.find_run(found["run"])
        [stored] = store.evaluations(run.id)
        assert (run.kind, run.parent, run.status, run.rounds_done, run.name) == ("join", 3, "done", 12, "late")
        assert store.digests(run.id) == {12: store.digests(3)[12]}
        assert run.config_hash != store.find_run(3).config_hash
    assert run.config["join"] == {
        "epochs": 5,
        "finetune": "head",
        "lr": 0.05,
        "newcomers": [4, 5, 6],
        "round": 12,
        "shots": ["2", "all"],
        "train_on": False,
    }
    assert run.origin["join.shots"] == "flag" and run.origin["join.epochs"] == "default"
    arrays = stored.clients
    for (shots, step), row in rows.items():
        acc = arrays[f"{step}_test_acc"][0 if shots == "2" else 1]
        assert row["acc_mean"] == pytest.approx(float(acc.mean())) and row["acc_min"] == acc.min()
        assert row["participation_gap"] == pytest.approx(found["participants"] - row["acc_mean"])
    for name, step in (("acc_new", "joined"), *((f"acc_new_{s}", s) for s in STEPS if s != "joined")):
        assert run.last[name] == rows["all", step]["acc_mean"]
    assert arrays["row"].shape == (2, 3, 4)
    np.testing.assert_allclose(arrays["row"].sum(-1), 1, atol=1e-9)
    assert [(n["shots"], n["newcomer"]) for n in found["newcomers"]] == [
        (s, i) for s in ("2", "all") for i in (4, 5, 6)
    ]
    for n in found["newcomers"]:
        k, m = int(n["shots"] == "all"), n["newcomer"] - 4
        assert [n[step] for step in STEPS] == [arrays[f"{step}_test_acc"][k, m] for step in STEPS]


def test_participants_are_scored_as_in_training(db: Path) -> None:
    found = joined(db, "run4")
    with Store(db) as store:
        assert found["participants"] == store.find_run(4).last["personal_test_acc"]


def test_without_a_run_it_is_the_latest_training_run(db: Path) -> None:
    """Not the latest run, which is one of newcomers."""
    joined(db, "run3")
    assert "run5 has no newcomers" in fltk(db, JOIN, "--finetune-head").line


def test_twice_is_the_same_and_processes_change_no_bit(db: Path) -> None:
    def arrays(*more: str) -> tuple[dict[str, bytes], str]:
        found = joined(db, "run4", "--shots", "1,all", "--finetune", "all", "--epochs", "2", *more)
        with Store(db) as store:
            run = store.find_run(found["run"])
            stored = store.evaluations(run.id)[-1].clients
        return {key: value.tobytes() for key, value in stored.items()}, run.config_hash

    assert arrays() == arrays() == arrays("--engine", "process:2")


def test_fedavg_is_found_by_partition_seed_and_training(db: Path) -> None:
    assert joined(db, "run1")["reference"] == 2
    itself = joined(db, "run2")
    assert itself["reference"] == 2
    assert cells(itself)["all", "fedavg_ft"]["acc_mean"] == cells(itself)["all", "tuned"]["acc_mean"]


def test_without_fedavg_it_says_how_to_get_it(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "fedper", *TINY, "--lr", "0.02", "--drop-last")
    found = joined(db)
    assert found["reference"] is None and ("all", "fedavg_ft") not in cells(found)
    [note] = found["notes"]
    command = note.split("`")[1]
    assert command.startswith("fltk train --method fedavg --partition part1")
    done(db, *command.split()[1:])
    assert joined(db, "run1")["reference"] == 3


def test_fine_tuning_can_be_left_out(db: Path) -> None:
    found = joined(db, "run1", "--finetune", "none")
    assert [row["step"] for row in found["rows"]] == ["arrival", "joined", "scratch", "fedavg_ft"]
    assert not any(row["kept"] for row in found["newcomers"])


def test_some_of_the_newcomers(db: Path) -> None:
    everybody = {row["newcomer"]: row for row in joined(db, "run1")["newcomers"]}
    for args, ids in ((("--newcomer", "6", "--newcomer", "4"), [4, 6]), (("--share", "0.4"), [4])):
        found = joined(db, "run1", *args)["newcomers"]
        assert [row["newcomer"] for row in found] == ids
        assert found == [everybody[i] for i in ids]


def test_the_table_tells_the_whole_story(db: Path) -> None:
    out = done(db, JOIN, "run1", "--shots", "3,all")
    for part in (
        "fedavg_ft: the model of run2",
        "accuracy of the clients that trained: 0.",
        "Each newcomer",
        "fine-tuned model accepted: ",
    ):
        assert part in out
    assert out.count("\nall") >= 3 and "top client" in out
    header = done(db, JOIN, "run1", "--format", "csv").splitlines()[0]
    assert header.startswith("run,method,shots,step,acc_mean")


def test_the_registry_lists_runs_of_newcomers_apart(db: Path, tmp_path: Path) -> None:
    found = joined(db, "run1")
    rows = {row["run"]: row for row in json.loads(done(db, "runs", "--json"))["rows"]}
    assert rows["run1"]["kind"] == "train" and rows[found["run"]]["kind"] == "join of run1"
    assert rows[found["run"]]["acc_new"] == cells(found)["all", "joined"]["acc_mean"]
    facts = {row["key"]: row["value"] for row in json.loads(done(db, "runs", found["run"], "--json"))["rows"]}
    assert facts["kind"] == "join of run1" and facts["join.finetune"] == "head" and facts["join.newcomers"] == [4, 5, 6]
    groups = json.loads(done(db, "runs", "--by-seed", "--json"))["rows"]
    assert not any(found["run"] in group["runs"] for group in groups)
    alone = tmp_path / "r.db"
    done(alone, "train", *TINY)
    assert "kind" not in done(alone, "runs") and "newcomers acc" not in done(alone, "runs")


def test_other_commands_do_not_take_it_for_a_trained_run(db: Path) -> None:
    name = joined(db, "run2")["run"]
    for command in (("evaluate", name), ("resume", name), ("plot", "attention-maps", name), (JOIN, name)):
        assert "is a join run of run2" in fltk(db, *command).line
    again = f"run `fltk join-new-client run2` again; `fltk runs rm {name}` removes this one"
    assert again in fltk(db, "resume", name).line
    done(db, "evaluate", "run2")
    assert json.loads(done(db, "evaluate", "latest", "--json"))["rows"][0]["run"] == "run5"
    done(db, "train", "--skip-done", "--method", "fedavg", *SMALL)


@pytest.mark.parametrize("at", [4, 10, 11])
def test_joining_during_training(db: Path, at: int) -> None:
    """From the start, from a stored state, from an earlier stored state: the same as playing it without a registry."""
    found = joined(db, "run4", "--at-round", str(at), "--shots", "2")
    with Store(db) as store:
        run = store.find_run(found["run"])
        parent, place = store.find_run(4), Place()
        assert store.digests(run.id)[at] == store.digests(4)[at]
        config, prepared = experiment.restore(parent, store, place)
        vectors = store.client_values(run.id, "personal_test_acc")
        without = store.client_values(4, "personal_test_acc")[1][-1]
        new = store.scalars(run.id, "acc_new")["acc_new"]
        digests = store.digests(run.id)
    job = experiment.job_of(config, prepared.federation)
    state = next(r.state for r in loop.rounds(job, Serial(job)) if r.round == at)
    tuning = newcomers.Tuning("head", 5, 0.05)
    [here] = join_all(Serial(job), state, job.federation, [4, 5, 6], [2], tuning, keep=True)
    brought = [newcomers.join.few_shots(c, 2, job.streams()) for c in job.federation.newcomers]
    grown = replace(job, federation=job.federation.grown(brought))
    task = grown.task()
    larger = job.method.add_clients(state, [one.joined for one in here], task)
    played = list(loop.rounds(grown, Serial(grown), resume=(at, larger), task=task))
    assert digests == {at: digests[at], **{r.round: r.digest for r in played}}
    last = vectors[1][-1]
    assert vectors[0].tolist() == list(range(at + 1, 13)) and len(last) == 7
    assert new[0].tolist() == list(range(at, 13))
    assert new[1][0] == cells(found)["2", "joined"]["acc_mean"]
    assert new[1][-1] == pytest.approx(last[4:].mean()) == cells(found)["2", "end"]["acc_mean"]
    effect = found["incumbents"]
    assert effect["acc_mean"] == pytest.approx(last[:4].mean()) and effect["without"] == pytest.approx(without.mean())
    assert effect["gain"] == pytest.approx(float((last[:4] - without).mean()), abs=1e-7)
    assert effect["harmed"] == pytest.approx(float((last[:4] - without < -0.005).mean()))
    assert "incumbents" in found and (found["reference"] == 2) is (at == 10)


def test_what_was_not_tuned_has_no_number(db: Path) -> None:
    told = done(db, JOIN, "run1", "--finetune", "none", "--newcomer", "5")
    assert "nan" not in told and "1 newcomer joins run1" in told
    (row,) = joined(db, "run1", "--finetune", "none", "--newcomer", "5")["newcomers"]
    assert row["tuned"] is None and row["kept"] is None


def test_attention_goes_on_with_the_newcomers(db: Path) -> None:
    found = joined(db, "run3", "--at-round", "6")
    with Store(db) as store:
        maps = store.maps(store.find_run(found["run"]).id)
    assert [m.round for m in maps] == list(range(7, 13))
    assert all(m.array.shape[1:] == (7, 7) for m in maps)
    assert maps[-1].array[0][:4, 4:].sum() > 0, "those who were there never listen to the newcomers"
    assert "clients that were there before: " in done(db, JOIN, "run3", "--at-round", "11")


def test_a_replay_that_comes_out_otherwise_is_told(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Store.digests
    monkeypatch.setattr(Store, "digests", lambda self, run: {**told(self, run), 4: "0" * 64})
    line = fltk(db, JOIN, "run4", "--at-round", "4").line
    assert "--at-round 4" in line and "otherwise" in line
    with Store(db) as store:
        assert store.find_run(store.runs()[-1].id).status == "failed"


REFUSED = [
    (("run999",), "no run 'run999'"),
    (("nobody",), "no run 'nobody'"),
    (("run5",), "run5 has no newcomers: its partition was made with --newcomers 0; train a run with --newcomers 4"),
    (("run1", "--shots", "5000"), "--shots 5000: no newcomer has more than"),
    (("run1", "--shots", "0"), "--shots takes whole numbers from 1 or all"),
    (("run1", "--shots", "-3"), "--shots takes"),
    (("run1", "--shots", "1,x"), "--shots takes"),
    (("run1", "--shots", "²"), "--shots takes"),
    (("run1", "--newcomer", "99"), "--newcomer 99: there is no such client; run1 has the newcomers 4 to 6"),
    (("run1", "--newcomer", "-1"), "--newcomer -1"),
    (("run1", "--newcomer", "2"), "client 2 took part in training"),
    (("run1", "--newcomer", "4", "--share", "0.5"), "--newcomer and --share"),
    (("run1", "--share", "0"), "--share"),
    (("run1", "--share", "1.1"), "--share"),
    (("run1", "--epochs", "-1"), "--epochs"),
    (("run1", "--epochs", "0"), "--epochs"),
    (("run1", "--lr", "-0.1"), "--lr"),
    (("run1", "--lr", "nan"), "--lr"),
    (("run1", "--finetune", "tail"), "--finetune"),
    (("run1", "--finetune-head", "--finetune", "all"), "--finetune-head and --finetune all"),
    (("run1", "--at-round", "-1"), "--at-round"),
    (("run1", "--at-round", "12"), "--at-round 12: run1 has 12 rounds"),
    (("run1", "--at-round", "99"), "--at-round 99"),
    (("run1", "--at-round", "3", "--shots", "1,2"), "--at-round takes one number of --shots"),
    (("run1", "--name", "7"), "--name"),
    (("run1", "--engine", "foo"), "--engine takes"),
    (("run1", "--frobnicate"), "--frobnicate"),
]


@pytest.mark.parametrize(("args", "part"), REFUSED, ids=[" ".join(args) for args, _ in REFUSED])
def test_what_joining_refuses(db: Path, args: tuple[str, ...], part: str) -> None:
    """In one line, before anything is stored or announced."""
    with Store(db) as store:
        before = len(store.runs())
    called = fltk(db, JOIN, *args, quiet=False)
    assert part in called.line
    with Store(db) as store:
        assert len(store.runs()) == before


def test_a_method_without_the_ability_says_why(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_class("ditto"), "cannot", {"join": "it has no chair left"})
    assert "--method ditto cannot take newcomers in: it has no chair left" in fltk(db, JOIN, "run4").line
    rows = {row["method"]: row["cannot"] for row in json.loads(done(db, "methods", "--json"))["rows"]}
    assert rows["ditto"] == "join: it has no chair left" and rows["fedavg"] is None
    assert "no chair left" in done(db, "methods")


def test_a_run_that_was_killed_in_its_first_round(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    process = start(db, "train", "--method", "fedavg", *TINY, "--epochs", "100000")
    wait_for(process, "run1:")
    kill(process)
    line = fltk(db, JOIN).line
    assert "run1 has no checkpoint yet" in line and "fltk resume run1" in line
    assert "run1 has come to round 0" in fltk(db, JOIN, "--at-round", "1").line


def test_a_stopped_run_can_be_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db, record = tmp_path / "r.db", Store.record_round

    def stop(self: Store, run: int, round: int, *args: Any) -> None:
        if round == 2:
            raise KeyboardInterrupt
        record(self, run, round, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", stop)
        assert fltk(db, "train", "--method", "fedper", *TINY[:-1], "5").code == 130
    found = joined(db, "run1")
    assert "run1 is interrupted: they join after round 1 of 5" in found["notes"]
    during = joined(db, "run1", "--at-round", "1")
    assert during["incumbents"]["without"] is None and math.isfinite(during["incumbents"]["acc_mean"])


def test_stopping_it_leaves_a_run_that_says_so(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", stop)
        assert fltk(db, JOIN, "run1").code == 130
    with Store(db) as store:
        run = store.runs()[-1]
        assert (run.kind, run.status) == ("join", "interrupted")
    assert "stopped before its newcomers had joined" in fltk(db, "plot", "join", f"run{run.id}").line


def test_newcomers_without_validation_data_are_told(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "fedavg", *TINY, "--val-share", "0")
    found = joined(db)
    assert "no validation data" in found["notes"][0]
    assert cells(found)["all", "tuned"]["kept"] == 0
    assert cells(found)["all", "tuned"]["acc_mean"] == cells(found)["all", "joined"]["acc_mean"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_figure_and_its_numbers(db: Path, tmp_path: Path, suffix: str) -> None:
    runs = [joined(db, run, "--shots", "1,all")["run"] for run in ("run1", "run3")]
    output, data = tmp_path / f"join{suffix}", tmp_path / "join.csv"
    done(db, "plot", "join", *runs, "-o", str(output), "--data", str(data))
    assert output.stat().st_size > 1000
    rows = list(csv.DictReader(data.open(encoding="utf-8")))
    with Store(db) as store:
        for label, name in zip(("fedper", "attn"), runs, strict=True):
            stored = store.evaluations(store.find_run(name).id)[-1].clients
            mine = [row for row in rows if (row["panel"], row["label"]) == ("epochs", label)]
            path = [stored["arrival_test_acc"][1], *stored["curve_tuned_test_acc"][1].T]
            assert [int(row["x"]) for row in mine] == [-1, 0, 1, 2, 3, 4, 5]
            assert [float(row["mean"]) for row in mine] == pytest.approx([float(np.mean(v)) for v in path])
            mine = [row for row in rows if (row["panel"], row["label"], row["step"]) == ("shots", label, "tuned")]
            assert [row["x"] for row in mine] == ["1", "all"]
            assert [float(row["mean"]) for row in mine] == pytest.approx(stored["tuned_test_acc"].mean(1).tolist())


def test_what_the_figure_refuses(db: Path, tmp_path: Path) -> None:
    name = joined(db, "run1")["run"]
    assert "run1 is a train run and no join run" in fltk(db, "plot", "join", "run1").line
    assert "--shots 5: these runs share all" in fltk(db, "plot", "join", name, "--shots", "5", "-o", "x.png").line
    alone = tmp_path / "r.db"
    done(alone, "train", *TINY)
    assert "has no join run yet" in fltk(alone, "plot", "join", "latest").line


def test_from_python(db: Path) -> None:
    with Store(db) as store:
        number = newcomers.join_run(store.find_run(1), store, Place(), JoinConfig(epochs=1), [5])
        run = store.find_run(number)
    assert run.status == "done" and run.config["join"]["newcomers"] == [5]


def test_as_a_process(db: Path) -> None:
    process = start(db, JOIN, "run3", "--finetune-head")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "newcomers join run3 (attn)" in err and "tuned" in out
