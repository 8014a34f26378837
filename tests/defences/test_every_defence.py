"""What every defence promises, and which of them hold against what."""

from __future__ import annotations

import re
import sys
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import random
from uploads import aggregate, equal, judge, merge, mixes, uploads

from fltk import defences
from fltk.names import DEFENCES
from fltk.protocol.averaging import KINDS, MIXED, ONE, weighted_sum

ALL = sorted(DEFENCES)
N, F = 15, 3  # with f < 3 the last scores of Bulyan are distances of pairs, which tie
QUIET = {"dp-fedavg": {"noise": 0.0, "clip": 1.0}}  # noise hides what is tested here

# settings under which a defence keeps everybody
MEANS: dict[str, dict[str, object]] = {
    "trimmed-mean": {},
    "multi-krum": {},
    "bulyan": {},
    "centered-clip": {"tau": 1e9, "iterations": 1},
    "norm-clip": {"limit": 1e9},
    "dnc": {},
    "bucketing": {"size": 3, "rule": "trimmed-mean"},
    "dp-fedavg": {"noise": 0.0, "clip": 1e9},
    "attention-trust": {},
}
# how far from the honest mean, in longest honest updates, three of fifteen may bring the model whatever they send
HOLDS = {
    "median": 1,
    "trimmed-mean": 1,
    "krum": 1,
    "multi-krum": 1,
    "bulyan": 1,
    "dnc": 1,
    "signguard": 1,
    "attention-trust": 1,
    "bucketing": 1,
    "centered-clip": 2,
    "norm-clip": 1,
    "fltrust": 1,
    "dp-fedavg": 2,
}


def a_round(seed: int = 0) -> tuple[Tensor, Tensor]:
    return uploads(N, 300, seed=seed)


@pytest.mark.parametrize("name", ALL)
def test_it_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    rule = defences.create(name, {})
    doc = sys.modules[type(rule).__module__].__doc__ or ""
    assert rule.title and type(rule).__doc__
    assert re.search(r"arXiv:\d|20\d\d|fltk's own", doc)
    assert set(rule.forms) <= set(KINDS) and rule.forms
    assert set(KINDS) <= set(rule.forms) | set(rule.refusals)
    assert all(f.metadata["help"] for f in fields(rule))
    with pytest.raises(FrozenInstanceError):
        rule.size = 1  # type: ignore[misc,attr-defined]


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_bits_and_nothing_is_changed_in_place(name: str) -> None:
    rows, start = a_round()
    before, state = (rows.clone(), start.clone()), torch.get_rng_state()
    one, other = (aggregate(name, rows, start, F, **QUIET.get(name, {})) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert torch.equal(rows, before[0]) and torch.equal(start, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert one[0].dtype == torch.float32 and one[0].shape == start.shape
    assert one[1].dtype == torch.float64 and one[1].shape == (N,)
    assert bool((one[1] >= 0).all()) and float(one[1].sum()) <= 1 + 1e-9


@pytest.mark.parametrize("name", MEANS)
def test_a_defence_that_keeps_everybody_is_the_mean(name: str) -> None:
    rows, start = a_round()
    mean = weighted_sum(list(rows), equal(N))
    row, used = aggregate(name, rows, start, 0, **MEANS[name])
    torch.testing.assert_close(row, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(used, equal(N), rtol=1e-9, atol=1e-9)
    if defences.create(name, {}).forms[ONE] == {"screen"}:
        assert torch.equal(row, mean)


@pytest.mark.parametrize("name", [n for n in ALL if n != "bucketing"])  # whose buckets go by position
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=5)
def test_relabelling_clients_relabels_their_weights_and_nothing_else(name: str, seed: int) -> None:
    rows, start = a_round(seed)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    one = aggregate(name, rows, start, F, **QUIET.get(name, {}))
    other = aggregate(name, rows[order], start, F, **QUIET.get(name, {}))
    torch.testing.assert_close(other[0], one[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other[1], one[1][order], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=5)
def test_a_shift_of_the_model_shifts_the_result(name: str, seed: int) -> None:
    rows, start = a_round(seed)
    shift = random(300, seed=seed + 9).round(decimals=3)
    one = aggregate(name, rows, start, F, **QUIET.get(name, {}))
    other = aggregate(name, rows + shift, start + shift, F, **QUIET.get(name, {}))
    torch.testing.assert_close(other[0] - shift, one[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in ALL if n != "dp-fedavg"])  # which divides by who was expected
def test_equal_uploads_come_back(name: str) -> None:
    rows, start = a_round()
    params = {"foolsgold": {}}.get(name, {})
    row, _ = aggregate(name, rows[:1].expand(N, -1), start, F, **params)
    torch.testing.assert_close(row, rows[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e2, 1e6, 1e15])
@pytest.mark.parametrize("name", HOLDS)
def test_three_of_fifteen_cannot_do_as_they_like(name: str, size: float) -> None:
    rows, start = a_round()
    honest = rows[:-F]
    reach = float((honest - start).norm(dim=1).max())
    for bad in (start + size * random(F, 300, seed=3), (start - size).expand(F, -1)):
        params = {"rule": "trimmed-mean"} if name == "bucketing" else QUIET.get(name, {})
        row, _ = aggregate(name, torch.cat([honest, bad]), start, F, **params)
        assert float((row.double() - honest.double().mean(0)).norm()) <= HOLDS[name] * reach


def test_the_mean_can_be_moved_anywhere_by_one() -> None:
    """What the defences are for."""
    rows, start = a_round()
    rows[-1] = start + 1e6
    assert float((weighted_sum(list(rows), equal(N)) - start).norm()) > 1e5


@pytest.mark.parametrize("name", [n for n in ALL if mixes(n)])
def test_a_row_of_a_map_with_one_entry_is_that_upload(name: str) -> None:
    rows, start = a_round()
    one = merge(defences.create(name, {}), rows[:1], start, torch.ones(1, dtype=torch.float64))
    assert torch.equal(one.row, rows[0])
    torch.testing.assert_close(one.used, torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("name", [n for n in ALL if mixes(n)])
def test_rows_of_a_map_count_by_their_weights(name: str) -> None:
    """Two copies of a client with half of its weight each are one client."""
    rows, start = uploads(5, 40)
    a = torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1], dtype=torch.float64)
    twice = torch.cat([rows, rows[1:2]])
    split = torch.tensor([0.3, 0.125, 0.2, 0.15, 0.1, 0.125], dtype=torch.float64)
    params = {"centered-clip": {"tau": 0.5}}.get(name, {})
    one = merge(defences.create(name, params), rows, start, a)
    other = merge(defences.create(name, params), twice, start, split)
    torch.testing.assert_close(other.row, one.row, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_what_survives_a_round_is_tensors(name: str) -> None:
    rows, start = a_round()
    rule = defences.create(name, {})
    for kind, form in rule.forms.items():
        state = {}
        for t in range(2):
            if "screen" in form:
                root = (rows.mean(0) - start).expand(N, -1) if rule.needs_root else None
                found = judge(rule, rows, start, state, f=F, round=t, kind=kind, root=root)
                assert all(isinstance(value, Tensor) for value in found.state.values())
                assert bool(((found.trust >= 0) & (found.trust <= 1)).all())
                state = dict(found.state)
        assert kind in KINDS
    if mixes(name):
        assert "combine" in rule.forms[MIXED]
