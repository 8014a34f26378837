"""What is told of attacked runs: benign clients in `fltk evaluate`, what attackers knew, and what `latest` is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import done, fltk

from fltk.evaluation.robustness import attackers
from fltk.registry import Store

SMALL = ("--subset", "500", "--clients", "6", "--newcomers", "2", "--alpha", "1", "--rounds", "3", "--hidden", "16")
FLIP = ("--kind", "label-flip", "--malicious", "0.34")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run1: local; run2: fedavg; run3: fedavg under flipped labels, of run2."""
    db = tmp_path_factory.mktemp("told") / "r.db"
    done(db, "train", "--method", "local,fedavg", *SMALL)
    done(db, "attack", *FLIP)
    return db


def told(db: Path, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(db, *args, "--json"))
    return found


def test_an_attacked_run_is_evaluated_on_its_benign_clients_and_says_so(shelf: Path) -> None:
    done(shelf, "evaluate", "run1")
    printed = told(shelf, "evaluate", "run3")
    with Store(shelf) as store:
        run, stored = store.find_run(3), store.evaluations(3)[-1]
        bad = attackers(run.config, 6)
        good = [i for i in range(6) if i not in bad]
        local = store.client_values(1, "personal_test_acc")[1][-1]
        rounds, acc = store.client_values(3, "personal_test_acc")
        sizes = store.client_values(3, "personal_val_acc")[1].shape
    assert len(bad) == 2 and sizes == (3, 6)
    assert {row["run"] for row in printed["rows"]} == {"run3"}
    for row in printed["rows"]:
        own = stored.clients[f"{row['model']}_test_acc"]
        assert own.shape == (6,)  # the vectors are of everybody
        assert row["acc_mean"] == pytest.approx(float(own[good].mean()))
        assert row["acc_clients"] == 4
        assert row["val_mean"] == pytest.approx(float(stored.clients[f"{row['model']}_val_acc"][good].mean()))
        assert row["gain_vs_local"] == pytest.approx(float((own - local)[good].mean()), abs=1e-6)
        assert row["acc_weighted"] != pytest.approx(float(own.mean()), abs=1e-12)
    assert printed["run3 benign clients"] == f"4 of 6; malicious, and in no row: {bad[0]}, {bad[1]}"
    assert stored.summary["malicious"] == list(bad)
    assert sum(stored.summary["chosen"].values()) == 4
    assert stored.summary["rounds"]["last"]["acc_mean"] == pytest.approx(float(acc[-1][good].mean()), abs=1e-6)
    assert list(rounds) == [1, 2, 3]
    assert "benign clients: 4 of 6" in done(shelf, "evaluate", "run3").replace("\n", " ")


def test_means_of_attacked_runs_and_who_joins_them_know_benign_clients_only(shelf: Path) -> None:
    """In the last round, in `compare` with and without a statistic, and beside newcomers."""
    with Store(shelf) as store:
        bad = attackers(store.find_run(3).config, 6)
        acc = store.client_values(3, "personal_test_acc")[1][-1]
        recorded = store.find_run(3).last["personal_test_acc"]
    good = np.delete(acc.astype(float), bad)
    assert good.mean() != pytest.approx(acc.mean())
    assert recorded == pytest.approx(good.mean(), abs=1e-6)
    for metric, expected in (("personal_test_acc", good.mean()), ("personal_test_acc.min", good.min())):
        found = json.loads(done(shelf, "compare", "run2", "run3", "--metric", metric, "--json"))
        assert any(r["mean"] == pytest.approx(expected, abs=1e-6) for r in found["rows"])
    done(shelf, "join-new-client", "run3", "--name", "guests")
    with Store(shelf) as store:
        summary = store.evaluations(store.find_run("guests").id)[-1].summary
    assert summary["participants"] == pytest.approx(good.mean(), abs=1e-6)
    row = next(r for r in summary["rows"] if r["step"] == "joined")
    assert row["participation_gap"] == pytest.approx(good.mean() - row["acc_mean"], abs=1e-6)


