"""Runs as a table of methods x settings: what is compared with what, and under which conditions.

A setting is everything in the configuration apart from the method, its parameters, the seeds, and what the partition's
scheme does not read. Training budgets (rounds, epochs, batch size, ...) and the optimiser (learning rate, momentum,
...) split a setting only where one method has several of them, as in a sweep. Where every method has one, the methods
stand side by side, and notes say which budgets are unequal and which optimisers were chosen for a method.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fltk.config import canonical_json, ignored
from fltk.names import METHODS
from fltk.registry import RunRow
from fltk.registry.where import flatten

# What has to be equal for a fair comparison, and what may be chosen for each method.
BUDGET = tuple(f"train.{name}" for name in ("rounds", "epochs", "steps", "batch_size", "participation"))
_STEPS = ("lr", "lr_schedule", "lr_decay", "momentum", "weight_decay", "drop_last", "clip_grad", "client_opt")
_ADAM = ("adam_beta1", "adam_beta2", "adam_eps")
_SERVER = ("server_opt", "server_lr", "server_beta1", "server_beta2", "server_tau")
OPTIMISER = tuple(f"train.{name}" for name in (*_STEPS, *_ADAM, *_SERVER))
# Rounds between evaluations change no number that is compared; the last round is always evaluated.
_APART = {"method", "train.eval_every"}
OWN_STEP = "train.own_step"
_HEADS = ("attack.kind", "defence.defence", "kind")  # what a table of a configuration is called by
UNATTACKED = "no attack"  # nobody is malicious, whatever attack is named
_SHOWN = 8  # run numbers written out in a note

# Seeds in a stored configuration. A quote inside a text would follow a backslash, so that only names match.
_SEED = re.compile(r'seed":(?<=[_"]seed":)(-?\d+)')
_OWN_SEED = re.compile(r'"params":\{[^}]*seed":')  # a method's parameter that is called like one

Facts = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One run and its place: row label, column label, and the seeds that pair it with runs of other methods."""

    run: RunRow
    method: str
    setting: str
    seeds: tuple[int, ...]  # in the order of the configuration's keys


@dataclass(frozen=True)
class Arrangement:
    """The entries, one per method, setting and seeds; the order of rows and columns; what a reader should know."""

    entries: tuple[Entry, ...]
    methods: tuple[str, ...]
    settings: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Configuration:
    """A configuration without its seeds, taken apart; many runs share one."""

    method: str
    base: Facts  # the setting without budget and optimiser
    budget: Facts
    optimiser: Facts
    params: Facts
    setting: str = ""  # its label, once known

    @cached_property
    def variant(self) -> str:
        """Method and parameters as a key."""
        return canonical_json([self.method, self.params])


def arrange(runs: Iterable[RunRow], *, tuned: bool = False) -> Arrangement:
    """Rows, columns and seeds of the runs. Of runs that agree in all three the latest counts, finished ones first.

    tuned: optimiser and parameters were chosen for each method and setting, so that no note says that they differ.
    """
    ordered = sorted(runs, key=lambda run: run.id)
    keyed, found, rows = _read(ordered)
    label = {key: rows[config.variant] for key, config in found.items()}
    latest: dict[tuple[str, str, tuple[int, ...]], RunRow] = {}
    for run, key, seeds in keyed:
        place = (label[key], found[key].setting, seeds)
        if run.status == "done" or latest.get(place, run).status != "done":
            latest[place] = run
    entries = tuple(Entry(run, *place) for place, run in latest.items())
    kept = {run.id for run in latest.values()}
    repeated = [run for run in ordered if run.id not in kept]
    configs = list(found.values())
    notes = _budget_notes(configs, rows)
    if not tuned:
        notes += [*_optimiser_notes(configs, rows), *_parameter_notes(configs, rows)]
    notes += _unfinished(entries)
    if repeated:
        notes.append(f"repeated runs: only the latest is used; left out: {listed(repeated)}")
    order = {name: place for place, name in enumerate(METHODS)}
    methods = {rows[config.variant]: config.method for config in configs}
    return Arrangement(
        entries,
        tuple(sorted(methods, key=lambda row: (order.get(methods[row], len(order)), row))),
        tuple(dict.fromkeys(config.setting for config in configs)),
        tuple(notes),
    )


