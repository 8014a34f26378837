"""`fltk attack`: a run of its own beside its clean twin, grids that go on where they were, bad input in one line."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import done, fltk, played

from fltk.config import AttackConfig, DefenceConfig, RunConfig
from fltk.evaluation.robustness import attackers
from fltk.names import ATTACKS, DEFENCES
from fltk.registry import Store

SMALL = ("--subset", "500", "--clients", "6", "--newcomers", "2", "--alpha", "1", "--rounds", "3", "--hidden", "16")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run1: fedavg; run2: attn; run3: fedavg under random models, of run1."""
    db = tmp_path_factory.mktemp("attack") / "r.db"
    done(db, "train", "--method", "fedavg,attn", *SMALL)
    done(db, "attack", "--run", "run1", "--kind", "random-model", "--malicious", "0.34")
    return db


def rows(db: Path, *args: str) -> list[dict[str, Any]]:
    """What `fltk attack` prints as JSON."""
    found: list[dict[str, Any]] = json.loads(done(db, "attack", *args, "--json"))["rows"]
    return found


def test_an_attacked_run_is_a_child_that_says_what_it_cost(shelf: Path) -> None:
    [row] = rows(shelf, "--run", "run1", "--kind", "random-model", "--malicious", "0.34")
    assert (row["run"], row["twin"], row["malicious"], row["clients"]) == ("run3", "run1", 2, 6)
    with Store(shelf) as store:
        twin, run = store.find_run("run1"), store.find_run("run3")
        assert (run.kind, run.parent, run.status) == ("attack", 1, "done")
        assert (run.partition_id, run.seed) == (twin.partition_id, twin.seed)
        assert run.config["attack"]["kind"] == "random-model"
        assert run.origin["attack.malicious"] == "flag"
        assert run.origin["attack.attack_start"] == "default"
        bad = attackers(run.config, 6)
        good = [i for i in range(6) if i not in bad]
        own, clean = (store.client_values(k, "personal_test_acc")[1][-1][good] for k in (3, 1))
        assert row["acc"] == pytest.approx(float(own.mean()), abs=1e-6)
        assert row["clean"] == pytest.approx(float(clean.mean()), abs=1e-6)
        assert row["drop"] == pytest.approx(row["clean"] - row["acc"])
        assert row["global_acc"] == pytest.approx(row["acc"])
        weights = store.scalars(3, "mal_weight")["mal_weight"][1]
        stored = store.maps(3, [3])[0].array[0]
        assert weights[-1] == pytest.approx(float(stored[np.ix_(good, bad)].mean()), abs=1e-6)
        assert row["mal_weight_ratio"] == pytest.approx(float(weights.mean()) * 6)


def test_the_registry_is_asked_before_anything_is_played(shelf: Path) -> None:
    with Store(shelf) as store:
        before = [run.id for run in store.runs()]
    rows(shelf, "--run", "run1", "--kind", "random-model", "--malicious", "0.34")
    with Store(shelf) as store:
        assert [run.id for run in store.runs()] == before


def test_an_attacked_run_reproduces_resumes_compares_and_is_drawn(shelf: Path, tmp_path: Path) -> None:
    [again] = json.loads(done(shelf, "reproduce", "run3", "--json"))["rows"]
    assert again["verdict"] == "identical"
    with Store(shelf) as store:
        was = played(store, 3)
    done(shelf, "resume", "run3", "--from-round", "0")
    with Store(shelf) as store:
        assert played(store, 3) == was
    assert "random-model" in done(shelf, "diff", "run1", "run3")
    assert "fedavg" in done(shelf, "compare", "run1", "run3")
    out, data = tmp_path / "a.png", tmp_path / "a.csv"
    done(shelf, "plot", "attack", "run3", "-o", str(out), "--data", str(data))
    drawn = list(csv.DictReader(data.open()))
    assert {row["panel"] for row in drawn} == {"drop", "weight"}
    done(shelf, "plot", "attention-maps", "run3", "-o", str(out), "--data", str(data))
    marked = {row["contributor"] for row in csv.DictReader(data.open()) if row["contributor_malicious"] == "True"}
    with Store(shelf) as store:
        assert marked == {str(i) for i in attackers(store.find_run("run3").config, 6)}


