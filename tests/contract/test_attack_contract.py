"""Attacks against methods, and defences with the methods that average, on real digits."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from itertools import product

import numpy as np
import pytest
import torch
from attacked import attacked, defended
from cover import members_in_turn, pairwise
from toys import models, play, staffed

from fltk import attacks, defences, engine, methods, partition
from fltk.config import PartitionConfig
from fltk.data import load
from fltk.engine.base import Job
from fltk.errors import UsageError
from fltk.hyper import Hyper, create, hypers, resolved
from fltk.names import ATTACKS, DEFENCES, METHODS
from fltk.partition.federation import Federation, build
from fltk.rounds import loop
from fltk.rounds.loop import RoundDone
from fltk.sweep.assault import NONE, refusal

MakeJob = Callable[..., Job]
BAD = (2, 5)
REGISTRIES = {"attack": (ATTACKS, attacks.attack_class), "defence": (DEFENCES, defences.defence_class)}
EVERY = [(registry, name) for registry, (names, _) in REGISTRIES.items() for name in names]
NUMBERS = ("int", "float", "int | None", "float | None")


@pytest.fixture(scope="session")
def crowd() -> Federation:
    """Nine clients in two groups, and newcomers from whose data a server may take a root set."""
    config = PartitionConfig(
        dataset="digits", subset=480, public=40, scheme="rotated", groups=2, clients=9, newcomers=2
    )
    dataset = load("digits", None, subset=config.subset)
    return build(dataset, partition.make(dataset, config))


# What they cut off stays with the model that there was.
CLIPPING = ("centered-clip", "dp-fedavg", "norm-clip", "fltrust", "signguard")


def fine(done: RoundDone, made: Job, rule: str = "") -> None:
    """What holds of a round whatever happened in it."""
    assert torch.isfinite(models(made, done.state)).all()
    assert done.map is not None
    for m in (*done.map.slices.values(), done.map.whole()):
        assert (m >= 0).all()
        total = m.double().sum(1)
        assert (total <= 1 + 1e-6).all()
        assert rule in CLIPPING or (total >= 1 - 1e-6).all()
    for vector in done.clients.values():
        assert vector.shape == (9,)


def check_attack(made: Job, kind: str) -> None:
    """A run under an attack without a defence: finite, and its numbers are of the clients that they name."""
    made = attacked(made, kind, malicious=BAD)
    done = play(made)
    for one in done:
        fine(one, made)
        for key in ("personal_test_acc", "benign_worst10_test_acc", "attacker_test_acc"):
            assert 0 <= one.scalars[key] <= 1, key
        assert ("benign_global_worst10_test_acc" in one.scalars) == ("global_test_acc" in one.scalars)
        assert 0 <= one.scalars["mal_weight_ratio"] <= 9 + 1e-9
        assert ("asr" in one.scalars) == (kind in ("badnets", "dba", "scale"))
    own = done[-1].clients["personal_test_acc"]
    benign = [i for i in range(9) if i not in BAD]
    assert done[-1].scalars["personal_test_acc"] == pytest.approx(float(np.mean(own[benign])), abs=1e-6)
    assert done[-1].scalars["attacker_test_acc"] == pytest.approx(float(np.mean(own[list(BAD)])), abs=1e-6)


def check_defence(made: Job, name: str, rule: str, kind: str, params: Mapping[str, object] | None = None) -> None:
    """A run with a defence under an attack: finite, and its trust lies in [0, 1]; or refused by name."""
    made = attacked(made, kind, params, malicious=BAD[:1])
    made = defended(made, rule, share=1 / 9)
    if refusal(name, rule):
        with pytest.raises(UsageError, match=f"--defence {rule}"):
            play(made)
        return
    for done in play(made):
        fine(done, made, rule)
        if "screen" in defences.defence_class(rule).forms[made.method.averages]:
            assert ((done.clients["trust"] >= 0) & (done.clients["trust"] <= 1)).all()


def families() -> dict[str, list[str]]:
    """Methods by what they average, which is all that attacks and defences know of them."""
    found: dict[str, list[str]] = {}
    for name in METHODS:
        cls = methods.method_class(name)
        family = "no average" if "defence" in cls.cannot else cls.averages
        found.setdefault(family, []).append(name)
    return found


FAMILIES = families()
UNDEFENDED = members_in_turn([(family, kind, NONE) for family in FAMILIES for kind in ATTACKS], FAMILIES)
COVER = members_in_turn(pairwise(list(FAMILIES), list(ATTACKS), list(DEFENCES)), FAMILIES)


@pytest.mark.parametrize(("method", "kind", "rule"), UNDEFENDED)
def test_every_attack_meets_every_way_of_averaging(
    method: str, kind: str, rule: str, make_job: MakeJob, crowd: Federation
) -> None:
    check_attack(make_job(method, crowd, eval_every=1), kind)


@pytest.mark.parametrize(("method", "kind", "rule"), COVER)
def test_attacks_methods_and_defences_go_together(
    method: str, kind: str, rule: str, make_job: MakeJob, crowd: Federation
) -> None:
    """Every pair of an attack, a defence and a way of averaging; all combinations are in the slow part."""
    check_defence(make_job(method, crowd, eval_every=1), method, rule, kind)


def test_the_cover_holds_every_method_and_every_pair() -> None:
    assert {method for method, _, _ in COVER} == set(METHODS)
    family_of = {name: family for family, names in FAMILIES.items() for name in names}
    for cover in (UNDEFENDED, COVER):
        assert {(family_of[method], kind) for method, kind, _ in cover} == set(product(FAMILIES, ATTACKS))
    assert {(family_of[method], rule) for method, _, rule in COVER} == set(product(FAMILIES, DEFENCES))
    assert {(kind, rule) for _, kind, rule in COVER} == set(product(ATTACKS, DEFENCES))


@pytest.mark.slow
def test_every_method_under_every_attack_and_with_every_defence(
    name: str, make_job: MakeJob, crowd: Federation
) -> None:
    made = make_job(name, crowd, eval_every=1)
    for kind in ATTACKS:
        check_attack(made, kind)
    for rule in DEFENCES:
        check_defence(made, name, rule, "sign-flip", {"lam": 3})
        for kind in ATTACKS:
            check_defence(made, name, rule, kind)


@pytest.mark.usefixtures("forked_workers")
def test_worker_processes_change_no_bit_of_an_attacked_run(make_job: MakeJob, crowd: Federation) -> None:
    """Poisoned data, other local settings and the server's own training are client work like any other."""
    made = attacked(make_job("attn", crowd, rounds=3, participation=0.8), "badnets", {"epochs": 2}, malicious=BAD)
    made = defended(made, "fltrust", share=2 / 9)
    pool = engine.make("process:2", made)
    try:
        staffed(pool)
        parallel = [done.digest for done in loop.rounds(made, pool)]
    finally:
        pool.close()
    assert parallel == [done.digest for done in play(made)]