def lines(runs: Iterable[RunRow]) -> dict[int, Entry]:
    """By run: its place among the runs, repeated ones too, with the setting as short as tells lines of a figure apart.

    The setting is empty where all runs share it, and names the data only where they differ.
    """
    keyed, found, rows = _read(sorted(runs, key=lambda run: run.id))
    several = len({config.setting for config in found.values()}) > 1
    same = len({_identity(config.base) for config in found.values()}) == 1
    places = {}
    for run, key, seeds in keyed:
        config = found[key]
        told = config.setting.removeprefix(_identity(config.base)).strip() if same else config.setting
        places[run.id] = Entry(run, rows[config.variant], told if several else "", seeds)
    return places


@dataclass(frozen=True)
class AttackPlace:
    """Where a run under attack stands in a figure: its attack, its method with its defence, and its data."""

    attack: str
    method: str
    data: str = ""


def attack_places(runs: Sequence[RunRow]) -> dict[int, AttackPlace]:
    """By attacked run: its place; attack and method have the settings that tell them from others on the same data.

    Data is the data set with its partitioning scheme and skew, and empty where all runs share it.
    """
    configs = {run.id: taken_apart(run.config, run.kind) for run in runs}
    by_data: dict[str, list[RunRow]] = {}
    for run in runs:
        by_data.setdefault(_identity(configs[run.id].base), []).append(run)

    places: dict[int, AttackPlace] = {}
    for data, alike in by_data.items():
        facts = {run.id: _attack_facts(configs[run.id]) for run in alike}
        attacks = _told_apart({run.id: (_threat(run.config), facts[run.id][0]) for run in alike})
        methods = _told_apart({run.id: (_guarded(run), facts[run.id][1]) for run in alike})
        for run in alike:
            places[run.id] = AttackPlace(attacks[run.id], methods[run.id], data if len(by_data) > 1 else "")
    return {run.id: places[run.id] for run in runs}


def _told_apart(named: Mapping[int, tuple[str, Facts]]) -> dict[int, str]:
    """By run: its name, with the facts in which runs of the same name differ."""
    alike: dict[str, dict[int, Facts]] = {}
    for number, (name, facts) in named.items():
        alike.setdefault(name, {})[number] = facts

    labels: dict[int, str] = {}
    for name, own in alike.items():
        keys = differing_keys(list(own.values()))
        for number, facts in own.items():
            labels[number] = " ".join([name, *labelled(facts, keys)])
    return labels


def _threat(config: Facts) -> str:
    attack = config.get("attack", {})
    return str(attack["kind"]) if attack.get("attackers") or attack.get("malicious") else UNATTACKED


def _guarded(run: RunRow) -> str:
    return f"{run.method} + {run.config['defence']['defence']}" if "defence" in run.config else run.method


def _attack_facts(config: Configuration) -> tuple[Facts, Facts]:
    """What the rows of attacks differ in, and what the columns of methods do."""
    whole = config.base | config.budget | config.optimiser
    rows = {key: value for key, value in whole.items() if key.startswith("attack")}
    columns = config.params | {key: value for key, value in whole.items() if key not in rows}
    somebody = rows.get("attack.attackers") or rows.get("attack.malicious")
    return rows if somebody else {}, columns


def listed(runs: Sequence[RunRow]) -> str:
    """Their numbers; of many the first."""
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    return ", ".join(f"run{run.id}" for run in runs[:_SHOWN]) + more


def _read(
    ordered: Sequence[RunRow],
) -> tuple[list[tuple[RunRow, str, tuple[int, ...]]], dict[str, Configuration], dict[str, str]]:
    """Each run with the key of its configuration and its seeds, the configuration of each key, and labels of rows."""
    keyed, bare = configurations(ordered)
    found = dict(zip(bare, _settings(list(bare.values())), strict=True))
    return keyed, found, _methods(list(found.values()))


def configurations(
    ordered: Sequence[RunRow],
) -> tuple[list[tuple[RunRow, str, tuple[int, ...]]], dict[str, Configuration]]:
    """Each run with the key of its configuration and its seeds, and the configuration of each key, without a label."""
    keyed = [(run, *_key(run)) for run in ordered]
    first = {key: run for run, key, _ in reversed(keyed)}
    keys = dict.fromkeys(key for _, key, _ in keyed)
    return keyed, {key: taken_apart(first[key].config, first[key].kind) for key in keys}


def _key(run: RunRow) -> tuple[str, tuple[int, ...]]:
    """What runs of one configuration share, and the seeds in which they differ.

    Read off the stored text: of ten thousand runs a thousand may differ in more than seeds, and only these are parsed.
    """
    if _OWN_SEED.search(run.config_json):
        seeds: list[int] = []
        return repr((run.kind, _without_seeds(run.config, seeds))), tuple(seeds)
    pieces = _SEED.split(run.config_json)  # text, seed, text, seed, ..., text
    return run.kind + "".join(pieces[::2]), tuple(map(int, pieces[1::2]))


