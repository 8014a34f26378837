"""A guard's calls in a round: streams of their own, and one Gram matrix for all targets of mixed rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attacked import attacked, defended
from toys import federation, job, play, random

from fltk import defences
from fltk.defences.base import Combined, Facts
from fltk.defences.bucketing import Bucketing
from fltk.defences.centered_clip import CenteredClip
from fltk.defences.guard import DefenceRun
from fltk.engine.base import Bench, Job
from fltk.memory import products
from fltk.memory.products import Gram, gram
from fltk.methods import layerwise
from fltk.methods.layerwise import defended as mixed
from fltk.protocol.averaging import MIXED, weighted_sum
from fltk.protocol.messages import Upload
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.verdict import rows_left
from fltk.rounds import terms
from fltk.train.streams import Streams
from fltk.train.trainer import Trainer

GROUPS = federation(sizes=[12] * 8, groups=(0, 0, 0, 0, 1, 1, 1, 1))


def streams_of(name: str, hook: str, method: str, monkeypatch: pytest.MonkeyPatch) -> dict[int, list[int]]:
    """Round -> where the generator of every call of a defence stands at first."""
    seen: dict[int, list[int]] = {}
    cls = defences.defence_class(name)
    real = getattr(cls, hook)

    def spy(self, rows, *rest):  # type: ignore[no-untyped-def]
        told = next(a for a in rest if isinstance(a, Facts))
        seen.setdefault(told.round, []).append(told.generator.initial_seed())
        return real(self, rows, *rest)

    monkeypatch.setattr(cls, hook, spy)
    play(defended(job(method, data=GROUPS, rounds=3), name, share=0.0))
    return seen


@pytest.mark.parametrize(("name", "hook"), [("bucketing", "combine"), ("dnc", "screen"), ("signguard", "screen")])
def test_every_group_of_a_round_draws_from_a_stream_of_its_own(
    name: str, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = streams_of(name, hook, "oracle", monkeypatch)
    calls = [seed for seeds in first.values() for seed in seeds]
    assert len(first) == 3
    assert len(set(calls)) == len(calls)
    assert max(len(seeds) for seeds in first.values()) == 2  # the two groups, once their models have parted
    monkeypatch.undo()
    assert streams_of(name, hook, "oracle", monkeypatch) == first


def test_two_clusters_are_dealt_into_buckets_in_two_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters of equal size: before, both had the same permutation in every round."""
    dealt: list[tuple[int, ...]] = []
    real = torch.randperm

    def spy(n: int, *, generator: torch.Generator) -> torch.Tensor:
        order = real(n, generator=generator)
        dealt.append(tuple(order.tolist()))
        return order

    made = job("oracle", data=GROUPS, rounds=8)
    honest = Bucketing.combine

    def combine(self: Bucketing, *args, **kwargs) -> Combined:  # type: ignore[no-untyped-def]
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randperm", spy)
            return honest(self, *args, **kwargs)

    monkeypatch.setattr(Bucketing, "combine", combine)
    play(defended(made, "bucketing", share=0.0))
    assert len(dealt) == 16
    assert any(dealt[k] != dealt[k + 1] for k in range(0, 16, 2))


@pytest.mark.parametrize(("method", "name"), [("oracle", "bucketing"), ("ifca", "dnc"), ("fedavg", "dp-fedavg")])
def test_a_resumed_run_draws_what_the_run_would_have_drawn(method: str, name: str) -> None:
    made = attacked(defended(job(method, data=GROUPS, rounds=4), name, share=0.0), "sign-flip", malicious=(1,))
    whole = play(made)
    stored = type(whole[1].state).from_tensors({k: v.clone() for k, v in whole[1].state.tensors().items()})
    assert [r.digest for r in play(made, resume=(2, stored))] == [r.digest for r in whole][2:]


# Mixed rows


def guard(name: str, n: int, d: int, share: float = 0.2, **params: object) -> DefenceRun:
    return DefenceRun(defences.create(name, params), MIXED, share, False, d, Streams(1), n)


