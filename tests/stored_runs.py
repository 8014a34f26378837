"""Finished runs with made-up numbers in a registry, for tests of what reads many runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fltk.config import PartitionConfig, RunConfig, TrainConfig
from fltk.registry import Store

CLIENTS = 6


def add_partition(store: Store, seed: int = 0) -> int:
    """A partition, the same one for the same seed."""
    return store.save_partition({}, {"train": np.arange(3)}, f"{seed:064d}", "d" * 64, {"clients": CLIENTS})


def add_run(
    store: Store,
    method: str = "fedavg",
    seed: int = 0,
    accuracy: Any = 0.5,
    *,
    alpha: float = 0.1,
    params: dict[str, Any] | None = None,
    evaluated: Any = None,
    val: float | None = None,
    partition: int | None = None,
    status: str | None = "done",
    kind: str = "train",
    environment: dict[str, Any] | None = None,
    git: dict[str, Any] | None = None,
    dealt: dict[str, Any] | None = None,
    **train: Any,
) -> int:
    """A run of two rounds whose clients end with `accuracy` (a number or one for each) and its number.

    `evaluated`: the same of the deployed model in an evaluation; `val`: accuracy on validation data. `dealt` and
    `train`: changes of the settings of partition and training.
    """
    config = RunConfig(
        PartitionConfig(alpha=alpha, partition_seed=seed, **(dealt or {})),
        TrainConfig(**{"model": "mlp", "rounds": 2, **train}),
        method,
        params or {},
        seed,
    )
    number = store.begin_run(
        config.to_dict(),
        config.digest(),
        kind=kind,
        partition_id=add_partition(store, seed) if partition is None else partition,
        data_fingerprint="d" * 64,
        environment=environment or {"python": "3", "packages": {"numpy": "2"}},
        git=git or {"present": False, "fltk_sha256": "f" * 64},
        seed=seed,
    )
    last = np.broadcast_to(np.asarray(accuracy, np.float32), (CLIENTS,))
    for round, values in ((1, last / 2), (2, last)):
        scalars = {"personal_test_acc": float(values.astype(np.float64).mean()), "train_loss": 1.0 / round}
        if val is not None:
            scalars["personal_val_acc"] = val
        store.record_round(number, round, scalars, {"personal_test_acc": values}, None, f"{method}{seed}{round}")
    if evaluated is not None:
        add_evaluation(store, number, evaluated)
    if status is not None:
        store.finish(number, status)
    return number


def add_evaluation(store: Store, run: int, accuracy: Any, round: int = 2, **summary: Any) -> None:
    """An evaluation with a deployed model alone."""
    values = np.broadcast_to(np.asarray(accuracy, np.float64), (CLIENTS,))
    row = {"model": "deployed", "acc_mean": float(values.mean()), "acc_worst10": float(values.min()), "jain": 1.0}
    told = {"deploy": "vote", "chosen": {"ft1": CLIENTS}, "rows": [row], "rounds": {}, **summary}
    store.save_evaluation(run, round, told, {"deployed_test_acc": values, "deployed_val_acc": values})
