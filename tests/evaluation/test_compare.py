"""A comparison's cells, pairs, tests and ranks, worked out by hand or with scipy from the numbers that were stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats
from stored_runs import CLIENTS, add_evaluation, add_partition, add_run

from fltk.errors import FltkError, UsageError
from fltk.evaluation.compare import ALL_SETTINGS, SEEDS, SETTINGS, Comparison, Difference, Pairing, compare
from fltk.evaluation.compare import CLIENTS as BY_CLIENT
from fltk.evaluation.metric_values import Metric
from fltk.evaluation.statistics import bootstrap_interval, holm
from fltk.registry import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "r.db", create=True) as opened:
        yield opened


def accuracies(seed: int, shift: float) -> np.ndarray:
    """Six accuracies as a client with 25 test samples has them."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.integers(8, 18, CLIENTS) + round(25 * shift), 0, 25) / 25


METHODS = {"local": 0.0, "fedavg": 0.1, "fedavg-ft": 0.2, "attn": 0.24}


def fill(
    store: Store, seeds: int = 3, alphas: tuple[float, ...] = (0.1, 1.0)
) -> dict[tuple[str, float, int], np.ndarray]:
    """Four methods on two settings; returns what was stored."""
    found = {}
    for alpha in alphas:
        for seed in range(seeds):
            for place, (method, shift) in enumerate(METHODS.items()):
                values = accuracies(100 * seed + 7 * place + int(10 * alpha), shift)
                found[method, alpha, seed] = values.astype(np.float32).astype(np.float64)
                add_run(store, method, seed, values, alpha=alpha)
    return found


def compared(store: Store, metric: str | None = None) -> Comparison:
    return compare(store, store.runs(), metric)


def found(differences: list[Difference], method: str, setting: str, unit: str) -> Difference:
    (item,) = [d for d in differences if (d.method, d.setting, d.unit) == (method, setting, unit)]
    return item


ONE, OTHER = "digits dirichlet 0.1", "digits dirichlet 1"


def test_cells_are_means_and_sample_deviations_over_seeds(store: Store) -> None:
    stored = fill(store)
    table = compared(store)
    assert table.metric.name == "personal_test_acc" and table.settings == (ONE, OTHER)
    for method in METHODS:
        for setting, alpha in ((ONE, 0.1), (OTHER, 1.0)):
            means = [stored[method, alpha, seed].mean() for seed in range(3)]
            cell = table.cells[method, setting]
            assert cell.mean == pytest.approx(np.mean(means)) and cell.std == pytest.approx(np.std(means, ddof=1))
            assert len(cell.scores) == cell.planned == 3


def test_the_metric_without_a_name(store: Store) -> None:
    add_run(store, "local", 0, 0.4, evaluated=0.6)
    other = add_run(store, "fedavg", 0, 0.5)
    assert compared(store).metric.name == "personal_test_acc", "not all runs are evaluated"
    add_evaluation(store, other, 0.7)
    add_evaluation(store, other, 0.8)
    table = compared(store)
    assert table.metric.name == "deployed.mean" and "deployed model" in table.metric.description
    assert table.cells["fedavg", ONE].mean == pytest.approx(0.8), "the last evaluation counts"


@pytest.mark.parametrize(
    ("metric", "expected", "higher"),
    [
        ("personal_test_acc", 0.55, True),
        ("personal_test_acc.worst10", 0.3, True),
        ("personal_test_acc.best10", 0.8, True),
        ("personal_test_acc.min", 0.3, True),
        ("personal_test_acc.std", np.std([0.3, 0.4, 0.5, 0.6, 0.7, 0.8]), False),
        ("train_loss", 0.5, False),
        ("deployed", 0.75, True),
        ("deployed.worst10", 0.5, True),
        ("deployed.acc_mean", 0.75, True),
        ("deployed.jain", 1.0, True),
    ],
)
def test_metrics_by_name(store: Store, metric: str, expected: float, higher: bool) -> None:
    add_run(store, "local", 0, np.arange(3, 9) / 10, evaluated=np.arange(5, 11) / 10)
    table = compared(store, metric)
    assert table.cells["local", ONE].mean == pytest.approx(expected, abs=1e-6)
    assert table.metric.higher is higher


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("deployd", "did you mean deployed"),
        ("personal_test_ac", "did you mean personal_test_acc"),
        ("personal_test_acc.weighted", "only evaluated models have weighted"),
        ("zzz", "known: auc_rounds, .*, train_loss"),
    ],
)
def test_an_unknown_metric_names_the_near_ones(store: Store, metric: str, told: str) -> None:
    add_run(store, "local", evaluated=0.5)
    with pytest.raises(UsageError, match=f"--metric.*{told}"):
        compared(store, metric)


def test_runs_without_the_metric_are_missing_and_told(store: Store) -> None:
    add_run(store, "local", 0, evaluated=0.5)
    add_run(store, "fedavg", 0)
    add_run(store, "attn", 0, math.nan, evaluated=0.7)
    table = compared(store, "deployed")
    assert math.isnan(table.cells["fedavg", ONE].mean) and not table.cells["fedavg", ONE].scores
    assert "no finite value of deployed.mean: run2" in table.notes
    table = compared(store, "personal_test_acc")
    assert "no finite value of personal_test_acc: run3" in table.notes
    with pytest.raises(FltkError, match="--metric: none of these runs"):
        compare(store, [store.find_run("run3")], "personal_test_acc")


