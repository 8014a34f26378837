"""What differs between stored runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import CLIENTS, add_partition, add_run

from fltk.evaluation.diff import Line, diff, spreads
from fltk.registry import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "r.db", create=True) as opened:
        yield opened


def differing(store: Store) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Section -> key -> values of what is not the same."""
    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for line in diff(store, store.runs()):
        if line.differs:
            found.setdefault(line.section, {})[line.key] = line.values
    return found


def test_runs_that_are_alike_differ_in_nothing(store: Store) -> None:
    for _ in range(3):
        add_run(store, "local", evaluated=0.5)
    assert differing(store) == {}
    lines = {line.key: line.values for line in diff(store, store.runs())}
    assert lines["rounds with the weights of run1"] == (2, 2, 2)
    assert lines["deployed.mean"] == (0.5, 0.5, 0.5) and lines["method"] == ("local",) * 3


def test_settings_and_results(store: Store) -> None:
    add_run(store, "local", 0, 0.5, lr=0.1)
    add_run(store, "attn", 0, 0.75, lr=0.2, params={"tau": 1.0}, evaluated=0.8)
    found = differing(store)
    assert found == {
        "configuration": {"method": ("local", "attn"), "train.lr": (0.1, 0.2), "params.tau": (None, 1.0)},
        "result": {
            "personal_test_acc": (0.5, 0.75),
            "deployed.mean": (None, pytest.approx(0.8)),
            "deployed.worst10": (None, pytest.approx(0.8)),
        },
    }


def test_data_environment_and_code(store: Store) -> None:
    same = {"python": "3", "torch": {"version": "2"}}
    git = {"present": True, "commit": "a" * 40, "core_sha256": "c" * 64}
    add_run(store, environment={**same, "packages": {"numpy": "1", "rich": "9"}}, git=git)
    add_run(
        store,
        environment={**same, "packages": {"numpy": "2", "rich": "9", "click": "8"}},
        git={**git, "commit": "b" * 40, "diff_hash": "e" * 64},
        partition=add_partition(store, 5),
    )
    found = differing(store)
    assert found["environment"] == {"numpy": ("1", "2"), "package click": ("-", "8")}
    assert found["git"] == {"git commit": ("a" * 12, "b" * 12), "git changes": ("-", "e" * 12)}
    assert found["data"] == {"partition": ("part1", "part2"), "partition fingerprint": (f"{0:064d}", f"{5:064d}")}


def test_a_run_that_left_the_first_ones_path(store: Store) -> None:
    for third in ("c", "z"):
        number = add_run(store, status=None)
        store.record_round(number, 3, {}, {}, None, third)
        store.finish(number, "done")
    assert differing(store)["result"]["rounds with the weights of run1"] == (3, 2)


def test_state_of_the_runs(store: Store) -> None:
    add_run(store)
    add_run(store, status="interrupted")
    assert differing(store) == {"run": {"status": ("done", "interrupted")}}


def test_measured_times_are_no_difference(store: Store) -> None:
    for seconds in (1.0, 2.0):
        number = add_run(store, status=None)
        store.record_round(number, 2, {"seconds": seconds, "seconds_train": seconds}, {}, None, "same")
        store.finish(number, "done")
    assert differing(store) == {}


@pytest.mark.parametrize(
    ("values", "differ"),
    [
        ((1, 1.0), False),
        ((True, 1), True),
        ((math.nan, math.nan), False),
        ((math.nan, 1.0), True),
        ((None, 0), True),
        (("", None), True),
        (([1, 2], [1, 2]), False),
        (([1, 2], [2, 1]), True),
        ((1, 1, 2), True),
    ],
)
def test_what_counts_as_different(values: tuple[Any, ...], differ: bool) -> None:
    assert Line("configuration", "key", values).differs is differ


def test_seeds_of_one_configuration_are_summed_up(store: Store) -> None:
    for method, accuracy in (("local", (0.25, 0.5)), ("fedavg", (0.5, 1.0))):
        for seed in (0, 1):
            add_run(store, method, seed, accuracy[seed])
    add_run(store, "attn", 0)
    found = spreads(diff(store, store.runs()), store.runs())
    assert [(item.label, item.runs) for item in found] == [("local", (1, 2)), ("fedavg", (3, 4))]
    assert found[0].results["personal_test_acc"] == pytest.approx((0.375, np.std([0.25, 0.5], ddof=1)))
    add_run(store, "attn", 0, alpha=1.0)
    labels = [item.label for item in spreads(diff(store, store.runs()), store.runs())]
    assert labels == ["local, digits dirichlet 0.1", "fedavg, digits dirichlet 0.1"]


def test_a_result_that_one_seed_lacks_has_no_mean(store: Store) -> None:
    add_run(store, "local", 0)
    add_run(store, "local", 1, np.full(CLIENTS, np.nan), evaluated=0.5)
    (found,) = spreads(diff(store, store.runs()), store.runs())
    assert set(found.results) == {"train_loss"}


def test_an_environment_that_cannot_be_read_is_unknown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(store)
    add_run(store)
    known = store.environments([2])
    monkeypatch.setattr(store, "environments", lambda runs: known)
    assert differing(store)["environment"]["python"] == ("-", "3")
