"""The best trial of each method in each setting, on validation data alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import done, fltk
from stored_runs import add_run

from fltk.errors import FltkError
from fltk.evaluation.compare import compare
from fltk.evaluation.tuning import arrange_best, best_trials
from fltk.registry import Store

Seeds = tuple[int, ...]
SETTINGS = ("digits dirichlet 0.1", "digits dirichlet 1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "r.db", create=True) as opened:
        yield opened


def trial(
    store: Store, method: str, val: float, test: float, seeds: tuple[int, ...] = (0, 1), **more: Any
) -> list[int]:
    """Runs of one configuration that end with these accuracies on validation and test data."""
    return [add_run(store, method, seed, test, val=val + seed / 100, **more) for seed in seeds]


def study(store: Store) -> None:
    """Two methods, two settings, two rates; the better rate on validation data is the worse one on test data."""
    for alpha in (0.1, 1.0):
        trial(store, "local", 0.5, 0.9, lr=0.1, alpha=alpha)
        trial(store, "local", 0.6, 0.4, lr=0.2, alpha=alpha)
        trial(store, "attn", 0.7, 0.8, lr=0.1, alpha=alpha, params={"tau": 1.0})
        trial(store, "attn", 0.6 + alpha / 4, 0.3, lr=0.2, alpha=alpha, params={"tau": 2.0})


def test_validation_decides_and_the_test_does_not(store: Store) -> None:
    study(store)
    tuning = best_trials(store.runs())
    table = compare(store, store.runs(), tuning=tuning)
    assert (table.methods, table.settings) == (("local", "attn"), SETTINGS)
    means = {place: cell.mean for place, cell in table.cells.items()}
    expected = {("local", SETTINGS[0]): 0.4, ("local", SETTINGS[1]): 0.4, ("attn", SETTINGS[0]): 0.8}
    assert means == pytest.approx({**expected, ("attn", SETTINGS[1]): 0.3})
    assert {place: choice.told for place, choice in table.choices.items()} == {
        ("local", SETTINGS[0]): "lr=0.2",
        ("local", SETTINGS[1]): "lr=0.2",
        ("attn", SETTINGS[0]): "lr=0.1 tau=1",
        ("attn", SETTINGS[1]): "lr=0.2 tau=2",
    }


def test_the_caption_counts_trials_and_a_tuned_rate_is_no_unequal_budget(store: Store) -> None:
    study(store)
    notes = arrange_best(best_trials(store.runs())).notes
    assert notes[0] == (
        "Tuned (lr, tau): the best of 2 trials for each method and setting, by validation accuracy, mean over seeds."
    )
    assert "local tuned: lr=0.2" in notes
    assert f"attn tuned: lr=0.1 tau=1 ({SETTINGS[0]}); lr=0.2 tau=2 ({SETTINGS[1]})" in notes
    assert not [note for note in notes if "unequal" in note or "of its own" in note or "chosen for each" in note]


def test_more_trials_are_a_budget_too(store: Store) -> None:
    study(store)
    trial(store, "attn", 0.1, 0.1, lr=0.4, params={"tau": 1.0})
    notes = arrange_best(best_trials(store.runs())).notes
    assert "the best of 2 to 3 trials" in notes[0]
    assert f"unequal budgets in {SETTINGS[0]}: trials 2 (local); 3 (attn)" in notes


def test_budgets_do_not_compete(store: Store) -> None:
    for rounds, val in ((2, 0.5), (9, 0.9)):
        trial(store, "local", val, 0.5, rounds=rounds)
        trial(store, "attn", val, 0.5, rounds=rounds)
    found = arrange_best(best_trials(store.runs()))
    assert found.settings == (f"{SETTINGS[0]} rounds=2", f"{SETTINGS[0]} rounds=9") and len(found.entries) == 8


def test_a_trial_with_fewer_seeds_or_without_validation_takes_no_part(store: Store) -> None:
    trial(store, "local", 0.5, 0.5, lr=0.1)
    trial(store, "local", 0.9, 0.5, seeds=(0,), lr=0.2)
    unknown = [add_run(store, "local", seed, lr=0.4) for seed in (0, 1)]
    tuning = best_trials(store.runs())
    assert [run.id for run in tuning.runs] == [1, 2] and tuning.choices[0].trials == 3
    assert "2 of 3 trials take no part" in tuning.notes[0]
    with pytest.raises(FltkError, match="val-share"):
        best_trials([store.find_run(number) for number in unknown])


def test_of_repeated_runs_the_latest_counts(store: Store) -> None:
    trial(store, "local", 0.9, 0.5, seeds=(0,))
    (again,) = trial(store, "local", 0.1, 0.5, seeds=(0,))
    tuning = best_trials(store.runs())
    assert [run.id for run in tuning.runs] == [again] and tuning.choices[0].trials == 1
    assert tuning.caption.startswith("Not tuned: the best of 1 trial for")


def test_one_method_with_two_budgets_never_shares_a_column(store: Store) -> None:
    """Two rows of a method would differ in something that is not shown."""
    add_run(store, "attn", params={"tau": 1.0}, rounds=2)
    add_run(store, "attn", params={"tau": 2.0}, rounds=9)
    assert compare(store, store.runs()).settings == (f"{SETTINGS[0]} rounds=2", f"{SETTINGS[0]} rounds=9")


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuning") / "r.db"
    with Store(path, create=True) as opened:
        study(opened)
        for run in opened.runs():
            opened.set_tag(run.id, "sweep", "study")
    return path


def test_the_table_and_its_latex(db: Path) -> None:
    lines = done(db, "compare", "--best-on", "val").splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["local", "attn"]
    assert "best of 2 trials" in "".join(lines)
    latex = done(db, "compare", "--best-on", "val", "--format", "latex")
    caption = next(line for line in latex.splitlines() if line.startswith(r"\caption"))
    assert "Tuned (lr, tau): the best of 2 trials" in caption and "personal\\_test\\_acc" in caption
    cells = json.loads(done(db, "compare", "--best-on", "val", "--json"))["rows"]
    assert {(row["trials"], row["tuned"]) for row in cells if row["method"] == "local"} == {(2, "lr=0.2")}


def test_rows_by_seed_differ_in_a_column_that_is_shown(db: Path) -> None:
    rows = json.loads(done(db, "runs", "--by-seed", "--json"))["rows"]
    assert len(rows) == 8 and {row["train.lr"] for row in rows} == {0.1, 0.2}
    shown = [tuple(str(row[key]) for key in ("method", "alpha", "train.lr", "params")) for row in rows]
    assert len(set(shown)) == 8
    assert {row["params"]["tau"] for row in rows if row["method"] == "attn"} == {1.0, 2.0}
    heads = done(db, "runs", "--by-seed").splitlines()[0].split()
    assert "lr" in heads


def test_rows_by_seed_of_the_best(db: Path) -> None:
    called = fltk(db, "runs", "--by-seed", "--best-on", "val", "--json", quiet=False)
    rows = json.loads(called.out)["rows"]
    assert [(row["method"], row["tuned"], row["trials"]) for row in rows] == [
        ("local", "lr=0.2", 2),
        ("attn", "lr=0.1 tau=1", 2),
        ("local", "lr=0.2", 2),
        ("attn", "lr=0.2 tau=2", 2),
    ]
    assert "best of 2 trials" in called.err
    assert "--by-seed" in fltk(db, "runs", "--best-on", "val").line


@pytest.mark.parametrize("kind", ["curves", "clients", "gains", "critical-difference"])
def test_figures_of_the_best(db: Path, tmp_path: Path, kind: str) -> None:
    data = tmp_path / "a.csv"
    output = ("-o", str(tmp_path / "a.png"), "--data", str(data))
    called = fltk(db, "plot", kind, "--best-on", "val", "--tag", "sweep=study", *output, quiet=False)
    assert called.code == 0 and "best of 2 trials for each method and setting" in called.err
    text = data.read_text()
    assert ("attn" if kind == "gains" else "local") in text and "lr=" not in text and "tau=" not in text
    if kind != "critical-difference":
        assert "--best-on" in fltk(db, "plot", kind).line


def test_bytes_of_the_best(tmp_path: Path) -> None:
    db, data = tmp_path / "r.db", tmp_path / "a.csv"
    with Store(db, create=True) as store:
        for lr, val in ((0.1, 0.5), (0.2, 0.6)):
            number = add_run(store, "fedavg", val=val, lr=lr, status=None, rounds=3)
            store.record_round(
                number,
                3,
                {"personal_test_acc": lr, "personal_val_acc": val, "bytes_up": 3.0, "bytes_down": 4.0},
                {},
                None,
                "3",
            )
            store.finish(number, "done")
    called = fltk(
        db, "plot", "bytes", "--best-on", "val", "-o", str(tmp_path / "a.png"), "--data", str(data), quiet=False
    )
    assert called.code == 0 and "best of 2 trials for each method and setting" in called.err
    assert ",0.2" in data.read_text() and ",0.1" not in data.read_text()


def test_the_report_of_the_best(db: Path, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    done(db, "report", "--sweep", "study", "--best-on", "val", "-o", str(page))
    text = re.sub(r"<[^>]+>", " ", page.read_text())
    assert "the best of 2 trials for each method and setting" in text and "8 runs, 2 methods, 2 settings" in text
    assert "Average ranks by personal accuracy, seeds 0, 1;" in text
    assert "unequal budgets" not in text and "of its own" not in text
