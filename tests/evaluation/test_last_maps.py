"""Numbers of the last map, against the definitions on a map that is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import add_run

from fltk.errors import FltkError
from fltk.evaluation.compare import compare
from fltk.evaluation.maps import neighbour_similarity, of_maps
from fltk.metrics import label_similarity
from fltk.registry import Store
from fltk.registry.blobs import MapBlob

COUNTS = np.array([[9, 1], [8, 2], [1, 9], [3, 7]])
TABLE = np.array([[0.5, 0.4, 0.1, 0.0], [0.3, 0.5, 0.1, 0.1], [0.0, 0.2, 0.4, 0.4], [0.1, 0.1, 0.3, 0.5]])


def run_with_map(store: Store, groups: Any = (0, 0, 1, 1), tables: Any = (TABLE,), names: Any = ("whole",)) -> int:
    summary = {"clients": 4, "label_counts": COUNTS.tolist(), "groups": groups and list(groups)}
    name = "".join(map(str, groups or "-"))
    partition = store.save_partition({}, {"train": np.arange(3)}, name.rjust(64, "0"), "d" * 64, summary)
    run = add_run(store, "fedavg", partition=partition, status=None)
    blob = MapBlob("exact", tuple(names), np.array(tables, np.float32), (0, 1, 2, 3))
    store.record_round(run, 2, {"personal_test_acc": 0.5}, {}, blob, "x")
    store.finish(run, "done")
    return run


def number(store: Store, run: int, name: str) -> float | None:
    return of_maps(store, [store.find_run(run)], name)[run]


def test_each_number_is_its_definition(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        run = run_with_map(store)
        entropy = -np.sum(TABLE * np.log(np.where(TABLE > 0, TABLE, 1)), 1).mean() / np.log(4)
        assert number(store, run, "map_self") == pytest.approx(np.diagonal(TABLE).mean())
        assert number(store, run, "map_entropy") == pytest.approx(entropy)
        assert number(store, run, "map_group_share") == pytest.approx(1.4 / 2.1)
        assert number(store, run, "map_group_auc") == pytest.approx(1.0)
        similar = label_similarity(COUNTS)
        nearest = (similar[0, 1] + similar[1, 0] + similar[2, 3] + similar[3, 2]) / 4
        assert number(store, run, "map_neighbours") == pytest.approx(nearest)
        assert number(store, run, "map_alignment") is not None
        assert compare(store, store.runs(), "map_group_share").metric.higher


def test_equal_weights_point_at_everybody_else() -> None:
    similar = label_similarity(COUNTS)
    off = ~np.eye(4, dtype=bool)
    expected = np.mean([similar[i][off[i]].mean() for i in range(4)])
    assert neighbour_similarity(np.full((4, 4), 0.25), similar) == pytest.approx(expected)


def test_parts_count_with_their_mean(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        run = run_with_map(store, tables=(TABLE, np.eye(4)), names=("base", "head"))
        assert number(store, run, "map_self") == pytest.approx((np.diagonal(TABLE).mean() + 1) / 2)


def test_unknown_groups_have_no_share(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        run = run_with_map(store, groups=None)
        assert np.isnan(number(store, run, "map_group_share") or 0)
        with pytest.raises(FltkError, match="map_group_share"):
            compare(store, store.runs(), "map_group_share")


def test_a_run_without_maps_has_no_number(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        assert number(store, add_run(store), "map_self") is None
