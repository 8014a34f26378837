"""`fltk compare` and `fltk plot critical-difference` as a user types them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from calls import done, fltk
from stored_runs import add_run

from fltk.evaluation.compare import Pairing, compare
from fltk.registry import Store

METHODS = {"local": 0.4, "fedavg": 0.5, "fedavg-ft": 0.61, "attn": 0.6}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four methods, two settings, three seeds; `attn` lacks one seed of the second."""
    path = tmp_path_factory.mktemp("compare") / "r.db"
    rng = np.random.default_rng(0)
    with Store(path, create=True) as store:
        for alpha in (0.1, 1.0):
            for seed in range(3):
                for method, mean in METHODS.items():
                    if (method, alpha, seed) != ("attn", 1.0, 2):
                        noise = rng.integers(-2, 3, 6) / 25
                        add_run(store, method, seed, mean + noise, alpha=alpha)
    return path


def test_the_table_has_the_stored_means(db: Path) -> None:
    lines = done(db, "compare").splitlines()
    assert lines[0] == "personal_test_acc: last round (higher is better)"
    assert re.split(r"  +", lines[1]) == ["method", "digits dirichlet 0.1", "digits dirichlet 1", "avg rank"]
    with Store(db) as store:
        table = compare(store, store.runs())
    for line, method in zip(lines[2:6], METHODS, strict=True):
        cell = table.cells[method, "digits dirichlet 0.1"]
        assert line.startswith(method) and f"{cell.mean:.4f} ± {cell.std:.4f}" in line
        assert ("*" in line) == (method in {best for s in table.settings for best in table.best(s)})
    assert " (2)" in lines[5] and "note: unequal seeds in digits dirichlet 1: attn 2 of 3" in lines
    assert any("critical difference" in line and "Nemenyi" in line for line in lines)


def test_named_runs_and_filters(db: Path) -> None:
    assert done(db, "compare", "run1", "run2").count("±") == 0
    two = done(db, "compare", "--method", "local,attn", "--where", "alpha<0.5").splitlines()
    assert [line.split()[0] for line in two[2:4]] == ["local", "attn"] and "avg rank" not in two[1]
    assert "--method does not go with named runs" in fltk(db, "compare", "run1", "--method", "local").line
    assert "did you mean attn" in fltk(db, "compare", "--method", "local,atn").line
    assert "did you mean digits" in fltk(db, "compare", "--dataset", "digit").line
    assert "no run to compare" in fltk(db, "compare", "--dataset", "mnist").line
    assert "no run 'run99'" in fltk(db, "compare", "run1", "run99").line


def test_a_kind_that_the_registry_lacks_is_no_unknown_kind(db: Path) -> None:
    none = fltk(db, "compare", "--kind", "join").line
    assert "no finished join run fulfils the filters" in none and "fltk join-new-client" in none
    drawn = fltk(db, "plot", "attack").line
    assert "no run to draw: no finished attack run" in drawn and "make some with fltk attack" in drawn
    assert "unknown kind 'atack'; did you mean attack" in fltk(db, "compare", "--kind", "atack").line


