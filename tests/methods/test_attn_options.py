"""attn's options: one map per layer, masks, two levels, trust, two heads, curvature, prototypes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import SIZES, aggregated, federation, final, job, made_up, model_attn, models, play, random, uploads

from fltk import methods
from fltk.attention import Options, attend
from fltk.attention.bank import columns
from fltk.attention.prototypes import LONE, TAU, attend_by_evidence, class_table, evidence, sent_counts
from fltk.attention.tokens import secant
from fltk.attention.trust import gate, log_trust
from fltk.engine.base import Bench
from fltk.errors import UsageError
from fltk.memory.products import gram
from fltk.methods.attn import Attn
from fltk.methods.heads import with_offset
from fltk.protocol.messages import Upload
from fltk.protocol.state import State

N = len(SIZES)
TASK = model_attn().task()
LAYOUT, P = TASK.layout, TASK.layout.size
Params = Mapping[str, Any]

CHOICES: list[Params] = [
    {"scope": "layer"},
    {"scope": "layer", "head": "local", "omega": 0.5},
    {"sparse": "lsh"},
    {"sparse": "topk", "neighbours": 1},
    {"hier": "kmeans"},
    {"hier": "gmm", "scope": "layer"},
    {"trust": "on", "clip": 1.0, "cap": 0.3},
    {"head": "both"},
    {"curvature": "secant"},
    {"curvature": "secant", "omega": 0.3, "scope": "layer", "proj": "countsketch", "r": 50},
    {"token": "prototypes"},
    {"token": "prototypes", "head": "local", "warmup": 1},
    {"token": "prototypes", "table_min": 1, "trust": "on", "self_weight": 0.3},
    {"qk": "learned", "heads": 2, "mlp": 4, "r": 50},
    {"train": "surrogate", "scope": "layer", "meta_rate": 0.05},
    {"train": "valgrad", "meta_rate": 0.05},
]


def name_of(params: object) -> str:
    return ",".join(f"{k}={v}" for k, v in params.items()) if isinstance(params, Mapping) else str(params)


every_choice = pytest.mark.parametrize("params", CHOICES, ids=name_of)


def cohort(k: int = N, seed: int = 0) -> Tensor:
    """Trained models: a common direction, and one of their own each, (k, P)."""
    return TASK.w0 + 0.1 * (random(1, P, seed=seed) + 0.5 * random(k, P, seed=seed + 1))


@every_choice
def test_rows_lie_on_the_simplex_and_rounds_repeat(params: Params) -> None:
    done = play(model_attn(params, rounds=3, participation=0.75))
    for r in done:
        assert r.map is not None
        assert sum(LAYOUT.width(part) for part in r.map.slices) == P
        for a in (*r.map.slices.values(), r.map.whole()):
            assert (a >= 0).all()
            torch.testing.assert_close(a.double().sum(1), torch.ones(N, dtype=torch.float64), rtol=0, atol=1e-9)
        assert all(math.isfinite(v) for v in r.scalars.values() if v == v)
    again = play(model_attn(params, rounds=3, participation=0.75))
    assert [r.digest for r in done] == [r.digest for r in again]


@every_choice
def test_a_resumed_run_is_the_run(params: Params) -> None:
    whole = play(model_attn(params, rounds=4, participation=0.75))
    half = play(model_attn(params, rounds=2, participation=0.75))[-1]
    stored = {k: v.clone() for k, v in half.state.tensors().items()}
    rest = play(model_attn(params, rounds=4, participation=0.75), resume=(2, State.from_tensors(stored)))
    assert [r.digest for r in whole][2:] == [r.digest for r in rest]


@every_choice
def test_no_step_or_all_weight_on_oneself_is_local_bit_for_bit(params: Params) -> None:
    if params.get("clip") or params.get("head") in ("local", "both"):
        pytest.skip("it changes local models as well")
    local = final("local", rounds=3)
    for still in ({"step": 0}, {"self_weight": 1}):
        assert torch.equal(final("attn", {"token": "model", **params, **still}, rounds=3), local)


@every_choice
def test_a_relabelling_relabels_map_and_models(params: Params) -> None:
    p = torch.tensor([2, 0, 3, 1])
    made = model_attn(params)
    sent = uploads(made, made.method.init(TASK))
    moved = sorted((replace(u, client=int(p.argsort()[u.client])) for u in sent), key=lambda u: u.client)
    told = {"n": TASK.n[p], "label_counts": TASK.label_counts[p]}
    a, b = aggregated(made, sent), aggregated(made, moved, **told)
    maps = [made.method.mixing(state, TASK) for state in (a, b)]
    for part, m in maps[0].slices.items():  # type: ignore[union-attr]  # there has been a round
        torch.testing.assert_close(maps[1].slices[part], m[p][:, p], rtol=0, atol=1e-9)  # type: ignore[union-attr]
    torch.testing.assert_close(models(made, b), models(made, a)[p], rtol=0, atol=1e-6)


@every_choice
def test_a_broken_upload_changes_nothing_for_the_others(params: Params) -> None:
    made = model_attn(params)
    sent = uploads(made, made.method.init(TASK))
    broken = [replace(u, w=u.w.clone()) for u in sent]
    broken[2].w[3] = math.nan
    others = [0, 1, 3]
    with_it, without = aggregated(made, broken), aggregated(made, [u for u in sent if u.client != 2])
    assert torch.isfinite(models(made, with_it)).all()
    assert torch.equal(models(made, with_it)[others], models(made, without)[others])


@every_choice
def test_identical_participants_get_their_model(params: Params) -> None:
    made = model_attn(params)
    first = uploads(made, made.method.init(TASK))
    same = [replace(u, w=first[0].w) for u in first]
    got = made.method.starts(aggregated(made, same), range(N), TASK)  # type: ignore[attr-defined]  # Attn's
    for u in got:
        torch.testing.assert_close(u, first[0].w, rtol=0, atol=1e-6)


# One map per layer


def test_every_layer_has_the_map_of_its_columns() -> None:
    made, w = model_attn({"scope": "layer", "lone": 0.9}), cohort()
    w[3] = TASK.w0 + 0.1 * random(P, seed=30)
    state = aggregated(made, made_up(made, w))
    parts = made.method.parts(TASK)  # type: ignore[attr-defined]  # Attn's
    assert list(parts) == list(LAYOUT.layers)
    got = made.method.mixing(state, TASK)
    assert got is not None
    mixed = models(made, state)
    for g, (layer, cut) in enumerate(parts.items()):
        expected = attend(columns(w, cut), Options(lone=0.9), center=columns(TASK.w0, cut), samples=TASK.n)
        torch.testing.assert_close(got.slices[layer], expected.map, rtol=0, atol=1e-12)
        assert torch.equal(state.server["lone"][g], expected.lone)
        torch.testing.assert_close(
            columns(mixed, cut), (expected.map @ columns(w, cut).double()).float(), rtol=0, atol=1e-6
        )
    assert not torch.equal(got.slices[LAYOUT.layers[0]], got.slices[LAYOUT.layers[-1]])
    total = sum(LAYOUT.width(layer) / P * got.slices[layer] for layer in LAYOUT.layers)
    torch.testing.assert_close(got.whole(), total)


def test_normalisation_statistics_go_with_their_layer() -> None:
    made = model_attn({"scope": "layer"}, data=federation(shape=(1, 8, 8)), model="resnet8-bn")
    task = made.task()
    state = play(made)[-1].state
    assert len(state.server["map"]) == len(task.layout.layers)
    for w in models(made, state):
        assert all((e.view(w) >= 0).all() for e in task.layout.entries if e.name.endswith("running_var"))


def test_a_local_head_has_no_map() -> None:
    made = model_attn({"scope": "layer", "head": "local"})
    state = play(made)[-1].state
    got = made.method.mixing(state, TASK)
    assert got is not None
    assert list(got.slices) == [*LAYOUT.layers[:-1], "head"]
    assert torch.equal(got.slices["head"].double(), torch.eye(N, dtype=torch.float64))


# Two levels, trust, clipping


def test_the_clusters_are_told() -> None:
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    axes = torch.linalg.qr(random(P, 2, seed=7).double()).Q.T.float()
    w = TASK.w0 + axes[groups] + 0.2 * random(6, P, seed=8) / math.sqrt(P)
    made = model_attn({"hier": "kmeans"}, data=federation((9,) * 6))
    task = made.task()
    state = aggregated(made, made_up(made, w))
    assert state.server["clusters"].tolist() == [groups.tolist()]
    assert made.method.diagnostics(state, task)["clusters"] == 2
    assert made.method.client_diagnostics(state, task)["cluster"].tolist() == groups.tolist()
    before = made.method.client_diagnostics(made.method.init(task), task)["cluster"]
    assert torch.isnan(before).all()


def test_trust_is_that_of_the_updates_and_is_remembered() -> None:
    k = 8
    made = model_attn({"trust": "on", "lone": 0}, data=federation((9,) * k))
    task = made.task()
    w = task.w0 + 0.1 * (random(1, P) + random(k, P, seed=1))
    w[5] = task.w0 + 0.1 * 1.4 * random(P, seed=9)
    state = aggregated(made, made_up(made, w))
    expected = log_trust(gram(w - task.w0, torch.zeros(P)))
    assert float(expected[5]) < -2
    assert torch.equal(state.server["trust"], expected)
    plain = model_attn({"lone": 0}, data=federation((9,) * k))
    without = aggregated(plain, made_up(plain, w)).server["map"]
    assert float(state.server["map"][0, 5]) < 0.2 * float(without[0, 5])
    assert made.method.diagnostics(state, task)["trust"] == pytest.approx(float(expected.exp().mean()))
    later = aggregated(made, made_up(made, w[:5]), round=1, state=state)
    assert torch.equal(later.server["trust"][5:], expected[5:])


def test_a_clipped_upload_is_what_the_bank_holds() -> None:
    made, w = model_attn({"clip": 1.0}), cohort()
    w[1] = TASK.w0 + 3 * (w[1] - TASK.w0)
    bank = aggregated(made, made_up(made, w)).client["bank"]
    norms = (w - TASK.w0).norm(dim=1)
    for i in range(N):
        factor = min(1.0, float(norms.quantile(0.5) / norms[i]))
        torch.testing.assert_close(bank[i], TASK.w0 + factor * (w[i] - TASK.w0))
        assert factor < 1 or torch.equal(bank[i], w[i])


# Two heads


def test_the_second_head_is_an_offset_that_stays_at_home() -> None:
    made = model_attn({"head": "both"}, rounds=2)
    bench = Bench(made)
    state = play(made)[-1].state
    shared = model_attn({})
    for u, v in zip(
        uploads(made, made.method.init(TASK)), uploads(shared, shared.method.init(TASK)), strict=True
    ):  # the shared model trains as if there were no other head
        assert torch.equal(u.w, v.w)
        assert u.own.keys() == {"offset"}
        assert not u.sent
    down = made.method.downlink(state, [1], TASK)[0]
    assert torch.equal(
        made.method.personal_model(state, [1], TASK)[0], with_offset(down.w, state.client["offset"][1], LAYOUT)
    )
    client, trainer = bench.client(1), bench.trainer.at(2, 1)
    upload = made.method.local_update(down, client, trainer)
    w = trainer.sgd(down.w, client.train)
    both = trainer.sgd(with_offset(w, down.own["offset"], LAYOUT), client.train, only="head")
    assert torch.equal(upload.w, w)
    torch.testing.assert_close(with_offset(w, upload.own["offset"], LAYOUT), both)
    assert torch.equal(LAYOUT.take(both, "base"), LAYOUT.take(w, "base"))


def test_summed_logits_are_those_of_one_head() -> None:
    made = model_attn({"head": "both"})
    bench = Bench(made)
    x = bench.trainer.features(TASK.w0, bench.client(0).train)
    v = random(LAYOUT.width("head"), seed=3)
    head = [e for e in LAYOUT.entries if e.layer == LAYOUT.layers[-1]]

    def logits(w: Tensor) -> Tensor:
        weight, bias = (e.view(w) for e in head)
        return x @ weight.t() + bias

    alone = LAYOUT.put(torch.zeros(P), "head", v)
    torch.testing.assert_close(logits(with_offset(TASK.w0, v, LAYOUT)), logits(TASK.w0) + logits(alone))


# Curvature


def test_the_secant_is_that_of_the_last_two_participations() -> None:
    made = model_attn({"curvature": "secant", "lone": 0})
    first, second = cohort(), cohort(seed=20)
    state = aggregated(made, made_up(made, first))
    assert not state.client["secant"].any()
    plain = model_attn({"lone": 0})
    assert torch.equal(state.server["map"], aggregated(plain, made_up(plain, first)).server["map"])
    starts = models(made, state)
    later = aggregated(made, made_up(made, second), round=1, state=state)
    bent = secant(second - starts, first - TASK.w0, starts, TASK.w0.expand(N, -1))
    torch.testing.assert_close(later.client["secant"], bent)
    expected = attend(second, Options(lone=0), center=TASK.w0, samples=TASK.n, secants=bent).map
    torch.testing.assert_close(later.server["map"], expected, rtol=0, atol=1e-6)


def test_curvature_counts_for_all_pairs_or_for_none() -> None:
    made, plain = (model_attn({"curvature": c, "lone": 0}) for c in ("secant", "off"))
    states = [aggregated(m, made_up(m, cohort())) for m in (made, plain)]
    second = cohort(3, seed=20)
    later = [aggregated(m, made_up(m, second), round=1, state=s) for m, s in zip((made, plain), states, strict=True)]
    assert later[0].client["secant"][:3].any(1).all()
    assert torch.equal(later[0].server["map"], later[1].server["map"])


# Class tables


def test_tables_come_with_the_first_upload_and_are_those_of_the_common_start() -> None:
    made = job("attn", {"table_min": 3}, rounds=2)
    bench, state = Bench(made), made.method.init(TASK)
    sent = uploads(made, state)
    for u in sent:
        train = bench.client(u.client).train
        assert torch.equal(u.sent["table"], class_table(bench.trainer.features(TASK.w0, train), train.y, 4, 3))
    state = aggregated(made, sent)
    assert torch.equal(state.client["table"], torch.stack([u.sent["table"] for u in sent]))
    assert all(not u.sent for u in uploads(made, state, round=1))


def test_the_map_of_tables_stays_for_the_whole_run() -> None:
    done = play(job("attn", rounds=4))
    found = evidence(done[0].state.client["table"], sent_counts(TASK.label_counts))
    expected = attend_by_evidence(found, Options(tau=TAU, lone=LONE), samples=TASK.n)
    for r in done:
        torch.testing.assert_close(r.state.server["map"], expected.map)
        assert torch.equal(r.state.server["lone"], expected.lone)


def test_under_trust_the_map_is_made_again_without_clients_that_move_against_their_peers() -> None:
    data = federation((9,) * 6)
    made, task = job("attn", {"trust": "on"}, data), job("attn", {}, data).task()
    away = task.w0 + torch.full_like(task.w0, 0.1)
    models_ = torch.stack(
        [task.w0 - 0.1 if i == 2 else away + 0.01 * random(task.layout.size, seed=i) for i in range(6)]
    )
    tables = uploads(made, made.method.init(task))
    sent = [replace(u, w=row) for u, row in zip(tables, models_, strict=True)]
    state = aggregated(made, sent)
    a = state.server["map"]
    assert float(a[:2, 2].max()) < 1e-3
    found = evidence(state.client["table"], sent_counts(task.label_counts))
    options, trust = Options(tau=TAU, lone=LONE), state.server["trust"]
    before = attend_by_evidence(found, options, samples=task.n, trust=trust)
    doubt = gate(before.map, (models_ - task.w0).double())
    assert float(doubt[2]) < -10
    after = attend_by_evidence(found, options, samples=task.n, trust=(trust + doubt).clamp_min(-20))
    torch.testing.assert_close(a, after.map)


def test_a_screened_client_has_said_what_its_table_is() -> None:
    made = job("attn")
    sent = uploads(made, made.method.init(TASK))
    broken = [replace(u, w=torch.full_like(u.w, math.nan)) if u.client == 1 else u for u in sent]
    assert torch.equal(aggregated(made, broken).client["table"][1], sent[1].sent["table"])
    wild = [Upload(u.w, {"table": torch.full_like(u.sent["table"], math.inf)}, client=u.client) for u in sent]
    assert not aggregated(made, wild).client["table"].any()


def test_fedavgs_map_needs_no_tables() -> None:
    made = job("attn", {"tau": "inf"})
    assert all(not u.sent for u in uploads(made, made.method.init(TASK)))
    plain = job("attn")
    table = 4 * 4 * (6 + 2)  # 4 classes: mean of 6 features, scatter and count
    assert {u.nbytes for u in uploads(plain, plain.method.init(TASK))} == {4 * P + table}


# What is kept, what is told, what is refused


def test_birth_tokens_are_of_first_uploads_from_the_common_start() -> None:
    made = model_attn({"r": 30}, rounds=8, participation=0.5)
    seen: dict[int, Tensor] = {}
    for r in play(made):
        for i in (r.state.last == r.round - 1).nonzero().flatten().tolist():
            if i not in seen:
                seen[i] = made.method.births(r.state.client["bank"][[i]], r.state, TASK)[0]  # type: ignore[attr-defined]
                assert seen[i].shape == (30,)
                assert seen[i].any()
        for i, token in seen.items():
            assert torch.equal(r.state.client["birth"][i], token)
    assert len(seen) == N


def test_nothing_is_kept_that_no_option_needs() -> None:
    kept = {
        "": {"bank", "birth"},
        "update": {"bank"},
        "omega": {"bank", "birth", "update"},
        "secant": {"bank", "birth", "update", "begun", "secant"},
        "tables": {"bank", "table"},
        "both": {"bank", "birth", "offset"},
    }
    params: dict[str, Params] = {
        "": {},
        "update": {"join_token": "update"},
        "omega": {"omega": 0.2},
        "secant": {"curvature": "secant"},
        "tables": {"token": "prototypes"},
        "both": {"head": "both"},
    }
    for key, expected in kept.items():
        assert set(model_attn(params[key]).method.init(TASK).client) == expected


def test_what_a_round_tells_as_loops() -> None:
    made = model_attn({"lone": 0.9, "sparse": "topk", "neighbours": 1})
    w = cohort()
    w[3] = TASK.w0 + 0.1 * random(P, seed=30)
    state = aggregated(made, made_up(made, w[[0, 1, 3]]))
    a = state.server["map"][:3]
    got = made.method.diagnostics(state, TASK)
    rows = [[float(x) for x in row] for row in a]
    assert got["self_weight"] == pytest.approx(sum(rows[i][i] for i in range(3)) / 3)
    entropy = [-sum(x * math.log(x) for x in row if x) / math.log(N) for row in rows]
    assert got["row_entropy"] == pytest.approx(sum(entropy) / 3)
    assert got["density"] == pytest.approx(sum(x > 0 for row in rows for x in row) / (3 * N))
    assert got["lone"] == int(state.server["lone"].sum())
    assert "row_entropy" not in made.method.diagnostics(made.method.init(TASK), TASK)


REFUSED: list[tuple[Params, str]] = [
    ({"tau": "inf", "trust": "on"}, "trust=on"),
    ({"token": "model", "tau": "inf", "hier": "gmm"}, "hier=gmm"),
    ({"tau": "inf", "self_weight": 0.5}, "self_weight=0.5"),
    ({"tau": "inf", "cap": 0.5}, "cap=0.5"),
    ({"tau": "inf", "clip": 1}, "clip=1"),
    ({"tau": "inf", "step": 0.5}, "step=0.5"),
    ({"tau": "inf", "gamma": 0}, "gamma=0"),
    ({"tau": "inf", "bias": 9}, "bias=9"),
    ({"token": "model", "tau": "inf", "curvature": "secant"}, "curvature=secant"),
    ({"token": "model", "tau": "inf", "scope": "layer"}, "scope=layer"),
    ({"token": "prototypes", "scope": "layer"}, "scope=layer"),
    ({"token": "prototypes", "omega": 0.5}, "omega=0.5"),
    ({"token": "prototypes", "curvature": "secant"}, "curvature=secant"),
    ({"scope": "layer"}, "scope=layer does not go with token=prototypes: .*add --set token=model"),
    ({"score": "raw"}, "score=raw"),
    ({"hier": "kmeans"}, "hier=kmeans"),
    ({"ceiling": 2}, "ceiling=2"),
    ({"sparse": "topk"}, "sparse=topk"),
    ({"qk": "learned"}, "qk=learned"),
    ({"token": "prototypes", "center": "mean"}, "center=mean"),
    ({"token": "prototypes", "sparse": "lsh"}, "sparse=lsh"),
    ({"token": "prototypes", "join_token": "loss"}, "join_token=loss"),
    ({"token": "model", "hier": "kmeans", "sparse": "lsh"}, "sparse=lsh"),
    ({"token": "model", "hier": "gmm", "sparse": "topk"}, "sparse=topk"),
    ({"token": "model", "head": "local", "join_token": "loss"}, "join_token=loss"),
]


@pytest.mark.parametrize(("params", "named"), REFUSED, ids=name_of)
def test_contradictions_are_refused_by_name(params: Params, named: str) -> None:
    with pytest.raises(UsageError, match=f"--set {named}") as caught:
        methods.create("attn", params)
    assert "\n" not in str(caught.value)


def test_every_option_reaches_the_aggregator() -> None:
    """The fields of `Options` and the hyper-parameters have the same names, defaults and meaning."""
    told = Attn(token="model")._options("all", 0, TASK)
    assert replace(told, seed=0, round_seed=0) == Options()
    assert told.seed == TASK.seed("projection")
    assert Attn(token="model")._options("all", 1, TASK).round_seed != told.round_seed
    assert Attn()._options("all", 0, TASK).width == 0.15
    assert Attn()._options("all", 0, TASK).lone == 0.5
    assert Attn(tau=0.3, lone=0.1)._options("all", 0, TASK).width == 0.3
    assert Attn(tau=0.3, lone=0.1)._options("all", 0, TASK).lone == 0.1
