"""The file of a sweep: an experiment file in which any value may be a list or a distribution.

    method = ["local", "fedavg-ft", "ditto"]
    seed = [0, 1, 2]
    [partition]
    alpha = [0.1, 0.5]
    [train]
    lr = [0.02, 0.05]
    [for.ditto]                   # for one method: settings of train and its hyper-parameters
    params.lam = [0.1, 1.0]
    [[also]]                      # more cells; what is not named here is as above
    method = "oracle"
    train.lr = 0.05
    [random]                      # where a value is a distribution
    samples = 20

Lists multiply. Where settings meet, [[also]] wins over [for.METHOD], and that over the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from fltk import catalogue
from fltk.bounded import read_toml
from fltk.config import PartitionConfig, TrainConfig
from fltk.errors import UsageError, unknown

Value = int | float | bool | str
TABLES: Mapping[str, type] = {"partition": PartitionConfig, "train": TrainConfig}
TOP: Mapping[str, type] = {"method": str, "seed": int}
OWN_TABLES = {
    "random": ("samples", "seed"),
    "search": ("trials", "seed", "storage"),
    "evaluate": ("deploy", "deploy_prior", "deploy_w"),
}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}
DIGITS = 4  # significant ones of a drawn number, so that it can be typed again


@dataclass(frozen=True)
class Draw:
    """A distribution: `uniform`, `log_uniform` or `integers` over a span [low, high], or a `choice` of values."""

    kind: str
    values: tuple[Any, ...]

    def sample(self, rng: np.random.Generator) -> Value:
        """One value."""
        if self.kind == "choice":
            chosen: Value = self.values[int(rng.integers(len(self.values)))]
            return chosen
        low, high = self.values
        if self.kind == "integers":
            return int(rng.integers(low, high + 1))
        if self.kind == "uniform":
            return rounded(float(rng.uniform(low, high)))
        return rounded(math.exp(float(rng.uniform(math.log(low), math.log(high)))))


Choice = tuple[Value, ...] | Draw


@dataclass(frozen=True)
class Block:
    """The cells of one method: every combination of `lists`, for each draw of `draws`. Keys are such as train.lr."""

    method: str
    lists: Mapping[str, tuple[Value, ...]]
    draws: Mapping[str, Draw]


@dataclass(frozen=True)
class Plan:
    """What a file asks for. `samples` draws of each distribution, or `trials` of a search; 0 where there is none."""

    path: Path
    blocks: tuple[Block, ...]
    samples: int = 0
    trials: int = 0
    draw_seed: int = 0
    deploy: Mapping[str, str] | None = None
    storage: str = ""  # where Optuna keeps the trials of a search, as a URL; empty: beside the registry
    given: frozenset[str] = field(default_factory=frozenset)

    @property
    def name(self) -> str:
        """What the sweep is called: its runs carry the tag sweep=NAME."""
        return self.path.stem


def rounded(value: float) -> float:
    """The value with a few significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _methods_own(path: Path, tables: Any) -> dict[str, dict[str, Choice]]:
    """What the file says for one method, by its name."""
    found = {}
    for name, table in _table(tables, f"{path} [for]").items():
        where = f"{path} [for.{name}]"
        found[catalogue.spelled("method", name, where)] = _layer(_table(table, where), where, top=False)
    return found


