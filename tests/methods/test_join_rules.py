"""How a newcomer joins, method by method, against the rule written out; and how states grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import federation, job, models, play, random

from fltk.attention.tokens import similarity
from fltk.engine.base import Bench, Job
from fltk.methods.fedamp import squared_distances
from fltk.partition.federation import ClientData
from fltk.protocol.messages import Joined
from fltk.protocol.state import State, enlarged

N = 4
ROUNDS = 3


def newcomer(seed: int = 7, group: int | None = None) -> ClientData:
    """A client with data of its own, behind the four of the toy federation."""
    return replace(federation(seed=seed).clients[1], id=N, group=group)


def met(
    method: str, params: Mapping[str, Any] | None = None, client: ClientData | None = None, **train: Any
) -> tuple[Job, State, Joined]:
    """A toy run, its last state, and what a newcomer gets from it."""
    made = job(method, params, rounds=ROUNDS, **train)
    state = play(made)[-1].state
    trainer = Bench(made).trainer.at(0, N)
    return made, state, made.method.join(state, client or newcomer(), trainer, made.task())


def trained(made: Job, w: Tensor, client: ClientData | None = None, **how: Any) -> Tensor:
    """One local training of the newcomer, at the place where it joins."""
    return Bench(made).trainer.at(0, N).sgd(w, (client or newcomer()).train, **how)


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "scaffold"])
def test_the_global_model_is_taken_as_it_is(method: str) -> None:
    made, state, got = met(method)
    assert torch.equal(got.arrival, state.server["w"]) and torch.equal(got.model, state.server["w"])
    assert got.row is not None and torch.equal(got.row, state.server["p"])
    assert (got.down, got.up) == (4 * made.task().layout.size, 0)


def test_fedavg_with_fine_tuning_takes_its_own_last_step() -> None:
    made, state, got = met("fedavg-ft")
    assert torch.equal(got.arrival, state.server["w"])
    assert torch.equal(got.model, trained(made, state.server["w"], epochs=10, only="head"))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_local_is_what_the_newcomer_would_have_become_among_the_others(schedule: str) -> None:
    """Bit for bit: alone, it makes no difference when the others met it."""
    made, _, got = met("local", lr_schedule=schedule)
    data = federation(sizes=(12, 23, 8, 17, 19))
    client = data.clients[N]
    always = job("local", rounds=ROUNDS, data=data, lr_schedule=schedule)
    own = models(always, play(always)[-1].state)[N]
    _, _, got = met("local", client=client, lr_schedule=schedule)
    assert torch.equal(got.model, own) and torch.equal(got.arrival, made.task().w0)
    assert (got.down, got.up, got.row) == (0, 0, None)


def test_fedper_trains_a_fresh_head_on_the_shared_base() -> None:
    made, state, got = met("fedper")
    layout = made.task().layout
    for w in (got.arrival, got.model):
        assert torch.equal(layout.take(w, "base"), state.server["w"])
    assert torch.equal(layout.take(got.arrival, "head"), layout.take(made.task().w0, "head"))
    assert torch.equal(got.model, trained(made, got.arrival, epochs=10, only="head"))
    assert (got.down, got.up) == (4 * layout.width("base"), 0)


def test_fedper_without_a_private_head_is_fedavg() -> None:
    _, _, got = met("fedper", {"head_layers": 0})
    _, _, fedavg = met("fedavg")
    assert torch.equal(got.model, fedavg.model) and got.down == fedavg.down


@pytest.mark.parametrize("lam", [0.0, 0.7])
def test_ditto_starts_the_personal_model_from_the_global_one(lam: float) -> None:
    made, state, got = met("ditto", {"lam": lam})
    w = state.server["w"]
    assert torch.equal(got.arrival, w)
    assert torch.equal(got.model, trained(made, w, pull=(w, lam))) and torch.equal(got.own["v"], got.model)
    assert (float(got.own["pulled"]) == 0) == (lam == 0)


def test_ifca_takes_the_model_with_the_lowest_training_loss() -> None:
    made, state, got = met("ifca", {"clusters": 3})
    bench = Bench(made)
    losses = [bench.trainer.score(w, newcomer().train).loss for w in state.server["models"]]
    k = losses.index(min(losses))
    assert torch.equal(got.model, state.server["models"][k]) and int(got.own["choice"]) == k
    assert got.down == 3 * 4 * made.task().layout.size
    weight = [
        sum(int(n) for n, c in zip(made.task().n, state.client["choice"], strict=True) if c == m) for m in range(3)
    ]
    assert torch.equal(got.arrival, state.server["models"][weight.index(max(weight))])


def test_ifca_says_when_nobody_has_trained_the_best_model() -> None:
    made, state, _ = met("ifca", {"clusters": 2})
    alone = replace(state, server={**state.server, "rows": torch.zeros_like(state.server["rows"])})
    got = made.method.join(alone, newcomer(), Bench(made).trainer.at(0, N), made.task())
    assert got.row is None and "no client ever chose" in got.note


def test_oracle_knows_the_group() -> None:
    for g in (0, 1):
        made, state, got = met("oracle", client=newcomer(group=g))
        assert torch.equal(got.model, state.server["models"][g]) and torch.equal(got.arrival, got.model)
        assert got.row is not None and torch.equal(got.row, state.server["rows"][g])
        assert not got.note and got.down == 4 * made.task().layout.size


@pytest.mark.parametrize("group", [None, 2])
def test_oracle_has_nothing_for_an_unknown_group(group: int | None) -> None:
    made, _, got = met("oracle", client=newcomer(group=group))
    assert torch.equal(got.model, made.task().w0)
    assert got.row is None and got.down == 0 and "the initial model" in got.note


def fedamp_row(rows: Tensor, share: float) -> list[float]:
    """xi_*j of the paper's kernel with median scale, by hand, for the last row."""
    k = len(rows)
    d = squared_distances(rows)
    unit = d[~torch.eye(k, dtype=torch.bool)].quantile(0.5)
    xi = [float(torch.exp(-d[-1, j] / unit)) * share / (k - 1) for j in range(k - 1)]
    return [*xi, 1 - sum(xi)]


