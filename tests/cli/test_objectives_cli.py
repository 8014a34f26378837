"""Commands on data whose target is a number: measures, units and directions, and what needs class labels is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from calls import done, fltk

DIABETES = ("--dataset", "diabetes", "--clients", "4", "--newcomers", "1", "--rounds", "2", "--lr", "0.02")


def test_diabetes_runs_end_to_end(tmp_path: Path) -> None:
    db = tmp_path / "results.db"
    for method in ("local", "fedavg"):
        told = done(db, "train", *DIABETES, "--scheme", "iid", "--method", method)
    assert "personal MAE (points)" in told and "acc" not in told
    assert "worst 10% MAE (points)" in done(db, "evaluate", "run1", "run2")
    assert "(lower is better)" in done(db, "compare", "run1", "run2")
    assert "MAE (points)" in done(db, "attack", "--run", "run2", "--kind", "random-model")
    assert "mean MAE (points)" in done(db, "join-new-client", "run2", "--epochs", "1")
    assert "identical" in done(db, "reproduce", "run2")
    assert "personal MAE (points)" in done(db, "runs")


def test_compare_marks_the_smaller_error_as_the_best(tmp_path: Path) -> None:
    db = tmp_path / "results.db"
    for method, lr in (("fedavg", "0.02"), ("local", "0.0001")):  # a rate at which nothing is learned
        done(db, "train", *DIABETES, "--scheme", "iid", "--method", method, "--lr", lr)
    lines = done(db, "compare", "run1", "run2", "--metric", "personal_test_mae").splitlines()
    assert any(line.startswith("fedavg") and line.rstrip().endswith("*") for line in lines), lines


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--head-mix", "classes"), "--head-mix classes needs class labels"),
        (("--own-step", "vote"), "--own-step vote"),
        (("--method", "attn"), "--set token=prototypes"),
        (("--model", "lstm"), "--model lstm takes sequences of tokens"),
        (("--scheme", "permuted-labels"), "--scheme permuted-labels"),
    ],
)
def test_what_needs_class_labels_is_refused_in_one_line(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    called = fltk(tmp_path / "results.db", "train", *DIABETES, *args)
    assert called.code != 0 and said in called.err and len(called.err.strip().splitlines()) == 1, called


def test_attacks_on_labels_are_refused(tmp_path: Path) -> None:
    db = tmp_path / "results.db"
    done(db, "train", *DIABETES, "--scheme", "iid", "--method", "fedavg")
    called = fltk(db, "attack", "--kind", "label-flip")
    assert called.code != 0 and "random-model" in called.err
