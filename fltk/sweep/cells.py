"""Cells: the configurations that a plan comes to, as they will be stored and hashed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from fltk import methods
from fltk.config import IMPORT_SETTLES, PartitionConfig, RunConfig, TrainConfig, build, canonical_json
from fltk.data.dataset import stream
from fltk.errors import UsageError, unknown
from fltk.experiment import Place, foresee
from fltk.sweep.grid import Block, Plan, Value

LIMIT = 100_000
THREATS = ("attack", "attack_params", "defence", "defence_params")  # tables of cells with attackers or a defence


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its resolved configuration, the hash by which the registry knows it, and which of its
    settings were named, and where (`source`: file, flag).

    twin: the hash of the run without attackers and defence, in cells that have them.
    """

    config: RunConfig
    digest: str
    given: frozenset[str]
    twin: str = ""
    source: str = "file"

    def flat(self) -> dict[str, Any]:
        """All settings, keyed like train.lr."""
        nested = self.config.to_dict()
        known = ("partition", "train", "params", *THREATS)
        tables = {f"{name}.{key}": v for name in known for key, v in nested.get(name, {}).items()}
        return {"method": self.config.method, "seed": self.config.seed, **tables}

    def origin(self) -> dict[str, str]:
        """Where each setting came from, as the registry stores it."""
        return {key: self.source if key in self.given else "default" for key in self.flat()}


def cells(plan: Plan, place: Place) -> list[Cell]:
    """The cells of a grid or of random draws, those on the same data one after another; equal ones once.

    Draw k of a setting is the same for all methods, seeds and lists that it meets, so that comparisons are paired.
    """
    count = sum(math.prod(map(len, b.lists.values())) * (plan.samples if b.draws else 1) for b in plan.blocks)
    if count > LIMIT:
        raise UsageError(f"{plan.path}: {count} cells are too many (at most {LIMIT}); shorten its lists")
    found = {cell.digest: cell for block in plan.blocks for cell in _cells(plan, block, place)}
    order: dict[str, list[Cell]] = {}
    for cell in found.values():
        order.setdefault(canonical_json(cell.config.to_dict()["partition"]), []).append(cell)
    return [cell for group in order.values() for cell in group]


def _cells(plan: Plan, block: Block, place: Place) -> Iterator[Cell]:
    drawn: list[dict[str, Value]] = [{}]
    if block.draws:
        drawn = [
            {key: draw.sample(stream(plan.draw_seed, f"sweep/{key}", k)) for key, draw in block.draws.items()}
            for k in range(plan.samples)
        ]
    for values in combinations(block.lists):
        for draws in drawn:
            yield cell(plan, block.method, {**values, **draws}, place)


def combinations(lists: Mapping[str, tuple[Value, ...]]) -> Iterator[dict[str, Value]]:
    """Every combination of the lists' values, the first list slowest."""
    for values in itertools.product(*lists.values()):
        yield dict(zip(lists, values, strict=True))


def cell(plan: Plan, method: str, values: Mapping[str, Value], place: Place) -> Cell:
    """The cell of a method with the given settings; UsageError for what is inadmissible, naming the file."""
    params = {key.removeprefix("params."): value for key, value in values.items() if key.startswith("params.")}
    known = {h.name for h in methods.hypers(methods.method_class(method))}
    for name in params:
        if name not in known:
            where = f"{plan.path} [for.{method}]: params"
            if not known:
                raise UsageError(f"{where}: {method} has no hyper-parameters, so {name!r} cannot be set")
            raise unknown(f"hyper-parameter of {method}", name, known, where)
    try:
        config = RunConfig(
            partition=_partition(values),
            train=build(TrainConfig, _part(values, "train")),
            method=method,
            params=params,
            seed=int(values["seed"]),
        )
        config = foresee(config, place)
    except UsageError as error:
        raise UsageError(f"{plan.path}: {error}") from error
    given = frozenset({"method", *(key for key in values if key in plan.given)})
    return Cell(config, config.digest(), given)


def _partition(values: Mapping[str, Value]) -> PartitionConfig:
    """The partition's seed follows the run's, and an imported federation keeps all its clients, unless told."""
    part = {"partition_seed": values["seed"], **_part(values, "partition")}
    if part.get("from_pfllib"):
        settled = [key for key in part if key in IMPORT_SETTLES]
        if settled:
            raise UsageError(f"[partition] {settled[0]} does not go with from_pfllib, whose folder settles it")
        part = {"newcomers": 0, **part}
    config: PartitionConfig = build(PartitionConfig, part)
    return config


def _part(values: Mapping[str, Value], table: str) -> dict[str, Value]:
    return {key.removeprefix(f"{table}."): v for key, v in values.items() if key.startswith(f"{table}.")}


def varied(found: Iterable[Cell]) -> list[str]:
    """The settings in which the cells differ: of data and training among all, hyper-parameters within a method."""
    seen: dict[tuple[str, str], set[str]] = {}
    for one in found:
        for key, value in one.flat().items():
            of = one.config.method if key.startswith("params.") else ""
            seen.setdefault((key, of), set()).add(repr(value))
    order = [
        f"{table}.{f.name}"
        for table, cls in (("partition", PartitionConfig), ("train", TrainConfig))
        for f in fields(cls)
    ]
    keys = dict.fromkeys(key for (key, _), values in seen.items() if len(values) > 1 and key not in ("method", "seed"))
    hypers = sorted(key for key in keys if key.startswith(("params.", *(f"{name}." for name in THREATS))))
    return [key for key in (*order, *hypers) if key in keys and key != "partition.partition_seed"]
