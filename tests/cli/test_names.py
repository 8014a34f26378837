"""Names as people type them: in any case, with another program's word, or mistyped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calls import TINY, done, fltk

from fltk import methods
from fltk.config import DefenceConfig, PartitionConfig, RunConfig, TrainConfig
from fltk.errors import nearest
from fltk.names import ATTACKS, DATASETS, DEFENCES, METHODS, MODELS, SCHEMES, canonical, fold


@pytest.mark.parametrize("known", [METHODS, ATTACKS, DEFENCES, DATASETS, SCHEMES, MODELS])
def test_no_two_names_differ_only_in_case_and_hyphens(known: object) -> None:
    names = list(known)  # type: ignore[call-overload]
    assert len({fold(name) for name in names}) == len(names)
    assert [canonical(name.upper().replace("-", "_"), names) for name in names] == names


def test_a_configuration_takes_names_in_any_case_and_stores_ours() -> None:
    made = RunConfig(
        PartitionConfig(dataset="FMNIST", scheme="Dirichlet"), TrainConfig(model="ResNet8_BN"), method="Per-FedAvg"
    )
    plain = RunConfig(
        PartitionConfig(dataset="fmnist", scheme="dirichlet"), TrainConfig(model="resnet8-bn"), method="perfedavg"
    )
    assert made == plain and made.digest() == plain.digest()
    assert DefenceConfig(defence="Multi Krum").defence == "multi-krum"
    assert methods.method_class("FedAvg-FT") is methods.method_class("fedavg-ft")


def test_methods_in_any_case_on_the_command_line(tmp_path: Path) -> None:
    db = tmp_path / "r.db"
    done(db, "train", "--method", "FedAvg,Local,fedavg", *TINY)
    rows = json.loads(done(db, "runs", "--method", "FedAvg", "--json"))["rows"]
    assert [row["method"] for row in rows] == ["fedavg"]
    assert "fedavg" in done(db, "compare", "--method", "FEDAVG,Local", "--against", "LOCAL")
    assert done(db, "methods", "FedAvg").startswith("fedavg\n")
    assert done(db, "attacks", "ALIE").startswith("alie\n")
    assert done(db, "defences", "FLTrust").startswith("fltrust\n")

    grid = tmp_path / "grid.toml"
    grid.write_text('method = ["FedAvg", "Ditto"]\n[for.Ditto]\nparams.lam = [0.1, 0.2]\n')
    cells = json.loads(done(db, "sweep", str(grid), "--dry-run", "--json"))["rows"]
    assert [cell["method"] for cell in cells] == ["fedavg", "ditto", "ditto"]

    planned = done(
        db, "attack", "--kind", "Random_Model", "--method", "FedAvg", "--defence", "Multi-KRUM", "--dry-run", "--json"
    )
    row = json.loads(planned)["rows"][0]
    assert (row["attack"], row["defence"]) == ("random-model", "multi-krum")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train --method FedAvgg", "did you mean fedavg"),
        ("train --method krum", "krum is a defence: fltk attack --defence krum"),
        ("attack --kind FedAvg", "fedavg is a method: --method fedavg"),
        ("train --method standalone", "did you mean local?"),
        ("train --dataset fashion-mnist", "did you mean fmnist?"),
        ("train --scheme non-iid", "did you mean dirichlet?"),
        ("train --learning-rate 0.1", "Did you mean '--lr'?"),
        ("train --num-clients 10", "Did you mean '--clients'?"),
        ("attack --kind alie --defense krum", "Did you mean '--defence'?"),
        ("simulate", "did you mean train?"),
        ("join", "did you mean join-new-client?"),
        ("replay run1", "did you mean reproduce?"),
    ],
)
def test_suggestions(tmp_path: Path, words: str, told: str) -> None:
    assert told in fltk(tmp_path / "r.db", *words.split()).line


def test_similar_names_come_before_those_that_begin_alike() -> None:
    assert nearest("fedav", list(METHODS))[0] == "fedavg"
    assert set(nearest("cluster", list(METHODS))) == {"cluster-kmeans", "cluster-gmm"}
    assert nearest("zzz", list(METHODS)) == []
