"""How fast runs learn: areas and first rounds, worked out by hand from the stored courses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stored_runs import add_run

from fltk.errors import FltkError
from fltk.evaluation.compare import compare
from fltk.evaluation.convergence import courses, first_reach
from fltk.registry import Store


def course(store: Store, method: str, values: list[float], every: int = 1, **train: object) -> int:
    """A run whose validation accuracy takes these values, evaluated every so many rounds."""
    run = add_run(store, method, status=None, rounds=len(values) * every, **train)
    for k, value in enumerate(values, start=1):
        scalars = {"personal_val_acc": value, "bytes_up": 3.0, "bytes_down": 4.0, "seconds": 0.5}
        store.record_round(run, k * every, scalars, {}, None, str(k))
    store.finish(run, "done")
    return run


def test_the_first_round_is_that_of_the_moving_average() -> None:
    rounds = np.arange(1, 9)
    values = np.array([0.9, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9])
    averages = {int(t): values[t - 5 : t].mean() for t in range(5, 9)}
    for target in (0.4, 0.45, 0.5, 0.55, 0.69):
        expected = next((t for t, mean in averages.items() if mean >= target), None)
        assert first_reach((rounds, values), target) == expected
    assert first_reach((rounds, values), 0.71) is None
    assert first_reach((np.array([2, 4, 6]), np.array([0.9, 0.0, 0.4])), 0.2) == 6, "the window is in rounds"


def test_the_target_does_not_care_how_often_its_run_was_evaluated(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        course(store, "fedavg-ft", [0.8] * 5, every=2, eval_every=2, seed=0)
        run = course(store, "attn", [0.7, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], eval_every=1, seed=0)
        found = courses(store, [store.find_run(1), store.find_run(run)], "rounds_to_target")
    assert found[run] == 5


def test_rounds_bytes_and_seconds_to_the_target(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        course(store, "fedavg-ft", [0.8] * 8)  # the target is 0.76
        slow = [0.1, 0.2, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8]  # averages .52, .66, .78, .8 from round 5 on
        run = course(store, "attn", slow)
        never = course(store, "local", [0.75] * 8)
        for name, value in (("rounds_to_target", 7.0), ("bytes_to_target", 49.0), ("seconds_to_target", 3.5)):
            table = compare(store, store.runs(), name)
            (setting,) = table.settings
            assert table.cells["attn", setting].values.tolist() == [value] and not table.metric.higher
            assert not table.cells["local", setting].scores
            assert any(f"run{never}" in note for note in table.notes) and table.cells["local", setting].never == 1
        table = compare(store, store.runs(), "auc_rounds")
        assert table.metric.higher and table.cells["attn", setting].mean == pytest.approx(np.mean(slow))
        assert run != never


def test_a_tuned_learning_rate_has_the_target_of_the_same_budget(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        course(store, "fedavg-ft", [0.8] * 8, lr=0.1)
        tuned = course(store, "attn", [0.9] * 8, lr=0.2)
        longer = course(store, "attn", [0.9] * 9, lr=0.2)
        found = courses(store, store.runs(), "rounds_to_target")
        assert found[tuned] == 5 and found[longer] is None, "another budget has another target"

        course(store, "fedavg-ft", [0.1] * 8, lr=0.3)
        assert courses(store, store.runs(), "rounds_to_target")[tuned] is None, "two references: which one is not known"
        same = course(store, "attn", [0.8] * 8, lr=0.3)
        assert courses(store, store.runs(), "rounds_to_target")[same] == 5


def test_no_reference_no_target(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        course(store, "attn", [0.5] * 6)
        with pytest.raises(FltkError, match="rounds_to_target"):
            compare(store, store.runs(), "rounds_to_target")


def test_who_never_reaches_the_target_comes_last(tmp_path: Path) -> None:
    with Store(tmp_path / "r.db", create=True) as store:
        for alpha in (0.1, 1.0):
            course(store, "fedavg-ft", [0.8] * 8, alpha=alpha)
            course(store, "attn", [0.1, 0.2, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8], alpha=alpha)
            course(store, "local", [0.75] * 8, alpha=alpha)
        ranks = compare(store, store.runs(), "rounds_to_target").ranks()
    assert ranks is not None and ranks.settings == 2
    assert dict(zip(ranks.methods, ranks.average, strict=True)) == {"fedavg-ft": 1.0, "attn": 2.0, "local": 3.0}
