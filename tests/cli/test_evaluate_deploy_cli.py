"""`fltk evaluate --deploy-prior --deploy-w` and `fltk train --head-mix` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import TINY, done, fltk

from fltk.registry import Store

PLAIN = ["mixed", "ft1", "ft5", "head10", "own"]
AUTO = ("--deploy-prior", "auto", "--deploy-w", "auto")


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of fedavg-ft and ditto on one partition, run1 and run2."""
    path = tmp_path_factory.mktemp("deploy") / "r.db"
    done(path, "train", "--method", "fedavg-ft,ditto", *TINY)
    return path


def shown(text: str) -> list[tuple[str, str]]:
    return [(row["run"], row["model"]) for row in json.loads(text)["rows"]]


def test_many_candidates_are_stored_and_few_are_printed(db: Path) -> None:
    printed = done(db, "evaluate", "run1", *AUTO, "--json")
    assert shown(printed) == [("run1", name) for name in ("deployed", "personal", "global", *PLAIN)]
    assert "27 stored; --full" in json.loads(printed)["candidates"]
    with Store(db) as store:
        found = store.evaluations(1)[-1]
    (chosen,) = found.summary["chosen"]
    assert np.array_equal(found.clients["deployed_test_acc"], found.clients[f"{chosen}_test_acc"])
    full = json.loads(done(db, "evaluate", "run1", *AUTO, "--full", "--json"))
    models = [row["model"] for row in full["rows"]]
    assert len(models) == 3 + 27 and "candidates" not in full
    assert {"ft5-prior-w0.25_test_acc", "mixed-prior_val_loss"} <= found.clients.keys()
    for row in full["rows"]:
        assert row["acc_mean"] == pytest.approx(float(np.mean(found.clients[f"{row['model']}_test_acc"])))


def test_five_candidates_are_all_printed(db: Path) -> None:
    printed = done(db, "evaluate", "run2", "--deploy", "ft1", "--deploy-prior", "1", "--deploy-w", "0.5", "--json")
    names = ["mixed-prior", "ft1-prior-w0.5", "ft5-prior-w0.5", "head10-prior-w0.5", "own"]
    mine = [model for run, model in shown(printed) if run == "run2"]
    assert mine == ["deployed", "personal", "global", *names]
    assert json.loads(printed)["run2 deployed"].startswith("ft1: ft1-prior-w0.5 (4 clients)")


def test_the_options_do_not_change_the_plain_candidates(db: Path) -> None:
    done(db, "evaluate", "run2")
    done(db, "evaluate", "run2", *AUTO)
    with Store(db) as store:
        plain, many = (e.clients for e in store.evaluations(2)[-2:])
    for key, values in plain.items():
        if not key.startswith("deployed"):
            assert np.array_equal(values, many[key]), key


def test_a_reference_stands_beside_only_with_the_same_deployment(db: Path) -> None:
    done(db, "evaluate", "run1")
    done(db, "evaluate", "run1", "--deploy-w", "auto")
    beside = [("run1", "deployed"), ("run1", "personal")]
    assert shown(done(db, "evaluate", "run2", "--brief", "--json"))[2:] == beside
    assert shown(done(db, "evaluate", "run2", "--brief", "--deploy-w", "auto", "--json"))[2:] == beside
    assert shown(done(db, "evaluate", "run2", "--brief", "--deploy-prior", "auto", "--json"))[2:] == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--deploy-prior", "2"), "--deploy-prior"),
        (("--deploy-w", "0.3"), "--deploy-w"),
        (("--brief", "--full"), "--brief and --full"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(db: Path, args: tuple[str, ...], said: str) -> None:
    assert said in fltk(db, "evaluate", "run1", *args).line


def test_the_class_head_is_an_option_of_training(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    rows: list[dict[str, Any]] = []
    for more in ((), ("--head-mix", "classes"), ("--head-mix", "rows", "--skip-done")):
        rows += json.loads(done(db, "train", "--method", "fedavg,local", *TINY, *more, "--json"))["rows"]
    runs = [row["run"] for row in rows]
    assert runs == ["run1", "run2", "run3", "run4", "run1", "run2"]
    with Store(db) as store:
        digests = [store.digests(k)[2] for k in (1, 2, 3, 4)]
        assert [store.find_run(k).config["train"]["head_mix"] for k in (1, 3)] == ["rows", "classes"]
    assert digests[0] != digests[2], "the average of the output layer"
    assert digests[1] == digests[3], "local averages nothing"
    assert "--head-mix" in fltk(db, "train", *TINY, "--head-mix", "class").line


def test_local_is_a_reference_whatever_the_head(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "local,fedavg-ft", *TINY)
    done(db, "train", "--method", "fedavg", *TINY, "--head-mix", "classes")
    done(db, "evaluate", "run1", "run2")
    printed = done(db, "evaluate", "run3", "--brief", "--json")
    assert {run for run, _ in shown(printed)} == {"run1", "run3"}  # fedavg-ft was trained with the other head
    assert json.loads(printed)["rows"][0]["gain_vs_local"] is not None


def test_a_reference_may_have_been_evaluated_in_other_rounds(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "local", *TINY, "--eval-every", "2")
    done(db, "train", "--method", "fedavg", *TINY)
    assert json.loads(done(db, "evaluate", "run2", "--brief", "--json"))["rows"][0]["gain_vs_local"] is not None