def test_a_run_without_attackers_is_evaluated_as_before(shelf: Path) -> None:
    printed = told(shelf, "evaluate", "run2")
    assert not [key for key in printed if "benign" in key]
    with Store(shelf) as store:
        stored = store.evaluations(2)[-1]
    assert "malicious" not in stored.summary
    for row in stored.summary["rows"]:
        assert row["acc_mean"] == pytest.approx(float(np.mean(stored.clients[f"{row['model']}_test_acc"])))


def test_evaluations_of_attacked_runs_compare_by_benign_clients(shelf: Path) -> None:
    done(shelf, "evaluate", "run2", "run3")
    found = json.loads(done(shelf, "compare", "run2", "run3", "--metric", "personal.mean", "--json"))
    with Store(shelf) as store:
        row = next(r for r in store.evaluations(3)[-1].summary["rows"] if r["model"] == "personal")
    assert any(r["mean"] == pytest.approx(row["acc_mean"]) for r in found["rows"])
    assert not any("different ways" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("args", "flags"),
    [
        (("--kind", "sign-flip"), (False, False, False)),
        (("--kind", "min-max"), (True, False, True)),
        (("--kind", "min-max", "--set-attack", "stats=own"), (False, False, True)),
        (("--kind", "fang-trim", "--set-attack", "knowledge=partial"), (False, False, False)),
        (("--kind", "fang-krum", "--malicious", "0.2"), (True, True, True)),
    ],
)
def test_a_run_says_what_its_attackers_knew(shelf: Path, args: tuple[str, ...], flags: tuple[bool, ...]) -> None:
    [row] = told(shelf, "attack", "--run", "run2", "--malicious", "0.34", *args)["rows"]
    keys = ("attack_knows_benign", "attack_knows_defence", "attack_colludes")
    assert tuple(row[key] for key in keys) == flags
    shown = {fact["key"]: fact["value"] for fact in told(shelf, "runs", row["run"])["rows"]}
    assert tuple(bool(shown[f"last {key}"]) for key in keys) == flags


def test_the_latest_run_is_the_attacked_one_and_no_twin_that_came_along(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "attn", *SMALL)
    [row] = told(db, "attack", *FLIP, "--lr", "0.02")["rows"]
    assert (row["run"], row["twin"]) == ("run3", "run2")
    assert {r["run"] for r in told(db, "evaluate", "latest")["rows"]} == {"run3"}
    shown = {fact["key"]: fact["value"] for fact in told(db, "runs", "latest")["rows"]}
    assert shown["run"] == "run3"
    # the next attack goes on from there: from the twin's settings, not from those of a run on its guard
    [other] = told(db, "attack", "--kind", "sign-flip")["rows"]
    assert (other["run"], other["twin"]) == ("run4", "run2")
    with Store(db) as store:
        assert [store.find_run(k).config["params"]["trust"] for k in (1, 2, 3, 4)] == ["off", "off", "on", "on"]
    done(db, "train", "--method", "local", *SMALL)
    [mine] = told(db, "attack", "--kind", "ipm")["rows"]
    assert mine["twin"] == "run5"


def test_an_attacked_run_may_be_named_and_means_its_twin(shelf: Path) -> None:
    [row] = told(shelf, "attack", "--run", "run3", "--kind", "zero-sum")["rows"]
    assert row["twin"] == "run2"


def test_an_attacked_run_whose_twin_was_removed_still_has_its_settings(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "fedavg", *SMALL)
    done(db, "attack", *FLIP)
    done(db, "runs", "rm", "run1")
    [row] = told(db, "attack", "--kind", "zero-sum")["rows"]
    with Store(db) as store:
        assert store.find_run(row["twin"]).config["train"]["hidden"] == "16"


def test_latest_of_an_empty_registry_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "run" in fltk(tmp_path / "r.db", "evaluate", "latest").line
