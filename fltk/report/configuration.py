"""The settings: what differs between the runs first, the rest folded away. Runs that differ in seeds share a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fltk.config import canonical_json
from fltk.evaluation.comparison_table import Facts, differing_keys, short, written
from fltk.registry import RunRow
from fltk.registry.where import flatten
from fltk.report.content import Content, Section, linked_runs
from fltk.report.markup import emphasis, folded, joined, table, words

PARAMS = "params"


@dataclass(frozen=True)
class _Variant:
    """Runs of one configuration under several seeds; `facts` are its settings without these and without the method."""

    runs: tuple[RunRow, ...]
    facts: Facts


def section(content: Content) -> Section:
    """A line for each configuration, then all settings."""
    variants = _variants(content.runs)
    origin = content.runs[0].origin
    differing = differing_keys([variant.facts for variant in variants])
    if len(variants) == 1:  # of a single configuration what was chosen
        differing = [key for key in variants[0].facts if origin.get(key, "default") != "default"]
    shared = {key: value for key, value in variants[0].facts.items() if key not in differing}
    parts = [_differing(variants, differing)]
    rows = [[key, _value(value), origin.get(key, "default")] for key, value in shared.items()]
    title = "All other settings" if differing else "All settings"
    parts.append(folded(title, table(title, words("Setting", "Value", "From"), rows)))
    parameters = _parameters(content.runs)
    if parameters:
        heads = words("Hyper-parameter", "Method", "Value", "From", "Runs")
        parts.append(folded("All hyper-parameters", table("All hyper-parameters", heads, parameters)))
    return Section("configuration", "Configuration", joined(parts))


def _variants(runs: Sequence[RunRow]) -> list[_Variant]:
    groups: dict[str, list[RunRow]] = {}
    for run in runs:
        groups.setdefault(canonical_json([run.method, run.config[PARAMS], _facts(run)]), []).append(run)
    return [_Variant(tuple(own), _facts(own[0])) for own in groups.values()]


def _facts(run: RunRow) -> Facts:
    """The settings by their dotted names."""
    kept = {key: value for key, value in run.config.items() if key not in ("method", "seed", PARAMS)}
    return {key: value for key, value in flatten(kept).items() if not key.endswith("_seed")}


def _differing(variants: Sequence[_Variant], keys: Sequence[str]) -> Markup:
    """Configurations x differing settings; of hyper-parameters those that were chosen."""
    chosen = any(variant.runs[0].set_params for variant in variants)
    heads = words("Runs", "Method", *(_named(key, keys) for key in keys), *(["Chosen"] if chosen else []), "Seeds")
    rows = []
    for variant in variants:
        first = variant.runs[0]
        given = ", ".join(f"{key}={written(value)}" for key, value in first.set_params.items())
        values = [_value(variant.facts[key]) if key in variant.facts else None for key in keys]
        seeds = ", ".join(dict.fromkeys(map(_seeds, variant.runs)))
        rows.append([linked_runs(variant.runs), first.method, *values, *([given or None] if chosen else []), seeds])
    return table("What differs" if len(variants) > 1 else "Configuration", heads, rows)


def _seeds(run: RunRow) -> str:
    dealt = run.config["partition"]["partition_seed"]
    return str(run.seed) if dealt == run.seed else f"{run.seed} (partition {dealt})"


def _parameters(runs: Sequence[RunRow]) -> list[list[object]]:
    """A line for each value that a hyper-parameter of a method has."""
    found: dict[tuple[str, str, str], list[RunRow]] = {}
    for run in runs:
        for key, value in run.config[PARAMS].items():
            found.setdefault((run.method, key, written(value)), []).append(run)
    return [
        [key, method, _value(value), own[0].origin.get(f"{PARAMS}.{key}", "default"), linked_runs(own)]
        for (method, key, value), own in found.items()
    ]


def _named(key: str, keys: Sequence[str]) -> str:
    """The setting as one types it; the whole path where two would look the same."""
    end = short(key)
    return end if [short(other) for other in keys].count(end) == 1 else key


def _value(value: Any) -> Markup | str:
    """An empty text is shown as such."""
    shown = ", ".join(map(written, value)) if isinstance(value, list) else written(value)
    return shown if shown else emphasis("empty")
