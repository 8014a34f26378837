"""`fltk partition`: make, list, show, export, and the short form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import TINY, done, fltk

from fltk.registry import Store

SMALL = TINY[:-2]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "r.db"


def shown(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def test_make_in_short_and_in_full(db: Path) -> None:
    full = shown(done(db, "partition", "make", *SMALL, "--alpha", "0.5", "--json"))
    short = shown(done(db, "partition", *SMALL, "--alpha", "0.5", "--json"))
    assert full == short and full["partition"] == "part1"
    other = shown(done(db, "partition", *SMALL, "--alpha", "0.5", "--partition-seed", "1", "--json"))
    assert other["partition"] == "part2" and other["fingerprint"] != full["fingerprint"]
    elsewhere = shown(done(db.with_name("b.db"), "partition", *SMALL, "--alpha", "0.5", "--json"))
    assert elsewhere == full


def test_show_and_list(db: Path) -> None:
    made = shown(done(db, "partition", *SMALL, "--name", "mine", "--json"))
    for ref in ("part1", "1", "mine", made["fingerprint"][:10]):
        assert shown(done(db, "partition", "show", ref, "--json")) == made
    rows = made["rows"]
    assert [row["role"] for row in rows] == ["client"] * 4 + ["newcomer"]
    assert sum(row["train"] + row["val"] + row["test"] for row in rows) == 300
    assert all(row["train"] == sum(row["labels"].values()) and row["classes"] == len(row["labels"]) for row in rows)
    listed = shown(done(db, "partition", "list", "--json"))["rows"]
    assert [(row["partition"], row["name"], row["clients"], row["newcomers"]) for row in listed] == [
        ("part1", "mine", 4, 1)
    ]
    assert made["fingerprint"].startswith(listed[0]["fingerprint"])
    table = done(db, "partition", "show", "mine").splitlines()
    assert table[0].startswith("client") and len([line for line in table if "newcomer " in line]) == 1


@pytest.mark.parametrize("scheme", ["iid", "rotated", "permuted-labels", "pathological", "shards", "quantity"])
def test_other_schemes(db: Path, scheme: str) -> None:
    extra = ("--groups", "2", "--min-size", "5")
    made = shown(done(db, "partition", *SMALL, "--scheme", scheme, *extra, "--alpha", "1", "--json"))
    groups = [row["group"] for row in made["rows"]]
    assert groups == ([0, 1, 0, 1, 0] if scheme in ("rotated", "permuted-labels") else [None] * 5)


def test_export(db: Path, tmp_path: Path) -> None:
    done(db, "partition", *SMALL)
    npz, text = tmp_path / "p.npz", tmp_path / "p.json"
    assert done(db, "partition", "export", "part1", "-o", str(npz)) == f"{npz}\n"
    done(db, "partition", "export", "part1", "--output", str(text))
    content = json.loads(text.read_text())
    with Store(db) as store:
        row, arrays = store.find_partition("part1"), store.partition_arrays(1)
    assert content["fingerprint"] == row.fingerprint and content["config"] == row.config
    with np.load(npz, allow_pickle=False) as archive:
        assert set(archive.files) == set(content["arrays"]) == set(arrays)
        for name, array in arrays.items():
            assert np.array_equal(archive[name], array) and content["arrays"][name] == array.tolist()
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".db", ".npz", ".json"}


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_lost_file_is_dealt_again(db: Path, tmp_path: Path, damage: str) -> None:
    done(db, "partition", *SMALL, "--scheme", "rotated", "--groups", "2")
    with Store(db, readonly=True) as store:
        path = store._files.path(store.find_partition(1).sha256)
    content = path.read_bytes()
    whole, again = tmp_path / "whole.npz", tmp_path / "again.npz"
    done(db, "partition", "export", "part1", "-o", str(whole))

    def lose() -> None:
        path.unlink() if damage == "missing" else path.write_bytes(content[:-9])

    lose()
    told = fltk(db, "verify", "--json").out
    assert "deals it again, such as `fltk train --partition part1`" in told
    done(db, "partition", "export", "part1", "-o", str(again))
    assert again.read_bytes() == whole.read_bytes()
    done(db, "train", "--partition", "part1", "--rounds", "1", "--method", "fedavg")
    assert path.read_bytes() == content and "sound" in done(db, "verify")
    lose()
    done(db, "evaluate", "run1")
    assert path.read_bytes() == content


def test_a_lost_file_is_written_again_with_the_same_partition(db: Path) -> None:
    args = ("partition", *SMALL)
    done(db, *args)
    with Store(db, readonly=True) as store:
        path = store._files.path(store.find_partition(1).sha256)
    path.unlink()
    done(db, *args, "--name", "mine")
    assert path.is_file() and "sound" in done(db, "verify")


def test_a_taken_name(db: Path) -> None:
    done(db, "partition", *SMALL, "--name", "mine")
    assert "'mine' is taken by part1" in fltk(db, "partition", *SMALL, "--alpha", "9", "--name", "mine").line
    with Store(db) as store:
        assert len(store.partitions()) == 1


def test_pfllib_clients(db: Path, data_dir: Path) -> None:
    folder = data_dir / "PFLlib-MNIST"
    if not folder.is_dir():
        pytest.skip("FLTK_DATA has no PFLlib-MNIST")
    clients = len(list((folder / "train").glob("*.npz")))
    whole = shown(done(db, "partition", "--from-pfllib", str(folder), "--json"))
    assert [row["role"] for row in whole["rows"]] == ["client"] * clients
    made = shown(done(db, "partition", "--from-pfllib", str(folder), "--newcomers", "2", "--json"))
    assert [row["role"] for row in made["rows"]] == ["client"] * (clients - 2) + ["newcomer"] * 2
    assert all(row["train"] and row["val"] and row["test"] for row in made["rows"])
    assert "--newcomers" in fltk(db, "partition", "--from-pfllib", str(folder), "--newcomers", "99").line
