"""`fltk export` as a user types it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from calls import TINY, done, fltk
from processes import clean_environment
from safetensors.torch import load_file, save

from fltk.errors import FltkError
from fltk.evaluation.weights import load_model, read_origin
from fltk.experiment import Place, restore
from fltk.models import zoo
from fltk.registry import Store


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run1 local and run2 attn, evaluated."""
    path = tmp_path_factory.mktemp("export") / "r.db"
    done(path, "train", "--method", "local,attn", *TINY)
    done(path, "evaluate", "run2")
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("what", ["runs", "metrics", "client-metrics", "maps"])
def test_everything_that_is_stored(db: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "t.csv"
    assert done(db, "export", "--what", what, "-o", str(path)) == f"{path}\n"
    rows = table(path)
    assert {row["run"] for row in rows} == {"1", "2"}
    done(db, "export", "run2", "--what", what, "-o", str(tmp_path / "t.json"))
    told = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert len(told) == sum(row["run"] == "2" for row in rows) and set(told[0]) <= set(rows[0])
    done(db, "export", "--method", "attn", "--what", what, "-o", str(tmp_path / "t.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert lines == told


def test_the_numbers_are_those_of_the_registry(db: Path, tmp_path: Path) -> None:
    done(db, "export", "-o", str(tmp_path / "m.csv"))
    done(db, "export", "--what", "client-metrics", "-o", str(tmp_path / "c.tsv"))
    with Store(db) as store:
        rounds, values = store.scalars(2, "personal_test_acc")["personal_test_acc"]
        clients = store.client_values(2, "personal_test_acc")[1]
        deployed = store.evaluations(2)[-1].summary["rows"][0]
    rows = [row for row in table(tmp_path / "m.csv") if row["run"] == "2"]
    mine = {int(row["round"]): float(row["value"]) for row in rows if row["key"] == "personal_test_acc"}
    assert mine == dict(zip(rounds.tolist(), values.tolist(), strict=True))
    assert {float(r["value"]) for r in rows if (r["model"], r["key"]) == ("deployed", "acc_mean")} == {
        deployed["acc_mean"]
    }
    with (tmp_path / "c.tsv").open(newline="") as file:
        found = [row for row in csv.DictReader(file, delimiter="\t") if row["run"] == "2" and not row["evaluation"]]
    last = [float(row["value"]) for row in found if (row["round"], row["key"]) == ("2", "personal_test_acc")]
    assert last == clients[-1].tolist()


def test_maps_as_arrays(db: Path, tmp_path: Path) -> None:
    done(db, "export", "run2", "--what", "maps", "-o", str(tmp_path / "maps.npz"))
    with Store(db) as store, np.load(tmp_path / "maps.npz", allow_pickle=False) as archive:
        for stored in store.maps(2):
            assert archive[f"run2.round{stored.round}"].tolist() == stored.array.tolist()


def test_what_is_refused(db: Path, tmp_path: Path) -> None:
    assert ".npz holds maps" in fltk(db, "export", "--what", "runs", "-o", str(tmp_path / "t.npz")).line
    assert "must end in .csv" in fltk(db, "export", "-o", str(tmp_path / "t.xlsx")).line
    assert "no run to export" in fltk(db, "export", "--method", "ditto", "-o", str(tmp_path / "t.csv")).line
    assert "no run 'run9'" in fltk(db, "export", "run9", "-o", str(tmp_path / "t.csv")).line
    assert "did you mean maps" in fltk(db, "export", "--what", "map", "-o", str(tmp_path / "t.csv")).line
    assert "--output" in fltk(db, "export").err
    assert not list(tmp_path.iterdir())


LOADED = (
    "import sys\nfrom fltk.cli.main import run\ncode = run(sys.argv[1:])\n"
    "heavy = [m for m in ('torch', 'sklearn', 'matplotlib', 'alembic') if m in sys.modules]\n"
    "print(code, heavy, file=sys.stderr)"
)


@pytest.mark.parametrize("command", ["compare", "diff", "export"])
def test_reading_results_never_loads_torch(db: Path, tmp_path: Path, command: str) -> None:
    args = {"compare": ["--against", "local"], "diff": ["run1", "run2"], "export": ["-o", str(tmp_path / "t.csv")]}
    words = [sys.executable, "-c", LOADED, command, "--db", str(db), *args[command]]
    told = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=120, check=True)
    assert told.stderr.splitlines()[-1] == "0 []", told.stderr


# Weights


def test_the_weights_of_a_client_load_into_the_module_and_score_as_recorded(db: Path, tmp_path: Path) -> None:
    path = tmp_path / "client2.safetensors"
    assert done(db, "export", "run2", "--what", "weights", "--client", "2", "-o", str(path)) == f"{path}\n"
    module, origin = load_model(path), read_origin(path)
    assert (origin.run, origin.method, origin.round, origin.client, origin.model) == ("run2", "attn", 2, 2, "mlp")
    assert set(load_file(path)) == set(module.state_dict())

    fresh = zoo.make("mlp", origin.shape, origin.classes, origin.hidden).to_empty(device="cpu")
    fresh.load_state_dict(load_file(path), strict=True)

    with Store(db) as store:
        _, prepared = restore(store.find_run(2), store, Place())
        recorded = store.client_values(2, "personal_test_acc")[1][-1]
    test = prepared.federation.clients[2].test
    right = (fresh(test.x).argmax(1) == test.y).sum().item()
    assert right / len(test) == pytest.approx(float(recorded[2]))


def test_the_global_model_of_an_earlier_round(tmp_path: Path) -> None:
    """A residual network with batch norm: kernels in torch's own order, running statistics, and counters."""
    db = tmp_path / "r.db"
    small = ("--subset", "300", "--clients", "2", "--newcomers", "0", "--rounds", "11")
    done(db, "train", "--method", "fedavg", "--model", "resnet8-bn", "--steps", "1", "--eval-every", "10", *small)
    for name, words in {"10": ("--round", "10"), "last": ()}.items():
        done(db, "export", "latest", "--what", "weights", *words, "-o", str(tmp_path / f"{name}.safetensors"))
    before, after = (load_model(tmp_path / f"{name}.safetensors") for name in ("10", "last"))
    assert read_origin(tmp_path / "10.safetensors").round == 10
    assert not torch.equal(before[0].weight, after[0].weight)
    with Store(db) as store:
        _, prepared = restore(store.find_run(1), store, Place())
        recorded = store.client_values(1, "global_test_acc")[1]
    for module, row in ((before, recorded[0]), (after, recorded[-1])):
        for client, accuracy in zip(prepared.federation.clients, row, strict=True):
            right = (module(client.test.x).argmax(1) == client.test.y).sum().item()
            assert right / len(client.test) == pytest.approx(float(accuracy))
    assert (
        "kept: 10, 11"
        in fltk(db, "export", "run1", "--what", "weights", "--round", "3", "-o", str(tmp_path / "w.safetensors")).line
    )


def test_weights_that_cannot_be_exported(db: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "w.safetensors")
    weights = ("export", "--what", "weights", "-o", path)
    assert "attn has no global model; choose a client with --client 0 to 3" in fltk(db, *weights, "run2").line
    assert "--client 9: run2 has clients 0 to 3" in fltk(db, *weights, "run2", "--client", "9").line
    assert "name one run" in fltk(db, *weights, "run1", "run2").line
    assert "must end in .safetensors" in fltk(db, *weights[:3], "run2", "-o", str(tmp_path / "w.csv")).line
    assert "goes with --what weights" in fltk(db, "export", "run2", "--client", "1", "-o", str(tmp_path / "t.csv")).line
    assert not list(tmp_path.iterdir())
    (tmp_path / "other.safetensors").write_bytes(save({"w": torch.zeros(2)}))
    with pytest.raises(FltkError, match="its metadata name no run"):
        load_model(tmp_path / "other.safetensors")