def test_only_finished_training_runs_unless_asked(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    with Store(db, create=True) as store:
        add_run(store, "local")
        add_run(store, "fedavg", status="interrupted")
        add_run(store, "attn", kind="join")
    assert "fedavg" not in done(db, "compare") and "attn" not in done(db, "compare")
    told = done(db, "compare", "--status", "all", "--kind", "all")
    assert "attn" in told and "note: not finished: run2 (fedavg) interrupted after round 2" in told
    assert "fedavg" in done(db, "compare", "run1", "run2")


def test_paired_differences(db: Path) -> None:
    out = done(db, "compare", "--against", "fedavg-ft", "--percent")
    assert "personal_test_acc in percent" in out and "BCa, 9,999 resamples, seed 0" in out
    assert "Wilcoxon signed-rank" in out and "Holm" in out
    assert "With 2 seeds no p is below 0.5, and intervals are too narrow." in out
    with Store(db) as store:
        expected = Pairing(store, compare(store, store.runs())).differences("fedavg-ft")
    rows = list(csv.DictReader(io.StringIO(done(db, "compare", "--against", "fedavg-ft", "--format", "csv"))))
    assert len(rows) == len(expected) == 2 * 2 * 3 + 3
    for row, item in zip(rows, expected, strict=True):
        assert (row["setting"], row["method"], row["unit"]) == (item.setting, item.method, item.unit)
        assert float(row["mean"]) == item.mean and float(row["p_holm"]) == item.p_holm
        assert (float(row["low"]), float(row["high"])) == (item.interval.low, item.interval.high)
    line = next(line for line in out.splitlines() if re.match(r"digits dirichlet 0.1 +local +clients", line))
    shown = next(d for d in expected if (d.setting, d.method, d.unit) == ("digits dirichlet 0.1", "local", "clients"))
    assert f"{100 * shown.mean:.2f}" in line and str(shown.pairs) in line
    assert "did you mean attn" in fltk(db, "compare", "--against", "atn").line


def test_json_holds_everything(db: Path) -> None:
    told = json.loads(done(db, "compare", "--json", "--against", "local"))
    assert told["schema"] == 1 and told["metric"]["name"] == "personal_test_acc"
    assert told["metric"]["higher_is_better"] is True and told["methods"] == list(METHODS)
    assert len(told["rows"]) == 8 and len(told["differences"]) == 15 and told["ties_over"] == "clients"
    assert set(told["ranks"]["average"]) == set(METHODS) and told["notes"]
    cell = told["rows"][0]
    assert cell["seeds"] == 3 and cell["low"] <= cell["mean"] <= cell["high"] and len(cell["runs"]) == 3
    plain = json.loads(done(db, "compare", "--json"))
    assert plain["differences"] is None and plain["rows"] == told["rows"]


def test_latex(db: Path) -> None:
    text = done(db, "compare", "--format", "latex", "--percent")
    assert text.count(r"\mathbf") == 2, "the best of each column"
    assert r"\underline{Underlined}: not significantly worse than the best" in text and r"\caption{" in text
    assert "paired by client and seed" in text and r"in percent (\texttt{personal\_test\_acc})" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 5 and all(row.count("&") == 3 for row in rows)
    with Store(db) as store:
        pairing = Pairing(store, compare(store, store.runs()))
    for row, method in zip(rows[1:], METHODS, strict=True):
        first = row.split("&")[1]
        best = method in pairing.comparison.best("digits dirichlet 0.1")
        tied = method in pairing.ties("digits dirichlet 0.1")
        assert (r"\mathbf" in first, r"\underline" in first) == (best, tied and not best)
        mean = pairing.comparison.cells[method, "digits dirichlet 0.1"].mean
        assert f"{100 * mean:.2f}" in first
    differences = done(db, "compare", "--format", "latex", "--against", "local")
    assert r"\begin{tabular}" in differences and "fedavg-ft & clients" in differences


def test_missing_cells_are_shown_as_missing(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    with Store(db, create=True) as store:
        add_run(store, "local", alpha=0.1)
        add_run(store, "local", alpha=1.0)
        add_run(store, "attn", alpha=0.1)
    assert re.search(r"^attn +0\.5000 \* +-$", done(db, "compare"), re.MULTILINE)
    assert "attn & $\\mathbf{0.5000}$ & -- \\\\" in done(db, "compare", "--format", "latex")
    rows = list(csv.DictReader(io.StringIO(done(db, "compare", "--format", "csv"))))
    assert [(row["method"], row["seeds"], row["mean"]) for row in rows][-1] == ("attn", "0", "")
    told = json.loads(done(db, "compare", "--against", "local", "--json"))
    assert [d["pairs"] for d in told["differences"] if d["setting"] == "digits dirichlet 1"] == [0, 0]


@pytest.mark.parametrize("suffix", ["tex", "csv", "tsv", "json", "jsonl"])
def test_files_hold_what_is_printed(db: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    assert done(db, "compare", "-o", str(path)) == f"{path}\n"
    assert path.read_text() == done(db, "compare", "--format", "latex" if suffix == "tex" else suffix)


def test_parquet(db: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an extra: pip install 'fltk[parquet]'")
    done(db, "compare", "-o", str(tmp_path / "t.parquet"))
    done(db, "compare", "--against", "local", "-o", str(tmp_path / "d.parquet"))
    assert parquet.read_table(tmp_path / "t.parquet").num_rows == 8
    assert parquet.read_table(tmp_path / "d.parquet").num_rows == 15


def test_refused_files_and_options(db: Path, tmp_path: Path) -> None:
    assert ".tex" in fltk(db, "compare", "-o", str(tmp_path / "t.txt")).line
    assert "does not exist" in fltk(db, "compare", "-o", str(tmp_path / "no" / "t.csv")).line
    wrong = fltk(db, "compare", "-o", str(tmp_path / "t.csv"), "--format", "csv").line
    assert "--format does not go with --output" in wrong
    assert "--percent is for accuracies" in fltk(db, "compare", "--metric", "train_loss", "--percent").line
    assert "did you mean train_loss" in fltk(db, "compare", "--metric", "trainloss").line
    assert "no registry" in fltk(tmp_path / "none.db", "compare").line
    assert not list(tmp_path.iterdir())


def test_the_diagram(db: Path, tmp_path: Path) -> None:
    figure, data = tmp_path / "cd.svg", tmp_path / "cd.csv"
    out = done(db, "plot", "critical-difference", "-o", str(figure), "--data", str(data))
    assert out.splitlines() == [str(figure), str(data)] and figure.stat().st_size > 1000
    rows = list(csv.DictReader(io.StringIO(data.read_text())))
    with Store(db) as store:
        ranks = compare(store, store.runs()).ranks()
    assert ranks is not None
    average = dict(zip(ranks.methods, ranks.average, strict=True))
    assert {row["method"]: float(row["average_rank"]) for row in rows} == average
    lone = fltk(db, "plot", "critical-difference", "--where", "alpha<0.5", "-o", str(figure)).line
    assert "two settings" in lone


def test_numbers_that_need_more_say_what(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    with Store(db, create=True) as store:
        add_run(store, "local")
        add_run(store, "attn")
    assert "none of these runs is evaluated; `fltk evaluate run1 run2` does that" in (
        fltk(db, "compare", "--metric", "deployed").line
    )
    with Store(db) as store:
        store.record_round(add_run(store, "fedavg", status=None), 3, {"personal_val_acc": 0.5}, {}, None, "0" * 64)
    lacking = fltk(db, "compare", "--status", "all", "--metric", "rounds_to_target").line
    assert "95% of what fedavg-ft ends with on the same partition" in lacking and "train fedavg-ft" in lacking
