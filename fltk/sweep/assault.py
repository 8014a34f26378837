"""Cells of attacked runs: attacks x methods x defences x seeds on one configuration, each beside its clean twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fltk import attacks, defences, methods
from fltk.config import AttackConfig, DefenceConfig, PartitionConfig, RunConfig
from fltk.defences.guard import NAMES
from fltk.errors import UsageError, unknown
from fltk.experiment import Place, Prepared, foresee, job_of, prepare
from fltk.hyper import hypers
from fltk.registry import Store
from fltk.rounds import checks
from fltk.sweep.cells import Cell
from fltk.sweep.play import Errand, Event, Tell
from fltk.sweep.state import CHANGED, DONE, FAILED, RUNNING, CellState, states
from fltk.sweep.workers import send

NONE = "none"


@dataclass(frozen=True)
class Assault:
    """What is asked: lists of names, and the settings that they share. Kinds and defences may be `none`.

    params: hyper-parameters of the methods that have any of their own (else the methods' defaults).  given: the
    settings that a user named, keyed like attack.malicious.
    """

    base: RunConfig
    kinds: tuple[str, ...]
    methods: tuple[str, ...]
    defences: tuple[str, ...]
    seeds: tuple[int, ...]
    params: Mapping[str, Mapping[str, Any]]
    attack: AttackConfig
    attack_params: Mapping[str, Any]
    defence: DefenceConfig
    defence_params: Mapping[str, Any]
    given: frozenset[str]


@dataclass(frozen=True)
class Cells:
    """Clean twins, attacked cells, and what is refused: (method, defence) -> why."""

    clean: tuple[Cell, ...]
    attacked: tuple[Cell, ...]
    refused: Mapping[tuple[str, str], str]


def cells(asked: Assault, place: Place) -> Cells:
    """All cells, equal ones once. UsageError for a name or setting that does not exist."""
    clean: dict[str, Cell] = {}
    attacked: dict[str, Cell] = {}
    refused: dict[tuple[str, str], str] = {}
    _check_params(asked.kinds, asked.attack_params, attacks.attack_class, "attack", "--set-attack")
    _check_params(asked.defences, asked.defence_params, defences.defence_class, "defence", "--set-defence")
    for seed in asked.seeds:
        for method in asked.methods:
            twin = _clean(asked, method, seed, place)
            clean[twin.digest] = twin
            for defence, config in _threatened(asked, twin.config):
                why = refusal(method, defence)
                if why:
                    refused[method, defence] = why
                    continue
                config = foresee(config, place)
                found = Cell(config, config.digest(), asked.given, twin.digest, "flag")
                attacked[found.digest] = found
    return Cells(tuple(clean.values()), tuple(attacked.values()), refused)


def refusal(method: str, defence: str) -> str:
    """Why a method cannot have a defence; empty where it can."""
    if defence == NONE:
        return ""
    cls, rule = methods.method_class(method), defences.defence_class(defence)
    if "defence" in cls.cannot:
        return cls.cannot["defence"]
    kind = cls.averages
    if rule.private and cls.beside:
        return f"clients also send {cls.beside}, which it neither clips nor hides"
    return "" if rule.forms.get(kind) else rule.refusals.get(kind, f"it has no form for {NAMES[kind]}")


def _clean(asked: Assault, method: str, seed: int, place: Place) -> Cell:
    """The run without attackers and defence. The partition's seed follows the run's where it did in the base."""
    base = asked.base
    partition = base.partition
    if partition.partition_seed == base.seed:
        partition = replace(partition, partition_seed=seed)
    config = foresee(RunConfig(partition, base.train, method, asked.params.get(method, {}), seed), place)
    return Cell(config, config.digest(), asked.given, source="flag")


def _threatened(asked: Assault, clean: RunConfig) -> Iterator[tuple[str, RunConfig]]:
    """The same run with each attack and defence, both `none` left out."""
    for kind in asked.kinds:
        for defence in asked.defences:
            if kind == defence == NONE:
                continue
            attack = AttackConfig() if kind == NONE else replace(asked.attack, kind=kind)
            guard = DefenceConfig() if defence == NONE else replace(asked.defence, defence=defence)
            yield (
                defence,
                replace(
                    on_guard(clean, asked.given),
                    attack=attack,
                    attack_params={} if kind == NONE else _own(attacks.attack_class(kind), asked.attack_params),
                    defence=guard,
                    defence_params={}
                    if defence == NONE
                    else _own(defences.defence_class(defence), asked.defence_params),
                ),
            )


def on_guard(config: RunConfig, given: frozenset[str]) -> RunConfig:
    """The configuration with what its method does by default where malicious clients are expected.

    given: the settings that a user named, which stay.
    """
    own = methods.method_class(config.method).on_guard
    wanted = {k: v for k, v in own.items() if f"params.{k}" not in given}
    try:
        methods.create(config.method, {**config.params, **wanted})
    except UsageError:  # a setting of the run rules it out
        return config
    return replace(config, params={**config.params, **wanted})


def _own(cls: type[Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the parameters that a class has."""
    known = {h.name for h in hypers(cls)}
    return {key: value for key, value in params.items() if key in known}


def _check_params(
    names: Sequence[str], params: Mapping[str, Any], find: Callable[[str], type[Any]], what: str, option: str
) -> None:
    """Names must exist, and each parameter must belong to one of them."""
    classes = [find(name) for name in names if name != NONE]
    known = {h.name for cls in classes for h in hypers(cls)}
    for key in params:
        if key not in known:
            few = ", ".join(name for name in names if name != NONE)
            if not few:
                raise UsageError(f"{option} {key}: there is no {what} to set it of; name one, or leave it out")
            if not known:
                raise UsageError(f"{option}: {few} has no parameters, so {key!r} cannot be set")
            raise unknown(f"parameter of {few}", key, known, option)


@dataclass(frozen=True)
class Outcome:
    """What could not be played, by digest: refused before anything was trained, or failed on the way."""

    refused: Mapping[str, str]
    failed: Mapping[str, str]


def run(
    found: Cells,
    db: str,
    place: Place,
    *,
    name: str = "",
    jobs: int = 1,
    tell: Tell = lambda event: None,
    announce: Callable[[Sequence[CellState]], None] = lambda cells: None,
) -> Outcome:
    """Play what the registry does not have yet, clean twins first.

    Everything is checked before anything is trained. UsageError where nothing is left to attack.
    """
    failed: dict[str, str] = {}

    def hear(event: Event) -> None:
        if event.kind == FAILED:
            failed[event.digest] = event.message
        tell(event)

    with Store(db, create=True) as store:
        new = [state.cell for state in states(store, found.attacked) if state.run is None]
        refused = refusals(new, store, place)
        attacked = [cell for cell in found.attacked if cell.digest not in refused]
        if refused and not attacked:
            raise UsageError(next(iter(refused.values())))
        twins = {cell.twin for cell in attacked}
        clean = [cell for cell in found.clean if cell.digest in twins]
        announce(states(store, [*clean, *attacked]))
        for group in (clean, attacked):
            left = [state.cell for state in states(store, group) if state.state not in (DONE, CHANGED, RUNNING)]
            send([Errand(cell) for cell in left], store, db, place, name, jobs, hear)
    return Outcome(refused, failed)


def refusals(attacked: Sequence[Cell], store: Store, place: Place) -> dict[str, str]:
    """Why cells cannot be, by digest: what method, attack, defence and data say together."""
    found: dict[str, str] = {}
    prepared: dict[PartitionConfig, Prepared] = {}
    for cell in attacked:
        asked = cell.config.partition
        if asked not in prepared:
            prepared = {asked: prepare(asked, place, store)}  # one at a time: cells of one seed come together
        job = job_of(cell.config, prepared[asked].federation)
        try:
            checks.check(job, job.task())
        except UsageError as error:
            found[cell.digest] = str(error)
    return found


def standing(found: Cells, store: Store) -> list[CellState]:
    """How all cells stand, clean twins first."""
    return states(store, [*found.clean, *found.attacked])
