"""The trials of a search, in a table, in a figure, while they run, and in a storage that optuna-dashboard opens."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from calls import done, fltk

optuna = pytest.importorskip("optuna")

SEARCH = """
method = ["local", "fedprox"]
[partition]
subset = 300
clients = 3
newcomers = 0
[train]
rounds = 3
hidden = "20"
lr = { log_uniform = [0.01, 0.5] }
[for.fedprox]
params.mu = { choice = [0.0, 0.1] }
[search]
trials = 5
"""


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that is over; its file is search.toml, and its trials are kept in trials.db."""
    folder = tmp_path_factory.mktemp("search")
    storage = f'storage = "sqlite:///{folder}/trials.db"\n'
    (folder / "search.toml").write_text(SEARCH + storage, encoding="utf-8")
    path = folder / "r.db"
    called = fltk(path, "sweep", str(folder / "search.toml"), "--json", quiet=False)
    assert called.code == 0, called
    (folder / "told.txt").write_text(called.err, encoding="utf-8")
    return path


def studies(db: Path) -> dict[str, object]:
    """Optuna's own view of the two studies, by method."""
    storage = f"sqlite:///{db.with_name('trials.db')}"
    names = [found.study_name for found in optuna.get_all_study_summaries(storage)]
    return {name.split("/")[1]: optuna.load_study(study_name=name, storage=storage) for name in names}


def test_the_storage_is_the_one_that_the_file_names(db: Path) -> None:
    assert not db.with_name("r.optuna.db").exists()
    found = studies(db)
    assert set(found) == {"local", "fedprox"} and all(len(study.trials) == 5 for study in found.values())


def test_every_trial_is_told_with_the_best_so_far(db: Path) -> None:
    told = [line for line in db.with_name("told.txt").read_text().splitlines() if ": trial " in line]
    assert [line.split(":")[0] for line in told] == ["local"] * 5 + ["fedprox"] * 5
    study = studies(db)["local"]
    assert f"local: trial 4 (5 of 5): lr={study.trials[4].params['train.lr']:.4g}: val" in told[4]
    assert told[4].endswith(f"best {study.best_value:.4f} in trial {study.best_trial.number}")


def test_the_trials_in_a_table(db: Path) -> None:
    called = fltk(db, "sweep", str(db.with_name("search.toml")), "--trials", "--json", quiet=False)
    rows = json.loads(called.out)["rows"]
    assert [(row["search"], row["trial"]) for row in rows] == [(m, k) for m in ("local", "fedprox") for k in range(5)]
    for method, study in studies(db).items():
        own = [row for row in rows if row["search"] == method]
        values = [trial.value for trial in study.trials]
        assert [row["val"] for row in own] == values
        assert [row["best"] for row in own] == [max(values[: k + 1]) for k in range(5)]
    assert "local: share of the differences that each setting explains: lr 100%" in called.err
    assert f"optuna-dashboard sqlite:///{db.with_name('trials.db')} shows these trials" in called.err


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_figure(db: Path, tmp_path: Path, suffix: str) -> None:
    output, data = tmp_path / f"a{suffix}", tmp_path / "a.csv"
    done(db, "plot", "search", str(db.with_name("search.toml")), "-o", str(output), "--data", str(data))
    assert output.stat().st_size > 1000
    with data.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    study = studies(db)["fedprox"]
    own = [row for row in rows if row["search"] == "fedprox"]
    assert [float(row["value"]) for row in own if row["trial"]] == [trial.value for trial in study.trials]
    shares = {row["setting"]: float(row["importance"]) for row in own if row["setting"]}
    assert set(shares) == {"lr", "mu"} and sum(shares.values()) == pytest.approx(1.0)


def test_what_has_no_trials_says_so(db: Path, tmp_path: Path) -> None:
    grid, search = tmp_path / "grid.toml", tmp_path / "other.toml"
    grid.write_text('method = "local"\n', encoding="utf-8")
    search.write_text(SEARCH, encoding="utf-8")
    for command in (("sweep", "--trials"), ("plot", "search")):
        assert "is no search" in fltk(db, *command, str(grid)).line
        assert "has no trial yet" in fltk(db, *command, str(search)).line
    assert not db.with_name("r.optuna.db").exists(), "looking makes no file"
    assert "--trials goes with none of" in fltk(db, "sweep", str(search), "--trials", "--status").line


def test_a_storage_that_cannot_be_opened(tmp_path: Path) -> None:
    search = tmp_path / "search.toml"
    for storage, part in (('"trials.db"', "is a URL"), ('"nonsense://a"', "cannot be opened"), ("3", "is a URL")):
        search.write_text(f"{SEARCH}storage = {storage}\n", encoding="utf-8")
        assert part in fltk(tmp_path / "r.db", "sweep", str(search)).line