def _without_seeds(table: Mapping[str, Any], seeds: list[int]) -> Facts:
    """The table without its seeds, which are added to `seeds`. A method's own parameters stay as they are."""
    kept: Facts = {}
    for key, value in table.items():
        if isinstance(value, dict) and key != "params":
            kept[key] = _without_seeds(value, seeds)
        elif key == "seed" or key.endswith("_seed"):
            seeds.append(int(value))
        else:
            kept[key] = value
    return kept


def taken_apart(config: Mapping[str, Any], kind: str = "train") -> Configuration:
    """A stored configuration of a run of that kind without its seeds, by what its parts mean in a comparison."""
    bare = _without_seeds(config, [])
    params = dict(bare.pop("params", {}))
    facts = flatten(bare)

    budget = {key: facts[key] for key in BUDGET if key in facts}
    optimiser = {key: facts[key] for key in OPTIMISER if key in facts}
    idle = {f"partition.{name}" for name in ignored(str(facts.get("partition.scheme", "")))}
    apart = {*budget, *optimiser, *idle, *_APART}
    base = {key: value for key, value in facts.items() if key not in apart}
    if kind != "train":
        base["kind"] = kind

    own_step = base.pop(OWN_STEP, "auto")
    if own_step != "auto":  # a method with another last step is a row of its own, in the same setting
        params["own_step"] = own_step
    return Configuration(str(config.get("method", "")), base, budget, optimiser, dict(params))


# Columns


def _settings(items: Sequence[Configuration]) -> list[Configuration]:
    """The configurations, in their order, with the label of their setting."""
    found = [replace(item, setting=canonical_json(item.base)) for item in items]
    found = _split(found, lambda item: item.budget)
    found = _split(found, lambda item: item.optimiser)
    labels: dict[str, str] = {}
    for identity, alike in _grouped(found, lambda item: _identity(item.base)).items():
        labels |= _labels(identity, {item.setting: item.base for item in alike})
    return [replace(item, setting=labels[item.setting]) for item in found]


def _split(items: Sequence[Configuration], part: Callable[[Configuration], Facts]) -> list[Configuration]:
    """Settings in which one method has several of a part of the configuration become several settings."""
    several = set()
    for setting, group in _grouped(items, lambda item: item.setting).items():
        by_method = _values(group, lambda item: item.method, part)
        if any(len(values) > 1 for values in by_method.values()):
            several.add(setting)

    found = []
    for item in items:
        if item.setting in several:
            base = item.base | part(item)
            item = replace(item, base=base, setting=canonical_json(base))
        found.append(item)
    return found


def _identity(base: Facts) -> str:
    """Data set, scheme and skew: what settings are called by."""
    parts = [base.get("partition.dataset"), base.get("partition.scheme")]
    parts.append(base.get("partition.alpha"))
    return " ".join(written(part) for part in parts if part is not None) or "all runs"


def _labels(identity: str, settings: Mapping[str, Facts]) -> dict[str, str]:
    """Each setting's identity and what else tells it from the others of that identity."""
    differing = _telling(list(settings.values()))
    return {key: " ".join([identity, *labelled(base, differing)]) for key, base in settings.items()}


def _telling(facts: Sequence[Facts]) -> list[str]:
    """The keys that differ, without those that only say once more that a table is there: its name has said so."""
    differing = differing_keys(facts)
    constant = {key for key in differing if len({written(item[key]) for item in facts if key in item}) == 1}
    kept: list[str] = []
    for key in sorted(differing, key=lambda key: (key not in _HEADS, key in constant)):
        if key not in constant or _adds(facts, kept, key):
            kept.append(key)
    return [key for key in differing if key in kept]


def _adds(facts: Sequence[Facts], kept: Sequence[str], key: str) -> bool:
    """Whether some have the key and others do not that are alike in all of `kept`."""
    there: dict[tuple[str, ...], set[bool]] = {}
    for item in facts:
        there.setdefault(tuple(written(item.get(name)) for name in kept), set()).add(key in item)
    return any(len(found) > 1 for found in there.values())


# Rows


