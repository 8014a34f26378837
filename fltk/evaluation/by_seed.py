"""Runs of one configuration under several seeds, as one row: means, spreads, and what tells it from other rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fltk.config import canonical_json
from fltk.evaluation.comparison_table import Configuration, Facts, configurations, differing_keys
from fltk.evaluation.statistics import sample_std
from fltk.objectives import Measure, headline
from fltk.registry import EvaluationRow, RunRow, Store

# What every row shows, so that it needs no column of its own where rows differ in it.
SHOWN = ("partition.dataset", "partition.scheme", "partition.alpha", "train.model")
EVERY = "train.eval_every"

Seeds = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds, of a repeated seed the last one."""

    config: Configuration
    runs: tuple[RunRow, ...]

    @property
    def facts(self) -> Facts:
        """All settings but hyper-parameters, keyed like train.lr."""
        config = self.config
        return config.base | config.budget | config.optimiser | {EVERY: self.runs[0].config["train"]["eval_every"]}


def groups(runs: Sequence[RunRow]) -> list[Group]:
    """The runs by configuration, in the order of the first run of each."""
    keyed, configs = configurations(runs)
    by_key: dict[str, dict[Seeds, RunRow]] = {key: {} for key in configs}
    for run, key, seeds in keyed:
        by_key[key][seeds] = run

    # Configurations that differ only in what their partition's scheme does not read are one.
    found: dict[str, dict[Seeds, RunRow]] = {}
    first: dict[str, Configuration] = {}
    for key, config in configs.items():
        group = Group(config, tuple(by_key[key].values()))
        name = canonical_json([config.variant, group.facts])
        first.setdefault(name, config)
        found.setdefault(name, {}).update(by_key[key])
    return [Group(first[name], tuple(own.values())) for name, own in found.items()]


def told_apart(found: Sequence[Group]) -> list[str]:
    """The settings, such as train.lr, in which groups differ and which SHOWN does not have."""
    keys = differing_keys([group.facts for group in found])
    return [key for key in keys if key not in SHOWN]


def parameters(found: Sequence[Group]) -> list[Facts]:
    """Of each group the hyper-parameters that were set, or in which groups of its method differ."""
    differing: dict[str, list[str]] = {}
    for method in {group.config.method for group in found}:
        own = [group.config.params for group in found if group.config.method == method]
        differing[method] = differing_keys(own)

    rows = []
    for group in found:
        told = {*group.runs[0].set_params, *differing[group.config.method]}
        rows.append({key: value for key, value in group.config.params.items() if key in told})
    return rows


def measured(store: Store, found: Sequence[Group]) -> list[dict[str, float | None]]:
    """Of each group mean and sample standard deviation: personal, personal_std, likewise deployed and global.

    None where a run has no value, and for the spread of a single run.
    """
    evaluations = store.last_evaluations(run.id for group in found for run in group.runs)
    measures: Mapping[str, Callable[[RunRow], float | None]] = {
        "personal": lambda run: run.last.get(f"personal_test_{headline(run.last).key}"),
        "deployed": lambda run: _deployed(evaluations.get(run.id), headline(run.last)),
        "global": lambda run: run.last.get(f"global_test_{headline(run.last).key}"),
    }
    rows = []
    for group in found:
        row: dict[str, float | None] = {}
        for name, measure in measures.items():
            row[name], row[f"{name}_std"] = _mean_and_std(map(measure, group.runs))
        rows.append(row)
    return rows


def _mean_and_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    known: list[float] = []
    for value in values:
        if value is None:
            return None, None
        known.append(value)
    spread = sample_std(known)
    return fmean(known), None if math.isnan(spread) else spread


def _deployed(stored: EvaluationRow | None, measure: Measure) -> float | None:
    """The mean test value of the deployed models in an evaluation."""
    rows: Sequence[Mapping[str, Any]] = () if stored is None else stored.summary["rows"]
    return next((float(row[f"{measure.key}_mean"]) for row in rows if row["model"] == "deployed"), None)
