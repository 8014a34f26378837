"""Rounds, maps, partitions and evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fltk.errors import FltkError, UsageError
from fltk.registry import MapBlob, Store, blobs

Begin = Callable[..., int]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_special_numbers_come_back(store: Store, begin: Begin) -> None:
    run = begin(store)
    values = [0.1, math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308]
    for index, value in enumerate(values):
        store.record_round(run, index + 1, {"loss": value, "schlüssel": 1}, {}, None, "d")
    rounds, found = store.scalars(run)["loss"]
    assert rounds.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.tobytes() == np.array(values).tobytes()
    assert list(store.scalars(run, "schlüssel")) == ["schlüssel"]
    assert store.scalar_keys(run) == ["loss", "schlüssel"]
    assert store.find_run(run).last == {"loss": values[-1], "schlüssel": 1.0}


def test_the_row_keeps_the_last_value_of_each_scalar(store: Store, begin: Begin) -> None:
    run = begin(store)
    store.record_round(run, 1, {"a": 1.0, "accuracy": math.nan}, {}, None, "d1")
    store.record_round(run, 2, {"a": float(np.float32(0.5))}, {}, None, "d2")
    row = store.find_run(run)
    assert row.rounds_done == 2 and row.last["a"] == 0.5 and math.isnan(row.last["accuracy"])
    assert store.digests(run) == {1: "d1", 2: "d2"}


@given(hnp.arrays(np.float32, st.integers(0, 30), elements=st.floats(width=32)))
def test_vectors_keep_every_bit(values: np.ndarray) -> None:
    assert same(blobs.unpack_vector(blobs.pack_vector(values)), values)


def test_client_values(store: Store, begin: Begin) -> None:
    run = begin(store)
    special = np.array([1, np.nan, -np.inf], np.float32)
    store.record_round(run, 1, {}, {"acc": special, "n": np.array([1, 2, 3])}, None, "d")
    store.record_round(run, 3, {}, {"acc": special[::-1]}, None, "d")
    rounds, values = store.client_values(run, "acc")
    assert rounds.tolist() == [1, 3] and same(values, np.stack([special, special[::-1]]))
    assert store.client_keys(run) == ["acc", "n"]
    with pytest.raises(FltkError, match="no values named 'loss'; it has: acc, n"):
        store.client_values(run, "loss")
    with pytest.raises(FltkError, match="no values named 'loss'; it has: none yet"):
        store.scalars(run, "loss")
    with pytest.raises(ValueError, match="one value per client"):
        store.record_round(run, 4, {}, {"acc": np.zeros((2, 2))}, None, "d")


def test_maps(store: Store, begin: Begin) -> None:
    run = begin(store)
    array = np.random.default_rng(0).random((2, 5, 5), np.float32)
    array[0, 0, 0] = np.nan
    store.record_round(run, 1, {}, {}, MapBlob("attention", ("base", "head"), array), "d")
    store.record_round(run, 2, {}, {}, None, "d")
    store.record_round(run, 3, {}, {}, MapBlob("mean", ("all",), np.eye(3)[None], ids=(4, 7, 9)), "d")
    first, last = store.maps(run)
    assert (first.round, first.kind, first.slices, first.ids) == (
        1,
        "attention",
        ("base", "head"),
        (0, 1, 2, 3, 4),
    )
    assert same(first.array, array)
    assert (last.round, last.ids) == (3, (4, 7, 9)) and last.array.dtype == np.float32
    assert store.map_rounds(run) == [1, 3]
    assert [found.round for found in store.maps(run, [3])] == [3]
    with pytest.raises(FltkError, match="run1 has no map of round 2; it has maps of rounds 1 to 3"):
        store.maps(run, [1, 2])
    assert store.maps(run, []) == []


@pytest.mark.parametrize(
    "blob",
    [
        MapBlob("k", ("a",), np.zeros((3, 3))),
        MapBlob("k", ("a",), np.zeros((2, 3, 3))),
        MapBlob("k", ("a",), np.zeros((1, 2, 3))),
        MapBlob("k", ("a",), np.zeros((1, 2, 2)), ids=(1,)),
    ],
)
def test_maps_of_the_wrong_shape_are_refused(store: Store, begin: Begin, blob: MapBlob) -> None:
    with pytest.raises(ValueError, match="map"):
        store.record_round(begin(store), 1, {}, {}, blob, "d")


def test_a_round_recorded_again_replaces_only_itself(store: Store, begin: Begin) -> None:
    run = begin(store)
    vector = {"acc": np.zeros(2, np.float32), "old": np.zeros(2, np.float32)}
    for number in (1, 2, 3):
        store.record_round(run, number, {"a": number, "old": 0}, vector, MapBlob("k", ("s",), np.eye(2)[None]), "x")
    store.start_attempt(run)
    store.record_round(run, 2, {"a": 20.0}, {"acc": np.ones(2, np.float32)}, None, "y")
    series = store.scalars(run)
    assert series["a"][1].tolist() == [1, 20, 3] and series["old"][0].tolist() == [1, 3]
    assert store.client_values(run, "acc")[1][:, 0].tolist() == [0, 1, 0]
    assert store.client_values(run, "old")[0].tolist() == [1, 3]
    assert store.map_rounds(run) == [1, 3]
    assert store.digests(run) == {1: "x", 2: "y", 3: "x"}
    assert store.find_run(run).rounds_done == 3


def test_a_refused_round_leaves_the_old_one(store: Store, begin: Begin) -> None:
    run = begin(store)
    store.record_round(run, 1, {"a": 1.0}, {}, None, "x")
    twice = {"a": 2.0, "k" * 3: 1.0}
    with store._db.engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON scalar WHEN new.key = 'kkk' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        connection.commit()
    with pytest.raises(FltkError, match=r"results\.db: no"):
        store.record_round(run, 1, twice, {}, None, "y")
    assert store.scalars(run)["a"][1].tolist() == [1.0] and store.digests(run) == {1: "x"}


def test_partitions_are_stored_once(store: Store, begin: Begin) -> None:
    arrays = {"train": np.arange(5), "offsets": np.array([0, 2, 5]), "names": np.array(["ä", "b"])}
    first = store.save_partition({"scheme": "iid"}, arrays, "f" * 64, "d" * 64, {"emd": math.nan})
    again = store.save_partition({"scheme": "other"}, arrays, "f" * 64, "d" * 64, {}, name="plain")
    second = store.save_partition({"scheme": "iid"}, {"train": np.arange(3)}, "e" * 64, "d" * 64, {}, name="b")
    assert (first, again, second) == (1, 1, 2)
    row = store.find_partition("plain")
    assert row == store.find_partition("part1") == store.find_partition("ffff") == store.find_partition(1)
    assert row.config == {"scheme": "iid"} and math.isnan(row.summary["emd"])
    found = store.partition_arrays(first)
    assert found.keys() == arrays.keys() and all(same(found[key], arrays[key]) for key in arrays)
    assert [p.id for p in store.partitions()] == [1, 2] and store.find_partition("latest").id == 2
    assert store.find_run(begin(store, partition_id=first)).partition_id == 1


def test_partition_names_and_references(store: Store) -> None:
    with pytest.raises(UsageError, match=r"no partition 'part1' in .*; it has none yet"):
        store.find_partition("part1")
    for index, name in enumerate(("first", "second")):
        store.save_partition({}, {}, f"abcd{index}", "d", {}, name=name)
    with pytest.raises(UsageError, match="'first' is taken by part1"):
        store.save_partition({}, {}, "abcd9", "d", {}, name="first")
    with pytest.raises(UsageError, match="stored already, as part2 \\(second\\)"):
        store.save_partition({}, {}, "abcd1", "d", {}, name="third")
    with pytest.raises(UsageError, match="ambiguous: part1, part2"):
        store.find_partition("abcd")
    with pytest.raises(UsageError, match="did you mean second"):
        store.find_partition("secnd")
    with pytest.raises(UsageError, match="it has 2, the latest is part2"):
        store.find_partition("7")


def test_a_damaged_partition_file_is_named(store: Store) -> None:
    number = store.save_partition({}, {"a": np.arange(100)}, "f" * 64, "d", {})
    path = store._files.path(store.find_partition(number).sha256)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FltkError, match=f"{path} is damaged"):
        store.partition_arrays(number)
    path.unlink()
    with pytest.raises(FltkError, match=f"{path} is missing"):
        store.partition_arrays(number)


def test_evaluations_keep_their_arrays(store: Store, begin: Begin) -> None:
    run = begin(store)
    clients = {"accuracy": np.array([0.5, np.nan]), "confusion": np.arange(8).reshape(2, 2, 2)}
    first = store.save_evaluation(run, 3, {"mean": np.float64(0.5), "worst": math.inf}, clients)
    store.save_evaluation(run, 3, {}, {})
    rows = store.evaluations(run)
    assert [row.round for row in rows] == [3, 3] and rows[0].id == first
    assert rows[0].summary == {"mean": 0.5, "worst": math.inf}
    assert all(same(rows[0].clients[key], clients[key]) for key in clients)
    assert rows[1].clients == {}


def test_objects_are_never_pickled(store: Store, begin: Begin) -> None:
    with pytest.raises(ValueError, match="pickle"):
        store.save_evaluation(begin(store), 1, {}, {"a": np.array([object()])})


def test_a_damaged_map_is_one_line(store: Store, begin: Begin, database: Path) -> None:
    run = begin(store)
    store.record_round(run, 1, {}, {}, MapBlob("k", ("s",), np.eye(20)[None]), "d")
    for data in (b"no zlib", blobs.pack_map(MapBlob("k", ("s",), np.eye(2)[None]))["data"]):
        with store._db.write() as connection:
            connection.exec_driver_sql("UPDATE map SET data = ?", (data,))
        with pytest.raises(FltkError, match="the map of run1, round 1 is damaged"):
            store.maps(run)


def test_npz_bytes_depend_on_the_arrays_alone() -> None:
    a, b = np.arange(3), np.zeros((2, 0))
    assert blobs.pack_arrays({"a": a, "b": b}) == blobs.pack_arrays({"b": b, "a": a})