def _methods(items: Sequence[Configuration]) -> dict[str, str]:
    """The row label of every variant: the method alone, or with the parameters that tell its variants apart.

    Parameters chosen anew for each setting, one variant in each, make one row.
    """
    labels: dict[str, str] = {}
    for method, runs in _grouped(items, lambda item: item.method).items():
        variants = {item.variant: item.params for item in runs}
        several = any(len(own) > 1 for own in _values(runs, lambda i: i.setting, lambda i: i.params).values())
        differing = differing_keys(list(variants.values())) if several else []
        labels |= {key: " ".join([method, *labelled(params, differing)]) for key, params in variants.items()}
    return labels


# Notes


def _budget_notes(items: Sequence[Configuration], methods: Mapping[str, str]) -> list[str]:
    """One line for each budget that differs between the methods of a setting."""
    where = _unequal(items, methods, lambda item: item.budget)
    return [f"unequal budgets in {', '.join(settings)}: {text}" for text, settings in where.items()]


def _optimiser_notes(items: Sequence[Configuration], methods: Mapping[str, str]) -> list[str]:
    """One line for each setting of the optimiser that differs between the methods of a setting."""
    where = _unequal(items, methods, lambda item: item.optimiser)
    return [f"chosen for each method in {', '.join(settings)}: {text}" for text, settings in where.items()]


def _unequal(
    items: Sequence[Configuration], methods: Mapping[str, str], part: Callable[[Configuration], Facts]
) -> dict[str, list[str]]:
    """What differs in a part of the configuration, with the methods that have each value -> the settings."""
    where: dict[str, list[str]] = {}
    for setting, group in _grouped(items, lambda item: item.setting).items():
        for key in differing_keys([part(item) for item in group]):
            names: dict[str, set[str]] = {}
            for item in group:
                names.setdefault(written(part(item).get(key)), set()).add(methods[item.variant])
            where.setdefault(f"{short(key)} {by_value(names)}", []).append(setting)
    return where


def by_value(names: Mapping[str, Iterable[str]]) -> str:
    """0.05 (local); 0.1 (attn, fedavg)."""
    return "; ".join(f"{value} ({', '.join(sorted(having))})" for value, having in names.items())


def _parameter_notes(items: Sequence[Configuration], methods: Mapping[str, str]) -> list[str]:
    """One line for each row whose parameters are not the same in all settings."""
    notes = []
    for label, group in _grouped(items, lambda item: methods[item.variant]).items():
        keys = differing_keys(list({item.variant: item.params for item in group}.values()))
        told = []
        for key in keys:
            values = dict.fromkeys(written(item.params.get(key)) for item in group)
            told.append(f"{key} {', '.join(values)}")
        if told:
            notes.append(f"{label} has parameters of its own in each setting: {'; '.join(told)}")
    return notes


def _unfinished(entries: Iterable[Entry]) -> list[str]:
    runs = [entry.run for entry in entries if entry.run.status != "done"]
    told = [f"run{r.id} ({r.method}) {r.status} after round {r.rounds_done}" for r in runs[:_SHOWN]]
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    return [f"not finished: {', '.join(told)}{more}"] if runs else []


# Facts


def differing_keys(facts: Sequence[Facts]) -> list[str]:
    """The keys whose values are not the same everywhere, in order of appearance."""
    keys = dict.fromkeys(key for item in facts for key in item)
    absent = object()
    return [key for key in keys if any(item.get(key, absent) != facts[0].get(key, absent) for item in facts)]


def short(key: str) -> str:
    """train.lr as one types it: lr. The kind of an attack is the attack."""
    return "attack" if key == "attack.kind" else key.rpartition(".")[2]


def written(value: Any) -> str:
    """A setting's value in a label: 0.1, 1, cosine, none."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, (list, tuple)):
        return ",".join(map(written, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def labelled(facts: Facts, keys: Sequence[str]) -> list[str]:
    """key=value for each of the keys that is there; a last part that several keys share is written out."""
    ends = [short(key) for key in keys]
    names = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
    return [f"{names[key]}={written(facts[key])}" for key in keys if key in facts]


def _grouped(items: Iterable[Configuration], key: Callable[[Configuration], str]) -> dict[str, list[Configuration]]:
    groups: dict[str, list[Configuration]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _values(
    items: Iterable[Configuration], key: Callable[[Configuration], str], value: Callable[[Configuration], Facts]
) -> dict[str, set[str]]:
    """The different values under each key."""
    found: dict[str, set[str]] = {}
    for item in items:
        found.setdefault(key(item), set()).add(canonical_json(value(item)))
    return found
