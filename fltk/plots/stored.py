"""What figures of runs draw, read from the registry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fltk.errors import UsageError
from fltk.evaluation.comparison_table import AttackPlace
from fltk.evaluation.maps import size_prior
from fltk.metrics import attention_alignment, label_similarity
from fltk.metrics.metric_names import higher_is_better
from fltk.objectives import headline
from fltk.plots.attack import AttackedRun
from fltk.plots.clients import ClientScores
from fltk.plots.join_lines import JoinRun
from fltk.plots.map_data import Clients, MapPanel
from fltk.plots.partition import PartitionTable
from fltk.plots.style import Array
from fltk.registry import PartitionRow, RunRow, Store
from fltk.registry.rows import StoredMap

LOCAL = "local"
JOIN_STEPS = ("arrival", "joined", "tuned", "scratch", "fedavg_ft")


def partition_of(store: Store, run: RunRow) -> PartitionRow:
    """The run's partition. UsageError where none is stored."""
    if run.partition_id is None:
        raise UsageError(f"{run.label} has no stored partition")
    return store.find_partition(run.partition_id)


def summary_of(store: Store, run: RunRow) -> dict[str, Any]:
    """What is stored of the run's partition."""
    return partition_of(store, run).summary


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
        raise UsageError(f"{run.label} has a single client: it has no other client to learn from and no map to draw")
    found = store.map_rounds(run.id)
    if not found:
        raise UsageError(f"{run.label} has no maps yet: it has finished no round")
    return list(found)


def last_values(store: Store, run: RunRow, key: str) -> ClientScores:
    """The last stored values of its clients, without malicious ones; the label tells how many these are."""
    rounds, values = store.client_values(run.id, key)
    last, number = values[-1], int(rounds[-1])
    bad = malicious_of(run, len(last))
    if bad is None:
        return ClientScores("", last, round=number)
    benign = np.where(bad, np.nan, last)
    return ClientScores("", benign, round=number, malicious=int(bad.sum()))


def last_gains(store: Store, run: RunRow, key: str, named: Sequence[RunRow]) -> ClientScores | None:
    """The last values of its clients minus those of local training; None without a run of local on the same data.

    Local training is a run of `local` among `named` with the same partition and seed; without one, a finished run of
    the registry that also has the same training settings.
    """
    local = _local_run(store, run, named)
    if local is None or key not in store.client_keys(local.id):
        return None
    own = last_values(store, run, key)
    alone = np.asarray(store.client_values(local.id, key)[1][-1], np.float64)
    gains = np.asarray(own.accuracy, np.float64) - alone
    return replace(own, accuracy=gains if higher_is_better(key) else -gains)


def _local_run(store: Store, run: RunRow, named: Sequence[RunRow]) -> RunRow | None:
    from fltk.evaluation.evaluate import references  # it imports torch, which other figures do without

    found = references(store, run)
    for other in reversed(named):
        alike = other.partition_id == run.partition_id and other.seed == run.seed
        if other.method == LOCAL and other.kind == "train" and other.status == "done" and alike:
            found.insert(0, other)
    return next((other for other in found if other.method == LOCAL), None)


def sent_bytes(store: Store, run: RunRow, rounds: Array) -> Array:
    """(R,) the bytes that all clients have sent and received up to the end of each of these rounds."""
    total = np.zeros(len(rounds))
    for key in ("bytes_down", "bytes_up"):
        known, values = store.scalars(run.id, key)[key]
        so_far = np.concatenate([[0.0], np.cumsum(values)])
        total += so_far[np.searchsorted(known, rounds, side="right")]
    return total


def malicious_of(run: RunRow, n: int) -> Array | None:
    """(n,) bool, which clients of a run are malicious; None in a run without an attack."""
    if "attack" not in run.config:
        return None
    from fltk.evaluation.robustness import attackers  # it draws them with torch, which other figures do without

    return np.isin(np.arange(n), attackers(run.config, n))


def attacked_run(store: Store, run: RunRow, place: AttackPlace) -> AttackedRun:
    """What an attack did to a run, and where it stands in the figure."""
    from fltk.evaluation.robustness import summary

    found = summary(run, store)
    rounds, share = np.zeros(0, np.int64), np.zeros(0)
    if "mal_weight_ratio" in store.scalar_keys(run.id):
        rounds, share = store.scalars(run.id, "mal_weight_ratio")["mal_weight_ratio"]
    drop = math.nan if found["drop"] is None else found["drop"]
    measure = headline(run.last)
    return AttackedRun(place.attack, place.method, drop, rounds, share, place.data, run.method, run.seed, measure)


def _parts(run: RunRow, stored: StoredMap, layer: str) -> list[str]:
    """The parts of the model that --layer names."""
    if layer == "all":
        return [name for name in stored.slices if name != "whole"] or ["whole"]
    names = [name.strip() for name in layer.split(",")]
    for name in names:
        if name not in stored.slices:
            raise UsageError(f"--layer: {run.label} has maps of {', '.join(stored.slices)}, not of {name!r}")
    return names


def join_run(store: Store, run: RunRow, label: str, setting: str = "", row: str = "") -> JoinRun:
    """What `fltk join-new-client` stored of a run.

    setting: in what the run differs from runs of other lines, without its method.  row: the label without it.
    """
    stored = store.evaluations(run.id)
    if not stored:
        raise UsageError(f"{run.label} was stopped before its newcomers had joined: there is nothing to draw")
    arrays, measure = stored[-1].clients, headline(run.last)
    return JoinRun(
        label=label,
        data=f"part{run.partition_id} seed {run.seed}",
        shots=tuple(run.config["join"]["shots"]),
        steps={step: arrays[f"{step}_test_{measure.key}"] for step in JOIN_STEPS},
        curves={step: arrays[f"curve_{step}_test_{measure.key}"] for step in ("tuned", "scratch", "fedavg_ft")},
        work=float(arrays["join_epochs"].max()),
        method=run.method,
        setting=setting,
        row=row,
        seed=run.seed,
        measure=measure,
    )
