"""Rows, columns and seeds of runs: what counts as a method, a setting, a budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from stored_runs import add_run

from fltk.config import AttackConfig, DefenceConfig
from fltk.evaluation.comparison_table import Arrangement, arrange, attack_places, lines, written
from fltk.registry import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "r.db", create=True) as opened:
        yield opened


def places(found: Arrangement) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    return {f"run{e.run.id}": (e.method, e.setting, e.seeds) for e in found.entries}


def arranged(store: Store) -> Arrangement:
    return arrange(store.runs())


def test_methods_settings_and_seeds(store: Store) -> None:
    for alpha in (0.1, 1.0):
        for method in ("fedavg", "local"):
            for seed in (0, 1):
                add_run(store, method, seed, alpha=alpha)
    found = arranged(store)
    assert found.methods == ("local", "fedavg"), "in the order of fltk methods"
    assert found.settings == ("digits dirichlet 0.1", "digits dirichlet 1")
    assert len(found.entries) == 8 and found.notes == ()
    assert len({entry.seeds for entry in found.entries}) == 2


def test_settings_of_one_identity_are_told_apart_by_what_differs(store: Store) -> None:
    add_run(store, model="mlp", hidden="100")
    add_run(store, model="mlp", hidden="50", agg_weights="uniform")
    add_run(store, alpha=0.5, model="mlp", hidden="20")
    assert arranged(store).settings == (
        "digits dirichlet 0.1 agg_weights=samples hidden=100",
        "digits dirichlet 0.1 agg_weights=uniform hidden=50",
        "digits dirichlet 0.5",
    )


def test_what_a_scheme_does_not_read_makes_no_setting(store: Store) -> None:
    add_run(store, "local")
    add_run(store, "fedavg", dealt={"groups": 1, "classes_per_client": 5, "shards_per_client": 3})
    add_run(store, "local", dealt={"scheme": "rotated"})
    add_run(store, "fedavg", alpha=0.5, dealt={"scheme": "rotated"})
    add_run(store, "attn", dealt={"scheme": "rotated", "groups": 2})
    add_run(store, "local", alpha=2.0, dealt={"scheme": "quantity"})
    settings = [entry.setting for entry in arranged(store).entries]
    assert settings[:4] == ["digits dirichlet 0.1"] * 2 + ["digits rotated groups=4"] * 2
    assert settings[4:] == ["digits rotated groups=2", "digits quantity 2"]


def test_how_often_is_evaluated_makes_no_setting(store: Store) -> None:
    add_run(store, "local", eval_every=1)
    add_run(store, "fedavg", eval_every=2)
    assert arranged(store).settings == ("digits dirichlet 0.1",)


def test_one_budget_for_each_method_is_one_setting_with_a_note(store: Store) -> None:
    for seed in (0, 1):
        add_run(store, "local", seed, lr=0.05, rounds=2)
        add_run(store, "fedavg", seed, lr=0.1, rounds=2)
        add_run(store, "attn", seed, lr=0.1, rounds=4)
    found = arranged(store)
    assert found.settings == ("digits dirichlet 0.1",)
    assert set(found.notes) == {
        "chosen for each method in digits dirichlet 0.1: lr 0.05 (local); 0.1 (attn, fedavg)",
        "unequal budgets in digits dirichlet 0.1: rounds 2 (fedavg, local); 4 (attn)",
    }


def test_a_sweep_over_budgets_splits_the_setting_and_only_that_one(store: Store) -> None:
    for method in ("local", "fedavg"):
        for lr in (0.05, 0.1):
            add_run(store, method, lr=lr)
    add_run(store, "local", alpha=1.0, lr=0.05)
    add_run(store, "fedavg", alpha=1.0, lr=0.1)
    found = arranged(store)
    assert found.settings == ("digits dirichlet 0.1 lr=0.05", "digits dirichlet 0.1 lr=0.1", "digits dirichlet 1")
    assert found.notes == ("chosen for each method in digits dirichlet 1: lr 0.05 (local); 0.1 (fedavg)",)


def test_variants_of_a_method_are_rows_named_by_what_differs(store: Store) -> None:
    add_run(store, "attn", params={"tau": 0.5, "step": 1.0})
    add_run(store, "attn", params={"tau": 2.0, "step": 1.0})
    add_run(store, "local")
    assert arranged(store).methods == ("local", "attn tau=0.5", "attn tau=2")


def test_parameters_chosen_for_each_setting_make_one_row_with_a_note(store: Store) -> None:
    add_run(store, "attn", params={"tau": 0.5})
    add_run(store, "attn", params={"tau": 2.0}, alpha=1.0)
    found = arranged(store)
    assert found.methods == ("attn",)
    assert found.notes == ("attn has parameters of its own in each setting: tau 0.5, 2",)


def test_of_repeated_runs_the_latest_counts(store: Store) -> None:
    first = add_run(store, "local", 0)
    add_run(store, "local", 1)
    last = add_run(store, "local", 0)
    found = arranged(store)
    assert f"run{last}" in places(found) and f"run{first}" not in places(found)
    assert found.notes == (f"repeated runs: only the latest is used; left out: run{first}",)


def test_a_repeated_run_that_failed_does_not_count(store: Store) -> None:
    finished = add_run(store, "local")
    add_run(store, "local", status="failed")
    found = arranged(store)
    assert [entry.run.id for entry in found.entries] == [finished] and "run2" in found.notes[0]


def test_unfinished_runs_are_told(store: Store) -> None:
    add_run(store, "local", status="interrupted", rounds=9)
    assert arranged(store).notes == ("not finished: run1 (local) interrupted after round 2",)


def test_runs_of_another_kind_are_another_setting(store: Store) -> None:
    add_run(store, "local")
    add_run(store, "local", kind="join")
    assert arranged(store).settings == ("digits dirichlet 0.1", "digits dirichlet 0.1 kind=join")


def test_a_partition_seed_of_its_own_is_another_replicate(store: Store) -> None:
    add_run(store, "local", 0)
    run = store.runs()[0]
    other = {**run.config, "partition": {**run.config["partition"], "partition_seed": 7}}
    store.begin_run(other, "c" * 64, data_fingerprint="d" * 64, environment={}, git={}, seed=0)
    found = arranged(store)
    assert found.settings == ("digits dirichlet 0.1",) and len({e.seeds for e in found.entries}) == 2


def test_a_methods_own_parameter_called_like_a_seed_is_no_replicate(store: Store) -> None:
    run = store.find_run(add_run(store, "local", 0))
    for own in (1, 2):
        other = {**run.config, "params": {**run.config["params"], "hash_seed": own, "text": '"seed":3'}}
        store.begin_run(other, "c" * 64, data_fingerprint="d" * 64, environment={}, git={}, seed=0)
    found = arrange(store.runs())
    assert len({e.seeds for e in found.entries}) == 1 and len(found.settings) == 1
    assert found.methods == ("local", *(f'local hash_seed={own} text="seed":3' for own in (1, 2)))


def test_the_order_of_runs_takes_no_part(store: Store) -> None:
    for seed in (0, 1):
        add_run(store, "fedavg", seed, alpha=0.5)
        add_run(store, "local", seed, lr=0.1)
    runs = store.runs()
    assert arrange(reversed(runs)) == arrange(runs)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (1.0, "1"), (1e-05, "1e-05"), (0.1 + 0.2, "0.30000000000000004"), (True, "true"), (None, "none")]
    + [(["1", "all"], "1,all"), (float("inf"), "inf"), (3, "3"), ("cosine", "cosine")],
)
def test_values_in_labels_read_back(value: Any, text: str) -> None:
    assert written(value) == text


def attacked(store: Store, method: str = "fedavg", seed: int = 0, **changed: Any) -> int:
    """A run under an attack; `changed`: tables of its configuration."""
    run = store.find_run(add_run(store, method, seed, lr=0.5))
    attack = {**asdict(AttackConfig(kind="label-flip")), **changed.pop("attack", {})}
    if "defence" in changed:
        changed["defence"] = {**asdict(DefenceConfig()), **changed["defence"]}
    config = {**run.config, "attack": attack, "attack_params": {"target": 1}, **changed}
    facts: dict[str, Any] = {"data_fingerprint": "d" * 64, "environment": {}, "git": {}, "seed": seed}
    number = store.begin_run(config, "c" * 64, kind="attack", parent=run.id, **facts)
    store.finish(number, "done")
    return number


def line(store: Store, *numbers: int) -> dict[int, tuple[str, str]]:
    found = lines([store.find_run(f"run{number}") for number in numbers])
    return {number: (entry.method, entry.setting) for number, entry in found.items()}


def test_lines_of_a_figure_are_called_by_what_differs(store: Store) -> None:
    clean, seeds = add_run(store, lr=0.5), [attacked(store, seed=seed) for seed in (0, 1)]
    assert line(store, clean, *seeds) == {
        clean: ("fedavg", ""),
        **dict.fromkeys(seeds, ("fedavg", "attack=label-flip")),
    }
    assert line(store, *seeds) == dict.fromkeys(seeds, ("fedavg", ""))
    swept = [add_run(store, lr=lr) for lr in (0.1, 0.2)]
    assert [setting for _, setting in line(store, *swept).values()] == ["lr=0.1", "lr=0.2"]
    data = [add_run(store, alpha=alpha) for alpha in (0.1, 1.0)]
    assert [setting for _, setting in line(store, *data).values()] == ["digits dirichlet 0.1", "digits dirichlet 1"]


def test_repeated_runs_have_a_line_of_the_same_name(store: Store) -> None:
    first, again = add_run(store), add_run(store)
    assert line(store, first, again) == {first: ("fedavg", ""), again: ("fedavg", "")}


def test_attacks_and_columns_are_called_by_what_differs(store: Store) -> None:
    numbers = [
        attacked(store),
        attacked(store, attack={"malicious": 0.4}),
        attacked(store, attack={"kind": "alie"}, attack_params={"z": 1.0}),
        attacked(store, attack={"malicious": 0.0}),
        attacked(store, "local", defence={"defence": "krum", "defence_fraction": 0.2}),
        attacked(store, "local", defence={"defence": "krum", "defence_fraction": 0.4}),
    ]
    found = attack_places([store.find_run(f"run{number}") for number in numbers])
    assert [(found[number].attack, found[number].method) for number in numbers] == [
        ("label-flip malicious=0.2", "fedavg"),
        ("label-flip malicious=0.4", "fedavg"),
        ("alie", "fedavg"),
        ("no attack", "fedavg"),
        ("label-flip malicious=0.2", "local + krum defence_fraction=0.2"),
        ("label-flip malicious=0.2", "local + krum defence_fraction=0.4"),
    ]
    assert {place.data for place in found.values()} == {""}, "all runs share their data"


def test_attacks_on_other_data_have_a_place_of_their_own(store: Store) -> None:
    part = store.find_run(add_run(store)).config["partition"]
    changes: list[dict[str, Any]] = [{}, {"alpha": 1.0}, {"dataset": "mnist"}]
    numbers = [attacked(store, partition={**part, **change}) for change in changes]
    found = attack_places([store.find_run(f"run{number}") for number in numbers])
    assert [(place.attack, place.method) for place in found.values()] == [("label-flip", "fedavg")] * 3
    assert [place.data for place in found.values()] == [
        "digits dirichlet 0.1",
        "digits dirichlet 1",
        "mnist dirichlet 0.1",
    ]