def test_nobody_malicious_is_the_twin_bit_for_bit(shelf: Path) -> None:
    [row] = rows(shelf, "--run", "run1", "--kind", "ipm", "--malicious", "0")
    assert row["drop"] == 0
    assert row["malicious"] == 0
    with Store(shelf) as store:
        assert store.digests(int(row["run"][3:])) == store.digests(1)


def test_attn_is_on_guard_unless_told_otherwise(shelf: Path) -> None:
    [row] = rows(shelf, "--run", "run2", "--kind", "sign-flip")
    [other] = rows(shelf, "--run", "run2", "--kind", "sign-flip", "--set", "trust=off")
    with Store(shelf) as store:
        trusts = [store.find_run(r["run"]).config["params"]["trust"] for r in (row, other)]
        parents = [store.find_run(r["run"]).parent for r in (row, other)]
    assert trusts == ["on", "off"]
    assert parents == [2, 2]


def test_a_backdoor_reports_its_success_and_a_screen_its_verdicts(shelf: Path) -> None:
    options = ("--kind", "badnets", "--attackers", "1", "--set-attack", "target=3", "--set-attack", "size=2")
    [row] = rows(shelf, "--run", "run1", *options, "--defence", "multi-krum")
    assert 0 <= row["asr"] <= 1
    assert row["malicious"] == 1
    assert row["rejected_tpr"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert 0 <= row["rejected_fpr"] <= 1
    with Store(shelf) as store:
        run = store.find_run(row["run"])
        assert run.config["defence"]["defence"] == "multi-krum"
        trust = store.client_values(run.id, "trust")[1]
        assert trust.shape == (3, 6)
        assert set(np.unique(trust)) <= {0.0, 1.0}


def test_a_grid_plays_what_is_missing_and_names_what_cannot_be(shelf: Path) -> None:
    grid = ("--grid", "--run", "run1", "--kind", "none,ipm", "--method", "local,fedavg", "--seed", "0,1")
    grid = (*grid, "--defence", "none,multi-krum")
    planned = json.loads(done(shelf, "attack", *grid, "--dry-run", "--json"))["rows"]
    assert {row["state"] for row in planned} == {"new", "refused"}
    found = rows(shelf, *grid)
    played_ = [row for row in found if row["state"] == "done"]
    # local: one attack and no defence; fedavg: two kinds and two defences without the clean run; two seeds
    assert len(played_) == 2 * (1 + 3)
    refused = [row for row in found if row["state"] == "refused"]
    assert {(row["method"], row["defence"]) for row in refused} == {("local", "multi-krum")}
    for row in played_:
        assert row["drop"] is not None
        assert not (row["method"] == "local" and row["drop"])
    with Store(shelf) as store:
        count = len(store.runs())
    assert rows(shelf, *grid) == found
    with Store(shelf) as store:
        assert len(store.runs()) == count
    assert "attack" in done(shelf, "plot", "attack", "-o", str(shelf.parent / "grid.pdf"))


def test_without_a_run_the_settings_are_those_of_train(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    [row] = rows(db, "--kind", "label-flip", "--method", "fedavg", *SMALL, "--seed", "2")
    with Store(db) as store:
        twin = store.find_run("run1")
        assert (twin.kind, twin.method, twin.seed, row["twin"]) == ("train", "fedavg", 2, "run1")
        assert twin.config["partition"]["partition_seed"] == 2
        assert twin.config["train"]["rounds"] == 3


def test_a_setting_that_is_given_replaces_the_run_s(shelf: Path) -> None:
    [row] = rows(shelf, "--run", "run1", "--kind", "ipm", "--rounds", "2", "--lr", "0.02")
    with Store(shelf) as store:
        run = store.find_run(row["run"])
        assert (run.config["train"]["rounds"], run.config["train"]["lr"]) == (2, 0.02)
        assert run.config["train"]["hidden"] == "16"
        assert run.parent != 1


def test_newcomers_join_an_attacked_run(shelf: Path) -> None:
    found = json.loads(done(shelf, "join-new-client", "run3", "--json"))["rows"]
    assert all(math.isfinite(row["acc_mean"]) for row in found)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--kind", "random-modle"), "did you mean random-model"),
        (("--kind", "ipm", "--set-attack", "eps=-1"), "--set-attack eps=-1"),
        (("--kind", "ipm", "--set-attack", "epz=1"), "did you mean eps"),
        (("--kind", "ipm", "--set-attack", "eps"), "--set-attack takes KEY=VALUE"),
        (("--kind", "ipm", "--set-defence", "keep=1"), "--set-defence keep: there is no defence"),
        (
            ("--kind", "ipm", "--malicious", "0.5", "--defence", "trimmed-mean"),
            "--defence trimmed-mean needs|cannot face",
        ),
        (
            ("--kind", "ipm", "--malicious", "0.67", "--defence", "median", "--defence-fraction", "0.2"),
            "--malicious: --defence median cannot face 4 of the 6",
        ),
        (("--kind", "ipm", "--malicious", "1"), "--malicious must lie in"),
        (("--kind", "alie", "--malicious", "0.67"), "--malicious"),
        (("--kind", "badnets", "--set-attack", "size=9"), "--set-attack size=9.*larger than an image"),
        (("--kind", "ipm", "--defence", "fltrust", "--newcomers", "0"), "--defence fltrust needs a clean set"),
        (("--kind", "ipm", "--defence", "kurm"), "did you mean krum"),
        (("--kind", "ipm", "--method", "attn", "--defence", "bucketing"), "--defence bucketing does not go with attn"),
        (("--kind", "ipm", "--method", "local", "--defence", "median"), "--defence median does not go with local"),
        (("--kind", "ipm,alie"), "several make a grid; add --grid"),
        (("--kind", "none"), "name an attack or a defence"),
        (("--kind", "ipm", "--attackers", "1,77"), "--attackers.*no client 77"),
        (("--kind", "ipm", "--attackers", "0,1,2,3,4,5"), "--attackers: all 6 clients would be malicious"),
        (("--kind", "ipm", "--malicious", "0.95"), "--malicious 0.95: all 6 clients would be malicious"),
        (("--kind", "ipm", "--attackers", "a"), "--attackers takes client numbers"),
        (("--kind", "ipm", "--attack-start", "4", "--attack-stop", "2"), "--attack-stop"),
        (("--kind", "ipm", "--attack-start", "4"), "--attack-start 4: the run has 3 rounds"),
        (("--kind", "ipm", "--attack-size", "0"), "--attack-size must be a positive number"),
        (("--kind", "ipm", "--run", "run99"), "no run 'run99'"),
        (("--kind", "ipm", "--seed", "x"), "--seed takes whole numbers"),
        (("--kind", "ipm", "--head-mix", "classes", "--defence", "median"), "--head-mix classes"),
    ],
)
def test_bad_input_gets_one_line_and_trains_nothing(shelf: Path, args: tuple[str, ...], said: str) -> None:
    with Store(shelf) as store:
        before = len(store.runs())
    base = () if "--run" in args else ("--run", "run1")
    assert re.search(said, fltk(shelf, "attack", *base, *args).line)
    with Store(shelf) as store:
        assert len(store.runs()) == before


