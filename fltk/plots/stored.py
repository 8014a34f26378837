"""What figures of runs draw, read from the registry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fltk.errors import UsageError
from fltk.evaluation.maps import size_prior
from fltk.metrics import attention_alignment, label_similarity
from fltk.plots.attack import AttackedRun
from fltk.plots.attention_maps import Clients, MapPanel
from fltk.plots.clients import ClientScores
from fltk.plots.join import JoinRun
from fltk.plots.partition import PartitionTable
from fltk.plots.style import Array
from fltk.registry import RunRow, Store
from fltk.registry.rows import StoredMap

JOIN_STEPS = ("arrival", "joined", "tuned", "scratch", "fedavg_ft")


def summary_of(store: Store, run: RunRow) -> dict[str, Any]:
    """What is stored of the run's partition."""
    if run.partition_id is None:
        raise UsageError(f"{run.label} has no stored partition")
    return store.find_partition(run.partition_id).summary


def groups_of(summary: dict[str, Any], count: int) -> Array | None:
    """The known groups of the first `count` clients, (count,); None where the partition has none."""
    return None if summary["groups"] is None else np.array(summary["groups"])[:count]


def partition_table(summary: dict[str, Any]) -> PartitionTable:
    """Label counts, classes, groups and newcomers of a stored partition."""
    return PartitionTable(
        counts=np.array(summary["label_counts"]),
        classes=tuple(summary["classes"]),
        newcomers=summary["newcomers"],
        groups=groups_of(summary, len(summary["label_counts"])),
    )


def map_panels(store: Store, run: RunRow, rounds: Sequence[int], layer: str) -> tuple[list[MapPanel], Clients]:
    """The run's maps of these rounds and parts (by name, separated by commas, or all), and what is known of clients."""
    map_rounds(store, run)
    stored = store.maps(run.id, rounds)
    summary = summary_of(store, run)
    counts = np.array(summary["label_counts"])[: summary["clients"]]
    similarity = label_similarity(counts)
    panels = []
    for part in _parts(run, stored[0], layer):
        for m in stored:
            weights = m.array[m.slices.index(part)]
            fit = attention_alignment(weights, similarity, prior=size_prior(run, counts))
            panels.append(MapPanel(m.round, weights, fit.spearman, fit.p_value, "" if part == "whole" else part))
    return panels, Clients(similarity, groups_of(summary, len(counts)), malicious_of(run, len(counts)))


def map_rounds(store: Store, run: RunRow) -> list[int]:
    """The rounds that have a map to draw. UsageError where there is none."""
    if run.config["partition"]["clients"] == 1:
        raise UsageError(f"{run.label} has a single client: there is nobody to learn from and no map to draw")
    found = store.map_rounds(run.id)
    if not found:
        raise UsageError(f"{run.label} has no maps yet: it has finished no round")
    return list(found)


def last_values(store: Store, run: RunRow, key: str) -> ClientScores:
    """The last stored values of its clients, without malicious ones; the label tells how many these are."""
    rounds, values = store.client_values(run.id, key)
    bad = malicious_of(run, values.shape[1])
    if bad is None:
        return ClientScores("", values[-1], round=int(rounds[-1]))
    return ClientScores("", np.where(bad, np.nan, values[-1]), round=int(rounds[-1]), malicious=int(bad.sum()))


def malicious_of(run: RunRow, n: int) -> Array | None:
    """(n,) bool, which clients of a run are malicious; None in a run without an attack."""
    if "attack" not in run.config:
        return None
    from fltk.evaluation.robustness import attackers  # it draws them with torch, which other figures do without

    return np.isin(np.arange(n), attackers(run.config, n))


def attacked_run(store: Store, run: RunRow, attack: str, column: str) -> AttackedRun:
    """What an attack did to a run, and what its row and column are called."""
    from fltk.evaluation.robustness import summary

    found = summary(run, store)
    if "mal_weight_ratio" in store.scalar_keys(run.id):
        rounds, share = store.scalars(run.id, "mal_weight_ratio")["mal_weight_ratio"]
    else:
        rounds, share = np.zeros(0, np.int64), np.zeros(0)
    drop = math.nan if found["drop"] is None else found["drop"]
    return AttackedRun(attack, column, drop, rounds, share)


def _parts(run: RunRow, stored: StoredMap, layer: str) -> list[str]:
    """The parts of the model that --layer names."""
    if layer == "all":
        return [name for name in stored.slices if name != "whole"] or ["whole"]
    names = [name.strip() for name in layer.split(",")]
    for name in names:
        if name not in stored.slices:
            raise UsageError(f"--layer: {run.label} has maps of {', '.join(stored.slices)}, not of {name!r}")
    return names


def join_run(store: Store, run: RunRow, label: str, condition: str = "") -> JoinRun:
    """What `fltk join-new-client` stored of a run; `condition` is its setting where runs have several."""
    stored = store.evaluations(run.id)
    if not stored:
        raise UsageError(f"{run.label} was stopped before its newcomers had joined: there is nothing to draw")
    arrays = stored[-1].clients
    return JoinRun(
        label,
        f"part{run.partition_id} seed {run.seed}",
        tuple(run.config["join"]["shots"]),
        {step: arrays[f"{step}_test_acc"] for step in JOIN_STEPS},
        {step: arrays[f"curve_{step}_test_acc"] for step in ("tuned", "scratch", "fedavg_ft")},
        float(arrays["join_epochs"].max()),
        condition,
    )