def read(path: Path) -> Plan:
    """Read a file. Raises UsageError naming the place in it."""
    data = read_toml(path, str(path))
    known = {*TOP, *TABLES, "params", "for", "also", *OWN_TABLES}
    for key in data:
        if key not in known:
            raise _unknown(key, known, str(path))
    common = {key: value for key, value in data.items() if key in (*TOP, *TABLES, "params")}
    base = _layer(common, str(path))
    own = _methods_own(path, data.get("for", {}))
    entries = data.get("also", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: also is a list of tables, each headed [[also]]")
    also = [_layer(entry, f"{path} [[also]] {number}") for number, entry in enumerate(entries, 1)]
    blocks = [block for entry in ({}, *also) for block in _blocks(path, base, own, entry)]
    _check_methods(path, own, blocks)
    return _plan(path, data, blocks, frozenset(key for layer in (base, *own.values(), *also) for key in layer))


def _plan(path: Path, data: Mapping[str, Any], blocks: list[Block], given: frozenset[str]) -> Plan:
    """The file's blocks with what its other tables say about them."""
    tables = {name: _own(path, name, data[name]) for name in OWN_TABLES if name in data}
    if "random" in tables and "search" in tables:
        raise UsageError(f"{path}: [random] and [search] exclude each other; leave one of them out")
    samples = _count(path, tables, "random", "samples")
    trials = _count(path, tables, "search", "trials")
    _check_draws(path, blocks, samples, trials)

    deploy = tables.get("evaluate")
    asked = None if deploy is None else {key: str(value) for key, value in deploy.items()}
    return Plan(path, tuple(blocks), samples, trials, _draw_seed(path, tables), asked, _storage(path, tables), given)


def _check_draws(path: Path, blocks: Sequence[Block], samples: int, trials: int) -> None:
    """UsageError unless distributions and the number of draws come together."""
    drawn = [key for block in blocks for key in block.draws]
    asked = samples or trials
    if drawn and not asked:
        raise UsageError(f"{path}: {drawn[0]} is a distribution: say how often to draw with [random] and samples = 20")
    if asked and not drawn:
        example = "lr = { log_uniform = [0.001, 1.0] }"
        raise UsageError(f"{path}: [{'random' if samples else 'search'}] needs a distribution, such as {example}")


def _draw_seed(path: Path, tables: Mapping[str, Mapping[str, Any]]) -> int:
    """The seed of the draws, 0 where none is given."""
    table = tables.get("random") or tables.get("search") or {}
    seed = table.get("seed", 0)
    if type(seed) is not int or seed < 0:
        raise UsageError(f"{path}: seed must be a whole number from 0, not {seed!r}")
    return seed


def _storage(path: Path, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Where a search keeps its trials, as a URL; empty for its own place."""
    storage = tables.get("search", {}).get("storage", "")
    if not isinstance(storage, str) or (storage and "://" not in storage):
        raise UsageError(f"{path} [search]: storage is a URL such as sqlite:///trials.db, not {storage!r}")
    return storage


def _blocks(
    path: Path, base: Mapping[str, Choice], own: Mapping[str, Mapping[str, Choice]], entry: Mapping[str, Choice]
) -> list[Block]:
    """One block for each method of the file, or of one of its [[also]] entries."""
    methods = {**base, **entry}.get("method")
    if methods is None:
        raise UsageError(f'{path}: name a method or several at the top, such as method = ["local", "attn"]')
    if isinstance(methods, Draw):
        raise UsageError(f"{path}: method takes names, not a distribution")
    blocks = []
    for name in map(str, methods):
        method = catalogue.spelled("method", name, str(path))
        choices = {**base, **own.get(method, {}), **entry}
        del choices["method"]
        lists = {key: choice for key, choice in choices.items() if not isinstance(choice, Draw)}
        draws = {key: choice for key, choice in choices.items() if isinstance(choice, Draw)}
        if "seed" in draws or "partition.partition_seed" in draws:
            raise UsageError(f"{path}: seeds are numbers or lists of them, not a distribution")
        blocks.append(Block(method, {"seed": (0,), **lists}, draws))
    return blocks


def _check_methods(path: Path, own: Mapping[str, object], blocks: Iterable[Block]) -> None:
    used = {block.method for block in blocks}
    for name in own:
        if name not in used:
            raise UsageError(f"{path} [for.{name}]: the sweep has no {name}; add it to method, or leave this out")


def _layer(table: Mapping[str, Any], where: str, *, top: bool = True) -> dict[str, Choice]:
    """One table of settings as {"train.lr": choice, ...}; `top` admits method, seed and [partition]."""
    kinds: dict[str, Mapping[str, Any]] = {name: get_type_hints(cls) for name, cls in TABLES.items()}
    if not top:
        del kinds["partition"]
    allowed = {*(TOP if top else ()), *kinds, "params"}
    found: dict[str, Choice] = {}
    for key, value in table.items():
        if key not in allowed:
            raise _unknown(key, allowed, where)
        if key in TOP:
            found[key] = _choice(value, TOP[key], f"{where}: {key}")
            continue
        for name, item in _table(value, f"{where}: {key}").items():
            field_name = name.replace("-", "_")
            if key != "params" and field_name not in kinds[key]:
                raise unknown("setting", name, kinds[key], f"{where} [{key}]")
            if f"{key}.{field_name}" in found:
                raise UsageError(f"{where} [{key}]: {field_name} is given twice")
            kind = None if key == "params" else kinds[key][field_name]
            found[f"{key}.{field_name}"] = _choice(item, kind, f"{where} [{key}]: {name}")
    return found


def _unknown(key: str, known: Iterable[str], where: str) -> UsageError:
    """The error for a misplaced key says where it belongs."""
    for table, cls in TABLES.items():
        if table in known and key.replace("-", "_") in get_type_hints(cls):
            return UsageError(f"{where}: {key} belongs to a table: write {table}.{key}")
    return unknown("setting", key, known, where)


def _choice(value: Any, kind: type | None, where: str) -> Choice:
    """A single value or a list as a tuple of values, a table as a distribution."""
    if isinstance(value, dict):
        return _draw(value, kind, where)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UsageError(f"{where} is an empty list, which leaves no cell")
    return tuple(dict.fromkeys(_typed(item, kind, where) for item in values))


def _typed(value: Any, kind: type | None, where: str) -> Value:
    """The value in the type of its setting; hyper-parameters (None) are checked by their method."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind if kind is not None else type(value) not in KINDS:
        raise UsageError(f"{where} must be {KINDS[kind] if kind else 'a number, text, true or false'}, not {value!r}")
    checked: Value = value
    return checked


def _draw(table: Mapping[str, Any], kind: type | None, where: str) -> Draw:
    names = ("uniform", "log_uniform", "integers", "choice")
    example = "{ log_uniform = [0.001, 1.0] }"
    if len(table) != 1:
        raise UsageError(f"{where}: a distribution is a table with one key, such as {example}")
    ((given, values),) = table.items()
    name = given.replace("-", "_")
    if name not in names:
        raise unknown("distribution", given, names, where)
    if not isinstance(values, list) or not values:
        raise UsageError(f"{where}: {name} takes a list, such as {example}")
    if name == "choice":
        return Draw(name, tuple(_typed(item, kind, where) for item in values))
    numbers = int if name == "integers" else float
    if kind not in (None, numbers):
        hint = ", so use integers" if kind is int else ""
        raise UsageError(f"{where} must be {KINDS[kind]}{hint}, and cannot be drawn by {name}")
    span = tuple(_typed(item, numbers, where) for item in values)
    low = 0 if name == "log_uniform" else -math.inf
    if len(span) != 2 or not low < span[0] < span[1] < math.inf:  # type: ignore[operator]  # numbers by _typed
        above = " above 0" if name == "log_uniform" else ""
        raise UsageError(f"{where}: {name} takes a smallest and a largest value{above}, not {values}")
    return Draw(name, span)


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a table")
    return value


def _own(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    """One of the tables that are not settings of runs."""
    table = {key.replace("-", "_"): item for key, item in _table(value, f"{path}: {name}").items()}
    for key in table:
        if key not in OWN_TABLES[name]:
            raise unknown("setting", key, OWN_TABLES[name], f"{path} [{name}]")
    return table


def _count(path: Path, tables: Mapping[str, Mapping[str, Any]], name: str, key: str) -> int:
    if name not in tables:
        return 0
    count = tables[name].get(key)
    if type(count) is not int or count < 1:
        raise UsageError(f"{path} [{name}]: {key} must be a whole number from 1, not {count!r}")
    return count