def test_plots_of_attacks_refuse_other_runs(shelf: Path, tmp_path: Path) -> None:
    assert "run1 is no attacked run" in fltk(shelf, "plot", "attack", "run1", "-o", str(tmp_path / "x.png")).line


def test_attacks_and_defences_are_listed_and_explained(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    for command, names in (("attacks", ATTACKS), ("defences", DEFENCES)):
        found = json.loads(done(db, command, "--json"))["rows"]
        assert [row[command[:-1]] for row in found] == list(names)
        assert all(row["summary"] for row in found)
    assert "Phi^-1" in done(db, "attacks", "alie")
    assert "--set-defence KEY=VALUE" in done(db, "defences", "multi-krum")
    assert "did you mean krum" in fltk(db, "defences", "kurm").line


def test_a_configuration_without_attackers_is_stored_and_hashed_as_before() -> None:
    bare = RunConfig(method="fedavg")
    assert not {"attack", "defence", "attack_params", "defence_params"} & bare.to_dict().keys()
    attacked = RunConfig(method="fedavg", attack=AttackConfig(kind="ipm"), attack_params={"eps": 0.5})
    guarded = RunConfig(method="fedavg", defence=DefenceConfig(defence="median"))
    assert len({config.digest() for config in (bare, attacked, guarded)}) == 3
    for config in (attacked, guarded):
        assert RunConfig.from_dict(config.to_dict()) == config
        assert config.clean == bare


def test_help_promises_the_defaults_of_the_run(shelf: Path) -> None:
    told = "".join(done(shelf, "attack", "--help").split())
    assert "[default:digits]" not in told and told.count("[default:therun's]") > 30
    assert "malicious[default:0.2]" in told  # those of the attack are its own