def test_nothing_to_compare(store: Store) -> None:
    with pytest.raises(FltkError, match="no run to compare"):
        compare(store, [])


def test_what_makes_a_comparison_unfair_is_told(store: Store) -> None:
    add_run(store, "local", 0, evaluated=0.5)
    add_run(store, "local", 1, evaluated=0.5)
    add_run(store, "fedavg", 0, partition=add_partition(store, 77))
    add_evaluation(store, 3, 0.6, round=1, deploy="ft1")
    notes = "; ".join(compared(store).notes)
    assert f"unequal seeds in {ONE}: fedavg 1 of 2" in notes
    assert "evaluated before the last round: run3 after round 1 of 2" in notes
    assert "evaluated in different ways: " in notes and "deploy ft1" in notes and "deploy vote" in notes
    assert f"different partitions or data under seed 0 of {ONE} (run1, run3)" in notes


# Paired differences


def test_differences_by_seed_and_by_client(store: Store) -> None:
    stored = fill(store, seeds=4)
    table = compared(store)
    differences = Pairing(store, table).differences("fedavg-ft")
    others = [m for m in table.methods if m != "fedavg-ft"]
    for setting, alpha in ((ONE, 0.1), (OTHER, 1.0)):
        by_client = {
            m: np.concatenate([stored[m, alpha, s] - stored["fedavg-ft", alpha, s] for s in range(4)]) for m in others
        }
        by_seed = {m: by_client[m].reshape(4, CLIENTS).mean(axis=1) for m in others}
        for unit, pairs in ((SEEDS, by_seed), (BY_CLIENT, by_client)):
            expected = {m: _p(d) for m, d in pairs.items()}
            adjusted = dict(zip(others, holm(list(expected.values())), strict=True))
            for method in others:
                item, d = found(differences, method, setting, unit), pairs[method]
                assert item.pairs == len(d) and item.mean == pytest.approx(d.mean())
                assert item.std == pytest.approx(d.std(ddof=1))
                interval = bootstrap_interval(d)
                assert (item.interval.low, item.interval.high) == pytest.approx((interval.low, interval.high))
                assert item.p == pytest.approx(expected[method]) and item.p_holm == pytest.approx(adjusted[method])
                assert (item.better, item.worse) == (int((d > 1e-6).sum()), int((d < -1e-6).sum()))


def _p(differences: np.ndarray) -> float:
    """By scipy, over all sign patterns; differences of accuracies are multiples of 1/25 up to rounding."""
    d = np.round(differences, 6)
    if not np.any(d):
        return 1.0
    method = scipy_stats.PermutationMethod(n_resamples=np.inf) if len(d) <= 12 else _all_signs(d)
    return method if isinstance(method, float) else float(scipy_stats.wilcoxon(d, method=method).pvalue)


def _all_signs(d: np.ndarray) -> float:
    """The same for more pairs than can be listed: the distribution of the rank sum by convolution."""
    kept = d[d != 0]
    doubled = np.rint(2 * scipy_stats.rankdata(np.abs(kept))).astype(int)
    chance = np.ones(1)
    for rank in doubled:
        step = np.zeros(rank + 1)
        step[[0, rank]] = 0.5
        chance = np.convolve(chance, step)
    at = int(doubled[kept > 0].sum())
    return min(1.0, 2 * min(chance[: at + 1].sum(), chance[at:].sum()))


def test_differences_over_settings_are_means_of_settings(store: Store) -> None:
    fill(store, alphas=(0.1, 0.5, 1.0))
    table = compared(store)
    differences = Pairing(store, table).differences("local")
    for method in ("fedavg", "attn"):
        means = [found(differences, method, setting, SEEDS).mean for setting in table.settings]
        item = found(differences, method, ALL_SETTINGS, SETTINGS)
        assert item.pairs == 3 and item.mean == pytest.approx(np.mean(means))


def test_only_shared_seeds_are_paired(store: Store) -> None:
    for seed, value in ((0, 0.4), (1, 0.6), (2, 0.9)):
        add_run(store, "local", seed, value)
    for seed, value in ((1, 0.5), (2, 0.9), (3, 0.1)):
        add_run(store, "fedavg", seed, value)
    (by_seed, by_client) = Pairing(store, compared(store)).differences("local")
    assert by_seed.pairs == 2 and by_seed.mean == pytest.approx(-0.05)
    assert by_client.pairs == 2 * CLIENTS and (by_client.better, by_client.worse) == (0, CLIENTS)


def test_clients_of_other_partitions_are_not_paired(store: Store) -> None:
    add_run(store, "local", 0, 0.4)
    add_run(store, "fedavg", 0, 0.5, partition=add_partition(store, 77))
    by_seed, by_client = Pairing(store, compared(store)).differences("local")
    assert by_seed.pairs == 1 and by_client.pairs == 0
    assert math.isnan(by_client.mean) and math.isnan(by_client.p)