def heurfedamp_row(rows: Tensor, origin: Tensor, sigma: float, own: float) -> list[float]:
    cos = similarity(rows, origin)[-1]
    e = [float(torch.exp(sigma * cos[j])) for j in range(len(rows) - 1)]
    return [*((1 - own) * x / sum(e) for x in e), own]


@pytest.mark.parametrize("method", ["fedamp", "heurfedamp"])
def test_mixtures_give_the_newcomer_a_row_of_its_own(method: str) -> None:
    made, state, got = met(method)
    w0 = made.task().w0
    own = trained(made, w0)
    rows = torch.cat([state.client["w"], own[None]])
    xi = fedamp_row(rows, 0.9) if method == "fedamp" else heurfedamp_row(rows, w0, 10.0, 0.3)
    expected = sum(x * row.double() for x, row in zip(xi, rows, strict=True))
    assert isinstance(expected, Tensor) and got.row is not None
    torch.testing.assert_close(got.model.double(), expected, rtol=0, atol=1e-6)
    assert got.self_weight == pytest.approx(xi[-1])
    torch.testing.assert_close(got.row * (1 - got.self_weight), torch.tensor(xi[:-1], dtype=torch.float64))
    assert got.down == got.up == 4 * made.task().layout.size


@pytest.mark.parametrize("method", ["fedamp", "heurfedamp"])
def test_mixtures_look_only_at_clients_that_have_a_model(method: str) -> None:
    made, state, _ = met(method)
    last = state.last.clone()
    last[2] = -1
    noisy = {**state.client, "w": state.client["w"].clone()}
    noisy["w"][2] = 1e6
    got = made.method.join(State(state.server, noisy, last), newcomer(), Bench(made).trainer.at(0, N), made.task())
    assert got.row is not None and float(got.row[2]) == 0
    assert float(got.model.abs().max()) < 100 and float(got.arrival.abs().max()) < 100


def test_growing_keeps_the_leading_block() -> None:
    old, new = random(3, 3), torch.eye(5)
    out = enlarged(old, new, 3, 5)
    assert torch.equal(out[:3, :3], old) and torch.equal(out[3:], new[3:]) and torch.equal(out[:3, 3:], new[:3, 3:])
    assert torch.equal(new, torch.eye(5))


def test_growing_without_a_model_to_follow_fills_with_zeros() -> None:
    old = random(3, 7)
    out = enlarged(old, None, 3, 5)
    assert out.shape == (5, 7) and torch.equal(out[:3], old) and not out[3:].any()
    assert torch.equal(enlarged(random(7), None, 3, 5), random(7))
