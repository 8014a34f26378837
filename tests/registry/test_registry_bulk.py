"""Reading many runs at once gives what reading them one by one gives, in a number of queries that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from sqlalchemy import event
from stored_runs import add_evaluation, add_run

from fltk.errors import UsageError
from fltk.evaluation.compare import Pairing, compare
from fltk.export import tidy
from fltk.registry import MapBlob, Store, bulk


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """The statements that a block sends."""
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        sent.append(statement)

    event.listen(store._db.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(store._db.engine, "before_cursor_execute", note)


def fill(store: Store, seeds: int) -> None:
    for seed in range(seeds):
        for place, method in enumerate(("local", "fedavg", "attn")):
            add_run(store, method, seed, np.linspace(0.2, 0.7, 6) + place / 10, evaluated=0.5 + place / 10)


@pytest.fixture
def full(store: Store) -> Store:
    fill(store, 3)
    return store


def test_named_runs(full: Store) -> None:
    full.rename(4, "best")
    refs = ["run3", "best", 1, "latest", "run3"]
    assert full.find_runs(refs) == [full.find_run(ref) for ref in refs]
    for wrong in ("run99", "nobody"):
        with pytest.raises(UsageError, match=wrong):
            full.find_runs(["run1", wrong])
    assert full.find_runs([]) == []


def test_a_removed_run_is_not_found(full: Store) -> None:
    full.remove_runs([2])
    with pytest.raises(UsageError, match="run2"):
        full.find_runs(["run1", "run2"])


def test_the_last_vectors(full: Store) -> None:
    full.record_round(2, 3, {}, {"train_loss": np.ones(6)}, None, "x")
    found = full.last_vectors(range(1, 8), "personal_test_acc")
    assert sorted(found) == list(range(1, 8))
    for number, values in found.items():
        assert values.tolist() == full.client_values(number, "personal_test_acc")[1][-1].tolist()
    assert list(full.last_vectors(range(1, 8), "train_loss")) == [2]
    assert full.last_vectors([], "train_loss") == full.last_vectors([1], "nothing") == {}


def test_the_last_evaluations(full: Store) -> None:
    add_evaluation(full, 3, 0.9)
    found = full.last_evaluations([1, 3, 99], ["deployed_test_acc"])
    assert sorted(found) == [1, 3]
    for number, row in found.items():
        last = full.evaluations(number)[-1]
        assert (row.id, row.run, row.round, row.summary) == (last.id, last.run, last.round, last.summary)
        assert list(row.clients) == ["deployed_test_acc"]
        assert row.clients["deployed_test_acc"].tolist() == last.clients["deployed_test_acc"].tolist()
    assert full.last_evaluations([3])[3].clients == {}


def test_environments(full: Store) -> None:
    assert full.environments([1, 2]) == {1: full.environment(1), 2: full.environment(2)}


def test_all_values_in_order(full: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)
    full.record_round(1, 3, {"x": np.nan}, {"y": np.arange(3)}, MapBlob("mix", ("whole",), np.eye(6)[None]), "x")
    ids = [5, 1, 2]
    scalars = list(full.each_scalar(ids))
    assert scalars == sorted(scalars, key=lambda row: row[:3]) and {row[0] for row in scalars} == set(ids)
    for number in ids:
        for key, (rounds, values) in full.scalars(number).items():
            mine = [(r, v) for n, r, k, v in scalars if (n, k) == (number, key)]
            assert str(mine) == str(list(zip(rounds.tolist(), values.tolist(), strict=True)))  # NaN is itself in text
    vectors = {(n, r, k): v.tolist() for n, r, k, v in full.each_vector(ids)}
    assert vectors[1, 3, "y"] == [0, 1, 2] and len(vectors) == 7
    assert [(number, found.round) for number, found in full.each_map(ids)] == [(1, 3)]
    assert [found.run for found in full.each_evaluation(ids)] == sorted(ids)


def test_queries_do_not_grow_with_the_runs(store: Store) -> None:
    """What makes ten thousand runs as readable as ten."""

    def everything() -> int:
        with counted(store) as sent:
            runs = store.runs()
            store.find_runs(["run1", "run2"])
            pairing = Pairing(store, compare(store, runs))
            pairing.differences("local")
            pairing.ties(pairing.comparison.settings[0])
            for table in (tidy.metrics_table, tidy.clients_table, tidy.maps_table):
                assert list(table(store, runs).rows) or table is tidy.maps_table
        return len(sent)

    fill(store, 1)
    few = everything()
    fill(store, 6)
    assert everything() == few