def test_clients_without_a_value_are_left_out(store: Store) -> None:
    add_run(store, "local", 0, [0.5, math.nan, 0.5, 0.5, 0.5, 0.5])
    add_run(store, "fedavg", 0, [0.6, 0.6, math.nan, 0.6, 0.6, 0.6])
    # The stored mean of a run with such clients is NaN here, so that the comparison needs a statistic that skips them.
    by_client = Pairing(store, compared(store, "personal_test_acc.mean")).differences("local")[1]
    assert by_client.pairs == CLIENTS - 2 and by_client.mean == pytest.approx(0.1)


def test_lower_is_better_for_losses(store: Store) -> None:
    add_run(store, "local", 0, 0.4)
    add_run(store, "fedavg", 0, 0.6)
    table = compared(store, "personal_test_acc.std")
    assert table.best(ONE) == ["local", "fedavg"], "no spread in either"
    for run, loss in ((1, 0.5), (2, 0.25)):
        store.record_round(run, 3, {"train_loss": loss}, {"train_loss": np.full(CLIENTS, loss)}, None, "x")
    table = compared(store, "train_loss")
    item = Pairing(store, table).differences("local")[0]
    assert table.best(ONE) == ["fedavg"] and item.mean == pytest.approx(-0.25) and (item.better, item.worse) == (1, 0)


def test_the_reference_by_row_or_by_method(store: Store) -> None:
    add_run(store, "attn", params={"tau": 1.0})
    add_run(store, "attn", params={"tau": 2.0})
    add_run(store, "local")
    pairing = Pairing(store, compared(store))
    assert {d.reference for d in pairing.differences("attn tau=2")} == {"attn tau=2"}
    assert {d.method for d in pairing.differences("local")} == {"attn tau=1", "attn tau=2"}
    with pytest.raises(
        UsageError, match="--against: attn has several rows here; name one: 'attn tau=1' or 'attn tau=2'"
    ):
        pairing.differences("attn")
    with pytest.raises(UsageError, match="--against: unknown method 'locl'; did you mean local"):
        pairing.differences("locl")


# Ties and ranks


def test_ties_are_what_the_clients_cannot_tell_from_the_best(store: Store) -> None:
    base = np.linspace(0.4, 0.9, CLIENTS)
    noise = np.array([0.04, -0.04, 0.04, -0.04, 0.04, -0.03])
    for seed in (0, 1):
        add_run(store, "attn", seed, base)
        add_run(store, "fedavg-ft", seed, base - noise)
        add_run(store, "local", seed, base - 0.1)
    pairing = Pairing(store, compared(store))
    assert pairing.comparison.best(ONE) == ["attn"] and pairing.ties(ONE) == ["fedavg-ft"]


def test_few_seeds_tie_nobody(store: Store) -> None:
    """With three seeds no p-value is below 0.25: to call all methods tied would say nothing about them."""
    for seed in range(3):
        add_run(store, "attn", seed, 0.9)
        add_run(store, "local", seed, 0.1)
    pairing = Pairing(store, compared(store, "personal_test_acc.worst10"))
    assert pairing.tie_unit == SEEDS and pairing.ties(ONE) == []


def test_equal_means_are_all_the_best(store: Store) -> None:
    for method, value in (("local", 0.5), ("fedavg", 0.75), ("attn", 0.75)):
        add_run(store, method, 0, value)
    pairing = Pairing(store, compared(store))
    assert pairing.comparison.best(ONE) == ["fedavg", "attn"] and pairing.ties(ONE) == []


def test_ranks_are_over_the_settings_that_all_methods_have(store: Store) -> None:
    for alpha, scores in ((0.1, (0.3, 0.5, 0.4)), (0.5, (0.2, 0.6, 0.7)), (1.0, (0.1, 0.2, None))):
        for method, value in zip(("local", "fedavg", "attn"), scores, strict=True):
            if value is not None:
                add_run(store, method, 0, value, alpha=alpha)
    table = compared(store)
    ranks = table.ranks()
    assert ranks is not None and ranks.settings == 2 and ranks.methods == ("local", "fedavg", "attn")
    assert ranks.average == (3.0, 1.5, 1.5)
    assert "2 of 3 settings have personal_test_acc of all methods" in table.notes
    assert table.advice == ["--method without attn ranks the others over more"]
    late = compare(store, [run for run in store.runs() if run.config["partition"]["alpha"] > 0.4 and run.id != 4])
    assert late.ranks() is None and late.notes == (
        "0 of 2 settings have personal_test_acc of all methods, and average ranks need two",
    )


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("personal_test_acc", True),
        ("mal_weight_ratio", False),
        ("mal_weight", False),
        ("rejected_fpr", False),
        ("rejected_tpr", True),
        ("dropped", False),
        ("epsilon", False),
        ("personal_test_loss", False),
    ],
)
def test_which_way_is_better(name: str, higher: bool) -> None:
    assert Metric(name, "", False).higher is higher
