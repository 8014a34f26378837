"""Groups of 10, 6, 3 and 1 of twenty clients, each group with MNIST turned its own way, so that one client is alone.

The partitioner deals clients to equal groups; here those of a stored partition are dealt anew, which changes who turns
its images and nothing else. Test accuracy by group size, mean and standard deviation over 3 seeds. About 6 minutes on
one core. Needs MNIST, in FLTK_DATA or ~/.cache/fltk.

    python experiments/unequal.py unequal.db
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from fltk import experiment, partition
from fltk.config import PartitionConfig, RunConfig, TrainConfig
from fltk.experiment import Place
from fltk.registry import Store

SIZES = (10, 6, 3, 1)
METHODS = ("local", "fedavg", "fedavg-ft", "ifca", "cluster-kmeans", "oracle", "attn", "attn ceiling=3", "attn lone=0")
SEEDS = (0, 1, 2)
TRAIN = TrainConfig(model="mlp", batch_size=10, lr=0.1, rounds=40, eval_every=10, own_step="none")


def unequal(config: PartitionConfig, place: Place, store: Store) -> int:
    """The number of the partition with unequal groups, in the registry."""
    dataset, made = experiment.deal(config, place)
    group = np.repeat(np.arange(len(SIZES)), SIZES)
    turns = {"kind": "rotate", "quarter_turns": group.tolist()}
    dealt = partition.create(
        config, made.data_fingerprint, (made.train, made.val, made.test), group=group, transform=turns
    )
    return experiment.save_partition(store, dataset, dealt)


def accuracies(method: str, seed: int, place: Place, store: Store) -> list[float]:
    """Mean test accuracy of the clients in every group, after training."""
    config = PartitionConfig(
        dataset="mnist", subset=4000, scheme="rotated", clients=sum(SIZES), newcomers=0, partition_seed=seed
    )
    stored = store.find_partition(f"part{unequal(config, place, store)}")
    prepared = experiment.prepare(config, place, store, stored)
    name, *settings = method.split()
    params: dict[str, int | str] = {key: int(value) for key, value in (setting.split("=") for setting in settings)}
    if name == "attn":  # the variants are of the map of displacements
        params["token"] = "model"
    made = RunConfig(partition=config, method=name, params=params, train=TRAIN, seed=seed)
    run = experiment.train(made, prepared, store, replace(place, keep_checkpoints=1))
    last = store.client_values(run, "personal_test_acc")[1][-1]
    return [float(part.mean()) for part in np.split(last, np.cumsum(SIZES)[:-1])]


def main(db: str) -> None:
    place = Place(data_dir=Path(os.environ["FLTK_DATA"]) if "FLTK_DATA" in os.environ else None)
    print("| | " + " | ".join(f"group of {size}" if size > 1 else "alone" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    with Store(db, create=True) as store:
        for method in METHODS:
            found = np.array([accuracies(method, seed, place, store) for seed in SEEDS])
            cells = [f"{mean:.3f} ± {std:.3f}" for mean, std in zip(found.mean(0), found.std(0, ddof=1), strict=True)]
            print(f"| `{method}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Unequal groups of clients, one of them alone: a table as markdown.")
    parser.add_argument("db", nargs="?", default="unequal.db", help="registry to write to (default: unequal.db)")
    main(parser.parse_args().db)
