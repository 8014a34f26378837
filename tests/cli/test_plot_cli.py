"""`fltk plot`: every figure in every format, and the numbers of the registry beside it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from calls import TINY, done, fltk
from stored_runs import add_run

from fltk.cli.figures import figure_name
from fltk.registry import Store

STARTS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}
KINDS = {
    "attention-maps": ("attention-maps", "run3"),
    "curves": ("curves", "run1", "run2", "run3"),
    "clients": ("clients", "run2", "run3"),
    "bytes": ("bytes", "run1", "run2", "run3"),
    "gains": ("gains", "run2", "run3"),
    "two-maps": ("attention-maps", "run2", "run3"),
    "partition": ("partition", "part1"),
}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of local, fedavg and attn on part1: run1 to run3."""
    path = tmp_path_factory.mktemp("plots") / "r.db"
    done(path, "train", "--method", "local,fedavg,attn", *TINY)
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", STARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_in_every_format(db: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    output = tmp_path / f"figure{suffix}"
    assert done(db, "plot", *KINDS[kind], "-o", str(output)) == f"{output}\n"
    assert output.read_bytes().startswith(STARTS[suffix]) and output.stat().st_size > 1000
    assert list(tmp_path.iterdir()) == [output]


def test_the_default_place(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert done(db, "plot", "curves", "run1", "run2") == "plots/curves-run1-run2.png\n"
    assert Path("plots/curves-run1-run2.png").is_file()
    assert done(db, "plot", "attention-maps", "latest", "--width", "column") == "plots/attention-maps-run3.png\n"


def test_a_place_that_is_taken_by_a_file(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plots").write_text("mine")
    assert "plots" in fltk(db, "plot", "curves", "run1").line
    assert Path("plots").read_text() == "mine"


def draw(db: Path, tmp_path: Path, *args: str) -> list[dict[str, str]]:
    """The rows of --data."""
    data = tmp_path / "data.csv"
    out = done(db, "plot", *args, "-o", str(tmp_path / "a.png"), "--data", str(data))
    assert out.splitlines() == [str(tmp_path / "a.png"), str(data)]
    return table(data)


def test_the_numbers_of_maps(db: Path, tmp_path: Path) -> None:
    rows = draw(db, tmp_path, "attention-maps", "run3", "--rounds", "1,2")
    with Store(db) as store:
        stored = {m.round: m.array[0] for m in store.maps(3)}
    weights = [row for row in rows if row["panel"] == "weight"]
    assert len(weights) == 2 * 4 * 4
    for row in weights:
        value = stored[int(row["round"])][int(row["receiver"]), int(row["contributor"])]
        assert np.float32(row["value"]) == value


def test_the_numbers_of_curves(db: Path, tmp_path: Path) -> None:
    for key in ("personal_test_acc", "train_loss"):
        rows = draw(db, tmp_path, "curves", "run1", "run3", "--key", key)
        with Store(db) as store:
            for name, run in (("local", 1), ("attn", 3)):
                rounds, values = store.scalars(run, key)[key]
                mine = [row for row in rows if row["label"] == name]
                assert [int(row["round"]) for row in mine] == rounds.tolist()
                assert [float(row["mean"]) for row in mine] == values.tolist()


def test_the_numbers_of_clients(db: Path, tmp_path: Path) -> None:
    rows = draw(db, tmp_path, "clients", "run2", "run3", "--key", "personal_val_acc")
    with Store(db) as store:
        for name, run in (("fedavg", 2), ("attn", 3)):
            last = store.client_values(run, "personal_val_acc")[1][-1]
            mine = {int(row["client"]): np.float32(row["accuracy"]) for row in rows if row["label"] == name}
            assert mine == dict(enumerate(last))


def test_the_numbers_of_a_partition(db: Path, tmp_path: Path) -> None:
    by_run, by_partition = (draw(db, tmp_path, "partition", ref) for ref in ("run1", "part1"))
    assert by_run == by_partition
    with Store(db) as store:
        counts = store.find_partition("part1").summary["label_counts"]
    assert {(int(r["client"]), int(r["class"])): int(r["samples"]) for r in by_run if int(r["samples"])} == {
        (k, c): n for k, row in enumerate(counts) for c, n in enumerate(row) if n
    }


def test_a_run_may_be_called_like_a_partition(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "local", "--name", "partial")
    done(db, "plot", "partition", "partial", "-o", str(tmp_path / "a.png"))
    assert "no partition 'part9'" in fltk(db, "plot", "partition", "part9", "-o", str(tmp_path / "b.png")).line
    line = fltk(db, "plot", "clusters", "partial").line
    assert "cluster-kmeans, cluster-gmm, cfl, ifca, oracle, and attn with --set hier" in line


def test_figures_of_runs_without_test_or_validation_data(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "fedavg-ft", "--test-share", "0")
    done(db, "train", *TINY, "--method", "fedavg-ft", "--val-share", "0")
    assert "evaluated round" in fltk(db, "plot", "curves", "run1", "-o", str(tmp_path / "a.png")).line
    assert "no values of clients" in fltk(db, "plot", "clients", "run1", "-o", str(tmp_path / "a.png")).line
    assert not (tmp_path / "a.png").exists()
    for run in ("run1", "run2"):
        done(db, "plot", "attention-maps", run, "-o", str(tmp_path / "a.png"))
    rows = draw(db, tmp_path, "curves", "run2")
    assert not any(math.isnan(float(row["mean"])) for row in rows)


def test_only_seeds_share_a_line(tmp_path: Path) -> None:
    """Learning rates, a repeated run and one that was stopped are no seeds."""
    db = tmp_path / "r.db"
    with Store(db, create=True) as store:
        slow, fast, again = add_run(store, lr=0.1), add_run(store, lr=0.2), add_run(store, lr=0.2)
        seed, part = add_run(store, seed=1, lr=0.2), add_run(store, seed=2, lr=0.2, status="interrupted", rounds=2)
    refs = [f"run{number}" for number in (slow, fast, again, seed, part, again)]
    data, args = tmp_path / "a.csv", ("-o", str(tmp_path / "a.png"))
    called = fltk(db, "plot", "curves", *refs, *args, "--data", str(data), quiet=False)
    assert {(row["label"], row["runs"]) for row in table(data)} == {
        ("fedavg lr=0.1", "1"),
        ("fedavg lr=0.2", "2"),
        (f"fedavg lr=0.2 (run{part} interrupted, round 2 of 2)", "1"),
    }
    assert called.err.splitlines() == [
        f"note: repeated runs left out, only the latest is used: run{fast}",
        f"note: no part of a mean: run{part} interrupted, round 2 of 2",
    ]


def test_figures_of_other_runs_and_options_have_other_names(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        done(db, "plot", *args)
        for args in (
            ("curves", "run1"),
            ("curves", "run1", "--key", "train_loss"),
            ("attention-maps", "run3", "--rounds", "1"),
            ("attention-maps", "run3"),
        )
    }
    assert len(names) == 4 and len(list(Path("plots").iterdir())) == 4
    assert figure_name("curves", [1, 2, 3, 4]) != figure_name("curves", [1, 2, 3, 4, 5])
    assert figure_name("curves", [1, 2, 3, 4, 5, 9], "a/b", None) == "curves-run1to5-run9-a_b"
    many = [figure_name("curves", list(range(1, n, 2))) for n in (99, 101)]
    assert len(set(many)) == 2 and all(len(name) < 120 for name in many)


def test_attackers_are_no_clients_of_a_figure(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "fedavg")
    done(db, "attack", "--run", "run1", "--kind", "label-flip", "--attackers", "2")
    rows = draw(db, tmp_path, "clients", "run1", "run2")
    clients = {name: {row["client"] for row in rows if row["label"] == name} for name in {r["label"] for r in rows}}
    assert clients == {"fedavg": set("0123"), "fedavg attack=label-flip": set("013")}
    done(db, "attack", "--run", "run1", "--kind", "label-flip", "--attackers", "1,2")
    cells = {row["attack"]: row["runs"] for row in draw(db, tmp_path, "attack") if row["panel"] == "drop"}
    assert cells == {"label-flip attackers=2": "1", "label-flip attackers=1,2": "1"}, "other attackers are no seed"


def test_a_single_client_has_no_maps_to_measure(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--subset", "300", "--clients", "1", "--newcomers", "0", "--rounds", "1", "--alpha", "10")
    for figure, suffix in (("attention-stats", "png"), ("attention-maps", "png"), ("attention-gif", "gif")):
        assert "a single client" in fltk(db, "plot", figure, "run1", "-o", str(tmp_path / f"a.{suffix}")).line


def test_help_names_the_files_that_are_written(tmp_path: Path) -> None:
    film, still = (done(tmp_path / "r.db", "plot", name, "--help") for name in ("attention-gif", "curves"))
    assert ".png" not in film and "plots/attention-RUN.gif" in "".join(film.split())
    assert ".png, .svg or .pdf" in still


def test_the_numbers_of_bytes(db: Path, tmp_path: Path) -> None:
    rows = draw(db, tmp_path, "bytes", "run1", "run2")
    with Store(db) as store:
        down, up = (store.scalars(2, key)[key][1] for key in ("bytes_down", "bytes_up"))
        accuracies = store.scalars(2, "personal_test_acc")["personal_test_acc"][1]
    mine = [row for row in rows if row["label"] == "fedavg"]
    assert [float(row["bytes"]) for row in mine] == np.cumsum(down + up).tolist()
    assert [float(row["mean"]) for row in mine] == accuracies.tolist()
    assert {float(row["bytes"]) for row in rows if row["label"] == "local"} == {0.0}
    assert "send nothing" in fltk(db, "plot", "bytes", "run1", "-o", str(tmp_path / "b.png")).line


def test_bytes_count_rounds_without_an_evaluation(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "fedavg", "--rounds", "4", "--eval-every", "2")
    rows = draw(db, tmp_path, "bytes", "run1")
    with Store(db) as store:
        one_round = sum(store.scalars(1, key)[key][1][0] for key in ("bytes_down", "bytes_up"))
    found = {int(row["round"]): float(row["bytes"]) for row in rows}
    assert found[2] == 2 * one_round and found[4] == 4 * one_round


def test_the_numbers_of_gains(db: Path, tmp_path: Path) -> None:
    with Store(db) as store:
        last = {run: store.client_values(run, "personal_test_acc")[1][-1].astype(float) for run in (1, 2, 3)}
    for named in ((), ("run1",)):
        rows = draw(db, tmp_path, "gains", *named, "run2", "run3")
        assert {row["label"] for row in rows} == {"fedavg", "attn"}
        for name, run in (("fedavg", 2), ("attn", 3)):
            mine = [row for row in rows if row["label"] == name]
            gains = {int(row["client"]): float(row["accuracy"]) for row in mine}
            assert gains == dict(enumerate(last[run] - last[1]))
            assert [float(row["accuracy"]) for row in mine] == sorted(gains.values())


def test_gains_need_local_training_on_the_same_data(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    with Store(db, create=True) as store:
        alone, other = add_run(store, seed=1), add_run(store, seed=0, accuracy=0.75)
    line = fltk(db, "plot", "gains", "run1", "-o", str(tmp_path / "a.png")).line
    assert "run1 has no run of local on the same partition" in line
    with Store(db) as store:
        tuned = add_run(store, "local", seed=0, lr=0.5)
    assert "run2 has no run of local" in fltk(db, "plot", "gains", f"run{other}", "-o", str(tmp_path / "a.png")).line
    args = ("plot", "gains", *(f"run{number}" for number in (alone, other, tuned)))
    data = tmp_path / "a.csv"
    called = fltk(db, *args, "-o", str(tmp_path / "a.png"), "--data", str(data), quiet=False)
    assert called.err == f"note: left out, no run of local on the same data: run{alone}\n"
    assert {float(row["accuracy"]) for row in table(data)} == {0.25}, "a run of local that is named may be tuned"
    line = fltk(db, "plot", "gains", "run1", "--key", "train_loss", "-o", str(tmp_path / "a.png")).line
    assert "--key train_loss: gains are differences of a measure" in line


def test_sorted_clients_of_seeds_are_averaged(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    values = [np.linspace(0.1, 0.6, 6), np.linspace(0.8, 0.3, 6)]
    with Store(db, create=True) as store:
        for seed, accuracy in enumerate(values):
            add_run(store, seed=seed, accuracy=accuracy)
    rows = draw(db, tmp_path, "clients", "run1", "run2")
    assert {(row["label"], row["runs"], row["client"]) for row in rows} == {("fedavg", "2", "")}
    expected = (np.sort(values[0]) + np.sort(values[1])) / 2
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(expected.tolist(), abs=1e-6)


def test_maps_of_several_runs_are_of_their_last_rounds(db: Path, tmp_path: Path) -> None:
    rows = draw(db, tmp_path, "attention-maps", "run2", "run3")
    weights = [row for row in rows if row["panel"] == "weight"]
    assert {(row["run"], row["round"]) for row in weights} == {("fedavg", "2"), ("attn", "2")}
    rows = draw(db, tmp_path, "attention-maps", "run2", "run3", "--rounds", "1,2")
    assert {row["round"] for row in rows if row["panel"] == "weight"} == {"1", "2"}
    rows = draw(db, tmp_path, "attention-maps", "run3", "run3")
    assert not any("run" in row for row in rows), "the same run twice is one"


def test_maps_of_equal_configurations_are_told_apart_by_their_runs(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", *TINY, "--method", "fedavg", "--seed", "0,1")
    rows = draw(db, tmp_path, "attention-maps", "run1", "run2")
    assert {row["run"] for row in rows} == {"fedavg (run1)", "fedavg (run2)"}


def test_attacks_on_two_data_sets_are_not_mixed(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    for alpha in ("0.5", "5"):
        done(db, "train", *TINY, "--method", "fedavg", "--alpha", alpha)
        done(db, "attack", "--kind", "label-flip")
    rows = draw(db, tmp_path, "attack")
    cells = [(row["data"], row["attack"], row["label"], row["runs"]) for row in rows if row["panel"] == "drop"]
    assert cells == [(f"digits dirichlet {alpha}", "label-flip", "fedavg", "1") for alpha in ("0.5", "5")]


def test_captions_of_single_runs_name_their_seeds(db: Path, tmp_path: Path) -> None:
    """Read from the comments of an SVG, where matplotlib keeps the text that it draws as paths."""
    for args, told in ((("partition", "part1"), "Partition seed 0."), (("attention-maps", "run3"), "Seed 0.")):
        done(db, "plot", *args, "-o", str(tmp_path / "a.svg"))
        assert told in (tmp_path / "a.svg").read_text(encoding="utf-8")