@pytest.mark.parametrize(("registry", "name"), EVERY)
def test_a_name_leads_to_a_documented_class(registry: str, name: str) -> None:
    names, find = REGISTRIES[registry]
    cls = find(name)
    assert is_dataclass(cls)
    assert cls.title
    for h in hypers(cls):
        assert h.help, h.name
        assert h.kind in (*NUMBERS, "str"), h.name
    doc = importlib.import_module(names[name].partition(":")[0]).__doc__ or ""
    if "no paper of its own" not in doc.replace("\n", " ") and "fltk's own" not in doc:
        assert re.search(r"\b(19|20)\d\d\b", doc)
        assert re.search(r"arXiv:\d{4}\.\d{4,5}|IEEE|ICDCS|ICLR|NDSS", doc)


@pytest.mark.parametrize(("registry", "name"), EVERY)
def test_parameters_have_ranges_and_refuse_what_is_outside(registry: str, name: str) -> None:
    cls, option = REGISTRIES[registry][1](name), f"--set-{registry}"
    with pytest.raises(UsageError, match=f"{option}.*no_such_thing"):
        create(cls, name, {"no_such_thing": 1}, option)
    for h in hypers(cls):
        for value in outside(h):
            with pytest.raises(UsageError, match=f"{option} {h.name}="):
                create(cls, name, {h.name: value}, option)
    again = resolved(cls())
    assert create(cls, name, {k: str(v) for k, v in again.items()}, option) == cls()


def outside(h: Hyper) -> list[object]:
    """Inadmissible values of a parameter."""
    bad: list[object] = ["nonsense"]
    if not h.choices:
        bad += [float("nan")]
    if h.low is not None:
        bad += [h.low - 1]
    if h.high is not None:
        bad += [h.high + 1]
    return bad