def cohort(n: int = 6, p: int = 40, far: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, current models (n, p), and a map (n, n) without equal rows; the first client is `far` times as far out."""
    rows = 3 + random(n, p, seed=1)
    rows[0] *= far
    return rows, 3 + random(n, p, seed=2), torch.softmax(random(n, n, seed=3).double(), 1)


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "rfa", "centered-clip"])
def test_targets_that_share_their_products_get_what_each_gets_alone(name: str) -> None:
    """u_i = rule({w_j}, A_i), from o_i; two rounds, so that what a rule remembers counts."""
    rows, current, a = cohort(far=1e4)
    n, d = len(rows), 36  # four columns are buffers
    shared, alone = (guard(name, n, d) for _ in range(2))
    context = Server(0, job("fedavg", data=federation(sizes=[12] * n)).task())
    left: dict[str, torch.Tensor] = {}
    kept: dict[str, torch.Tensor] = {}
    for round in range(2):
        watch = shared.watch(round, range(n), list(rows), list(current), torch.ones(n) / n, left)
        got = mixed(a[None], rows, [((0, rows.shape[1]),)], _with(context, watch), lambda: list(current))
        other = alone.watch(round, range(n), list(rows), list(current), torch.ones(n) / n, kept)
        assert got.rows is not None
        for i in range(n):
            row, used = other.apply(
                list(rows),
                a[i],
                list(range(n)),
                current[i],
                f"part0-client{i}",
                lambda r, p, ids: weighted_sum(r, p),
                d,
            )
            torch.testing.assert_close(got.rows[i], row, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(got.maps[0, i], used, rtol=1e-6, atol=1e-9)
        left, kept = watch.left, other.left


def test_targets_that_have_become_alike_keep_what_each_remembers() -> None:
    """Two targets with other models come to the same one; from then on they differ in their last updates v alone."""
    n, d = 4, 12
    rows, current = random(n, d, seed=1), random(n, d, seed=2)
    a = torch.full((n, n), 1 / n, dtype=torch.float64)
    context = Server(0, job("fedavg", data=federation(sizes=[12] * n)).task())
    left: dict[str, torch.Tensor] = {}
    for tau in (1e9, 0.1):
        wary = guard("centered-clip", n, d, tau=tau)
        watch = wary.watch(0, range(n), list(rows), list(current), torch.ones(n) / n, left)
        models = list(current)
        got = mixed(a[None], rows, [((0, d),)], _with(context, watch), lambda models=models: models)
        assert got.rows is not None
        alone = [
            wary.watch(0, range(n), list(rows), models, torch.ones(n) / n, left).apply(
                list(rows), a[i], list(range(n)), models[i], f"part0-client{i}", lambda r, p, ids: weighted_sum(r, p), d
            )[0]
            for i in range(n)
        ]
        torch.testing.assert_close(got.rows, torch.stack(alone), rtol=1e-5, atol=1e-6)
        if tau > 1:
            assert bool((got.rows == got.rows[0]).all())
        current, left = got.rows.clone(), watch.left
    assert not bool(torch.isclose(got.rows[1:], got.rows[0]).all(1).any())


def _with(context: Server, watch: object) -> Server:
    return replace(context, watch=watch)


@pytest.mark.parametrize(("name", "times"), [("median", 0), ("trimmed-mean", 0), ("rfa", 1), ("centered-clip", 1)])
def test_updates_and_products_of_a_round_of_mixed_rows_are_made_once(
    name: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, current, a = cohort()
    n = len(rows)
    made: list[int] = []

    def spy(updates: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
        made.append(len(updates))
        return gram(updates, origin)

    monkeypatch.setattr(products, "gram", spy)
    context = Server(0, job("fedavg", data=federation(sizes=[12] * n)).task())
    watch = guard(name, n, 40).watch(0, range(n), list(rows), list(current), torch.ones(n) / n, {})
    mixed(a[None], rows, [((0, 40),)], _with(context, watch), lambda: list(current))
    assert made == [n] * times


def test_the_row_of_middle_length_is_nobody_s_who_went_far() -> None:
    rows = random(7, 5)
    order = rows.norm(dim=1).argsort()
    assert layerwise.middle(rows) == int(order[3])
    rows[:3] *= 1e20
    assert layerwise.middle(rows) >= 3


def test_products_keep_their_digits_beside_a_row_that_is_far_out() -> None:
    rows = random(7, 50)
    rows[0] *= 1e12
    whole = Gram(rows, rows[layerwise.middle(rows)])
    got = layerwise.share(whole, [1, 3, 4]).squared
    expected = torch.cdist(rows[[1, 3, 4]].double(), rows[[1, 3, 4]].double()).square()
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_centred_clipping_does_not_care_where_its_products_are_measured_from() -> None:
    rows, current, a = cohort()
    rule = CenteredClip(tau=2.0)
    v = {"v": random(40, seed=9)}
    generator = torch.Generator()
    told = Facts(tuple(range(6)), a[0], 1, generator, 40, 1, Gram(rows, current[0]), MIXED, 6, origin=current[0])
    elsewhere = replace(told, gram=Gram(rows, rows[2]))
    one, other = (rule.combine(list(rows), a[0], facts, v) for facts in (told, elsewhere))
    torch.testing.assert_close(one.row, other.row, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.used, other.used, rtol=1e-7, atol=1e-9)


# What newcomers get under a defence


@pytest.mark.parametrize("method", ["fedamp", "heurfedamp"])
def test_newcomers_trust_nobody_whom_the_defence_did_not(method: str) -> None:
    made = job(method, data=GROUPS, rounds=2)
    made = attacked(defended(made, "multi-krum", share=0.25), "same-value", {"value": 30.0}, malicious=(2, 5))
    state, task = play(made)[-1].state, made.task()
    trust = state.server["defence.trust"]
    assert not bool(trust[[2, 5]].any())
    client = replace(GROUPS.clients[0], id=8)
    got = made.method.join(state, client, Bench(made).trainer.at(0, 8), task)
    assert got.row is not None
    assert not bool(got.row[trust == 0].any())
    assert float(got.row.sum()) == pytest.approx(1)
    p = task.n.double() * trust
    expected = (p / p.sum()) @ state.client["w"].double()
    torch.testing.assert_close(got.arrival.double(), expected, rtol=0, atol=1e-5)
    free = {k: v for k, v in state.server.items() if not k.startswith("defence.")}
    bare = made.method.join(replace(state, server=free), client, Bench(made).trainer.at(0, 8), task)
    assert float((bare.arrival - got.arrival).abs().max()) > 1


def test_attention_of_newcomers_follows_the_defences_trust_and_clipped_rows() -> None:
    made = job("attn", {"join_fit": 0}, data=GROUPS, rounds=2)
    state, task = play(made)[-1].state, made.task()
    trust = torch.tensor([1.0, 0.5, 0.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    rows = torch.full_like(state.client["bank"], torch.nan)
    rows[3] = state.client["bank"][3] + 1
    server = {**state.server, "defence.trust": trust, "defence.rows": rows}
    got = made.method.join(replace(state, server=server), replace(GROUPS.clients[0], id=8), at_end(made), task)
    p = task.n.double() * trust
    left = torch.where(rows.isnan(), state.client["bank"], rows).double()
    torch.testing.assert_close(got.arrival.double(), (p / p.sum()) @ left, rtol=0, atol=1e-6)
    assert got.row is not None
    torch.testing.assert_close(got.model.double(), got.row @ left, rtol=0, atol=1e-5)
    alone = {**state.server, "defence.trust": torch.eye(8, dtype=torch.float64)[5]}
    only = made.method.join(replace(state, server=alone), replace(GROUPS.clients[0], id=8), at_end(made), task)
    assert only.row is not None
    torch.testing.assert_close(only.row, state.server["map"][5])


def at_end(made: Job) -> Trainer:
    """The trainer of a newcomer."""
    return Bench(made).trainer.at(0, 8)


def test_newcomers_get_clipped_rows_as_everybody_does() -> None:
    made = defended(job("fedamp", data=GROUPS, rounds=1), "norm-clip", {"limit": 0.01})
    state, task = play(made)[-1].state, made.task()
    got = made.method.join(state, replace(GROUPS.clients[0], id=8), Bench(made).trainer.at(0, 8), task)
    away = (state.client["w"] - task.w0).double()
    short = task.w0.double() + away * (0.01 / away.norm(dim=1, keepdim=True)).clamp_max(1)
    p = task.weights(range(8))
    torch.testing.assert_close(got.arrival.double(), p @ short, rtol=0, atol=1e-6)


def test_without_a_trusted_client_a_newcomer_arrives_at_the_common_start() -> None:
    made = defended(job("fedamp", data=GROUPS, rounds=1), "multi-krum", share=0.0)
    state, task = play(made)[-1].state, made.task()
    state = replace(state, server={**state.server, "defence.trust": torch.zeros(8, dtype=torch.float64)})
    got = made.method.join(state, replace(GROUPS.clients[0], id=8), Bench(made).trainer.at(0, 8), task)
    assert torch.equal(got.arrival, task.w0)
    assert (got.row, got.self_weight) == (None, 1.0)


# Rows that a defence has changed and a method stores in a form of its own, or not at all


def test_what_others_use_is_no_longer_than_the_methods_own_clipping_allows() -> None:
    """attn with clip=0.5 under norm-clip: others use w^_j, shortened like w_j to half the median length."""
    made = job("attn", {"clip": 0.5}, data=GROUPS, rounds=1)
    made = attacked(made, "scale", {"data": "none", "gamma": 4.0}, malicious=(1,))
    free, task = play(made)[-1].state, made.task()
    most = float((free.client["bank"] - task.w0).norm(dim=1).max())
    for limit in (1.2, 0.5):  # what the defence leaves is longer than the method's own limit, and shorter
        state = play(defended(made, "norm-clip", {"limit": limit * most}, share=0.0))[-1].state
        assert torch.equal(state.client["bank"], free.client["bank"])
        lengths = (rows_left(state.server, state.client["bank"]) - task.w0).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full((8,), min(1.0, limit) * most))


def test_an_upload_that_the_method_rejects_is_not_remembered() -> None:
    """Others go on with the client's last row that was stored, as the defence had left it then."""
    made = attacked(job("attn", data=GROUPS), "scale", {"data": "none", "gamma": 60.0}, malicious=(1,), start=1)
    before, after = (done.state for done in play(defended(made, "norm-clip", share=0.0)))
    assert after.server["screened"].nonzero().flatten().tolist() == [1]
    assert after.server["stored"].tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
    assert torch.equal(used_by_others(after, "bank")[1], used_by_others(before, "bank")[1])


def used_by_others(state: State, name: str) -> torch.Tensor:
    """Everybody's last row (N, P)."""
    return rows_left(state.server, state.client[name])


def test_a_row_that_is_not_clipped_any_more_is_the_methods_own() -> None:
    made = defended(job("fedamp", data=GROUPS, rounds=1), "norm-clip", {"limit": 0.2}, share=0.0)
    state, task, guard = play(made)[-1].state, made.task(), terms.guard_of(made, made.task())
    assert guard is not None
    before, ids, w = used_by_others(state, "w"), [2, 5], state.client["w"]
    assert not torch.equal(before[ids], w[ids])
    sent = [Upload(w[i] + 1e-4, own={"pulled": torch.tensor(0.0)}, client=i) for i in ids]
    watch = guard.watch(1, ids, [u.w for u in sent], list(w[ids]), torch.ones(2) / 2, state.server)
    state = made.method.aggregate(state, sent, Server(1, task, watch))
    after = used_by_others(replace(state, server=watch.left), "w")
    assert torch.equal(after[ids], state.client["w"][ids])
    others = [i for i in range(8) if i not in ids]
    assert torch.equal(after[others], before[others])
