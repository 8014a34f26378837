"""Exported tables hold every stored value once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stored_runs import CLIENTS, add_run

from fltk.export import tidy
from fltk.export.tables import Table
from fltk.registry import MapBlob, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "r.db", create=True) as opened:
        add_run(opened, "local", 4, np.arange(CLIENTS) / 10, evaluated=0.5)
        add_run(opened, "attn", 4, 0.5, params={"tau": 1.0})
        maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
        opened.record_round(
            2, 3, {"nan": np.nan, "inf": np.inf}, {}, MapBlob("mix", ("whole", "head"), maps, (3, 5)), "x"
        )
        opened.set_tag(1, "paper", "yes")
        yield opened


def rows(table: Table) -> list[dict[str, object]]:
    return [dict(zip(table.names, row, strict=True)) for row in table.rows]


def test_runs(store: Store) -> None:
    one, other = rows(tidy.runs_table(store.runs()))
    assert (one["run"], one["method"], one["seed"], one["part"]) == (1, "local", 4, 1)
    assert one["train.lr"] == store.find_run(1).config["train"]["lr"] and one["tag.paper"] == "yes"
    assert one["params.tau"] is None and other["params.tau"] == 1.0 and other["tag.paper"] is None
    assert one["last.train_loss"] == 0.5 and one["uuid"] == store.find_run(1).uuid


def test_metrics(store: Store) -> None:
    found = rows(tidy.metrics_table(store, store.runs()))
    of_rounds = {(row["run"], row["round"], row["key"]): row["value"] for row in found if row["evaluation"] is None}
    expected = {
        (number, int(round), key): value
        for number in (1, 2)
        for key, (rounds, values) in store.scalars(number).items()
        for round, value in zip(rounds, values, strict=True)
    }
    assert str(of_rounds) == str({key: float(expected[key]) for key in of_rounds}) and len(of_rounds) == len(expected)
    evaluated = {(row["run"], row["model"], row["key"]): row["value"] for row in found if row["evaluation"] is not None}
    assert evaluated == {
        (1, "deployed", "acc_mean"): 0.5,
        (1, "deployed", "acc_worst10"): 0.5,
        (1, "deployed", "jain"): 1.0,
    }
    assert {row["method"] for row in found} == {"local", "attn"} and {row["seed"] for row in found} == {4}


def test_evaluations_of_newcomers_are_named_by_step_and_shots(store: Store) -> None:
    store.save_evaluation(2, 2, {"rows": [{"shots": "5", "step": "joined", "acc_mean": 0.5, "kept": None}]}, {})
    found = [row for row in rows(tidy.metrics_table(store, [store.find_run(2)])) if row["evaluation"] is not None]
    assert [(row["model"], row["key"], row["value"]) for row in found] == [("joined 5", "acc_mean", 0.5)]


def test_client_metrics(store: Store) -> None:
    found = rows(tidy.clients_table(store, store.runs()))
    last = [row for row in found if (row["run"], row["round"], row["evaluation"]) == (1, 2, None)]
    assert [row["client"] for row in last] == list(range(CLIENTS))
    assert [row["value"] for row in last] == store.client_values(1, "personal_test_acc")[1][-1].tolist()
    evaluated = [row for row in found if row["evaluation"] is not None]
    assert {row["key"] for row in evaluated} == {"deployed_test_acc", "deployed_val_acc"} and len(
        evaluated
    ) == 2 * CLIENTS


def test_maps(store: Store, tmp_path: Path) -> None:
    found = rows(tidy.maps_table(store, store.runs()))
    assert len(found) == 8
    weights = {(row["slice"], row["receiver"], row["contributor"]): row["weight"] for row in found}
    assert weights["whole", 3, 5] == 1.0 and weights["head", 5, 3] == 6.0
    for name in ("a.npz", "b.npz"):
        assert tidy.write_maps(store, store.runs(), tmp_path / name) == 1
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive["run2.round3"].tolist() == np.arange(8.0).reshape(2, 2, 2).tolist()
        assert archive["run2.round3.ids"].tolist() == [3, 5]
        assert archive["run2.round3.slices"].tolist() == ["whole", "head"]
