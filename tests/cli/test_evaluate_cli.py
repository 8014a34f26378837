"""`fltk evaluate`: all candidates, stored first, equal each time, and honest about what is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import TINY, done, fltk

from fltk.names import DEPLOYMENTS
from fltk.registry import Store

CANDIDATES = ["mixed", "ft1", "ft5", "head10", "own"]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of local, fedavg-ft and attn on one partition, run1 to run3, with a falling learning rate."""
    path = tmp_path_factory.mktemp("evaluate") / "r.db"
    done(path, "train", "--method", "local,fedavg-ft,attn", *TINY, "--lr-schedule", "cosine")
    return path


def rows(text: str) -> list[dict[str, Any]]:
    return list(json.loads(text)["rows"])


def test_the_registry_has_what_is_printed(db: Path) -> None:
    printed = json.loads(done(db, "evaluate", "run3", "--json"))
    mine = [row for row in printed["rows"] if row["run"] == "run3"]
    assert [row["model"] for row in mine] == ["deployed", "personal", *CANDIDATES]
    with Store(db) as store:
        stored = store.evaluations(3)[-1]
        last = store.find_run(3).last
    assert [{k: v for k, v in row.items() if k not in ("run", "method", "seed")} for row in mine] == [
        {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
        for row in stored.summary["rows"]
    ]
    for row in mine:
        assert row["acc_mean"] == pytest.approx(float(np.mean(stored.clients[f"{row['model']}_test_acc"])))
        assert {"gain_vs_local", "harmed"} <= row.keys()
    assert mine[1]["acc_mean"] == last["personal_test_acc"]
    assert printed["run3 deployed"].startswith("vote: ") and "round 2" in printed["run3 last"]


@pytest.mark.parametrize("run", ["run1", "run2", "run3"])
def test_the_personal_model_scores_as_in_training(db: Path, run: str) -> None:
    """Also where personalising is random local work: it draws what it drew behind the last round."""
    personal = next(r for r in rows(done(db, "evaluate", run, "--json")) if (r["run"], r["model"]) == (run, "personal"))
    with Store(db) as store:
        found = store.find_run(run)
        assert personal["acc_mean"] == found.last["personal_test_acc"]
        assert personal["val_mean"] == found.last["personal_val_acc"]
        vector = store.evaluations(found.id)[-1].clients["personal_test_loss"]
        assert np.array_equal(vector, store.client_values(found.id, "personal_test_loss")[1][-1])


def test_local_steps_have_a_learning_rate_at_the_end_of_a_schedule(db: Path) -> None:
    done(db, "evaluate", "run3")
    with Store(db) as store:
        clients = store.evaluations(3)[-1].clients
    assert not np.array_equal(clients["ft5_val_loss"], clients["mixed_val_loss"])


def test_twice_is_the_same(db: Path) -> None:
    first, second = (done(db, "evaluate", "run2", "run3", "--json") for _ in range(2))
    assert [r for r in rows(first) if r["run"] != "run1"] == [r for r in rows(second) if r["run"] != "run1"]
    with Store(db) as store:
        one, two = store.evaluations(3)[-2:]
    assert one.summary == two.summary and one.clients.keys() == two.clients.keys()
    assert all(np.array_equal(one.clients[key], two.clients[key], equal_nan=True) for key in one.clients)


@pytest.mark.parametrize("mode", DEPLOYMENTS)
def test_deployment_modes(db: Path, mode: str) -> None:
    done(db, "evaluate", "run3", "--deploy", mode)
    with Store(db) as store:
        found = store.evaluations(3)[-1]
    chosen, clients = found.summary["chosen"], found.clients
    assert found.summary["deploy"] == mode and sum(chosen.values()) == 4 and set(chosen) <= set(CANDIDATES)
    assert [f"{c}_{part}_acc" in clients for c in CANDIDATES for part in ("val", "test")] == [True] * 10
    if mode in CANDIDATES:
        assert chosen == {mode: 4}
        assert np.array_equal(clients["deployed_test_acc"], clients[f"{mode}_test_acc"])
    if mode == "vote":
        assert len(chosen) == 1
    if mode == "client":
        best = np.stack([clients[f"{c}_val_loss"] for c in CANDIDATES]).argmin(0)
        wanted = [clients[f"{CANDIDATES[c]}_test_acc"][k] for k, c in enumerate(best)]
        assert clients["deployed_test_acc"].tolist() == wanted


def test_local_and_fine_tuned_fedavg_stand_beside(db: Path) -> None:
    done(db, "evaluate", "run1", "run2")
    found = rows(done(db, "evaluate", "run3", "--brief", "--json"))
    assert [(r["run"], r["model"]) for r in found] == [
        (run, model) for run in ("run3", "run1", "run2") for model in ("deployed", "personal")
    ]


def test_processes_and_older_checkpoints(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "fedavg", *TINY[:-1], "12")
    found = rows(done(db, "evaluate", "run1", "--round", "10", "--json"))
    assert [r["model"] for r in found] == ["deployed", "personal", "global", *CANDIDATES]
    with Store(db) as store:
        at = store.scalars(1, "personal_test_acc")["personal_test_acc"][1][9]
    assert found[1]["acc_mean"] == found[2]["acc_mean"] == at
    assert "kept: 10, 12" in fltk(db, "evaluate", "run1", "--round", "11").line


def test_without_validation_data_nothing_is_tuned(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--val-share", "0")
    for mode in ("vote", "client"):
        found = json.loads(done(db, "evaluate", "run1", "--deploy", mode, "--json"))
        assert found["run1 deployed"].endswith("nothing was selected: mixed (4 clients), after round 2")
        assert found["rows"][0]["val_mean"] is None


def test_a_run_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = tmp_path / "r.db"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record_round", interrupted)
        assert fltk(db, "train", *TINY).code == 130
    assert "no checkpoint" in fltk(db, "evaluate", "run1").line
    assert "no maps" in fltk(db, "plot", "attention-maps", "run1", "-o", str(tmp_path / "a.png")).line


def test_without_validation_data_nothing_is_chosen_and_that_is_said(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    trained = fltk(db, "train", "--method", "local", *TINY, "--val-share", "0", quiet=False)
    assert "part1: no client has validation data" in trained.err and "test data" not in trained.err
    found = fltk(db, "evaluate", "run1", quiet=False)
    assert "run1: there are no validation data, so nothing was selected" in found.err
    assert "vote" not in found.out and "nan" not in found.out and "nothing was selected: mixed (4 clients)" in found.out
    asked = fltk(db, "evaluate", "run1", "--deploy", "ft1", quiet=False)
    assert "no validation data" not in asked.err + asked.out and "ft1: ft1 (4 clients)" in asked.out


def test_without_test_data_accuracies_are_unknown(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    trained = fltk(db, "train", "--method", "local", *TINY, "--test-share", "0", quiet=False)
    assert "part1: no client has test data" in trained.err and "nan" not in trained.out
    assert "nan" not in done(db, "evaluate", "run1") + done(db, "runs", "run1")
