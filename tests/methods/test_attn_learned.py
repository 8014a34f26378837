"""attn with a learned scorer: the free mode at the start, and taught by nobody but those who may teach."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import SIZES, aggregated, dealt, federation, fingerprint, model_attn, models, play, random, staffed, uploads

from fltk import engine, methods
from fltk.attention.bank import columns
from fltk.attention.learn import Learner
from fltk.attention.newcomer import Others, newcomer_row
from fltk.attention.scorer import Scorer, learned_attention, similarities
from fltk.attention.tokens import Part, similarity, tokens, unit
from fltk.data import create
from fltk.engine.base import Bench, Job
from fltk.errors import UsageError
from fltk.methods.attn import Attn
from fltk.methods.learned import members
from fltk.protocol.messages import Joined, Upload
from fltk.protocol.state import State
from fltk.rounds import loop

N = len(SIZES)
TASK = model_attn().task()
LAYOUT, P = TASK.layout, TASK.layout.size
NEW = federation((11,), seed=40).clients[0]
Params = Mapping[str, Any]

FREE: list[Params] = [
    {},
    {"r": 20, "heads": 3, "mlp": 4},
    {"r": 20, "scope": "layer", "heads": 2},
    {"r": 20, "omega": 0.5, "curvature": "secant"},
    {"omega": 1.0, "head": "both"},
    {"proj": "countsketch", "r": 20},
    {"proj": "gaussian", "r": 20, "head": "local"},
    {"sparse": "lsh", "neighbours": 1, "hashes": 1},
    {"sparse": "topk", "neighbours": 1},
    {"trust": "on", "clip": 1.0, "cap": 0.6, "step": 0.5, "score": "relgap"},
    {"center": "mean", "score": "raw", "max_age": 1},
]
TAUGHT: list[Params] = [
    {"train": "surrogate"},
    {"train": "valgrad", "r": 20, "heads": 2, "mlp": 3},
    {"train": "surrogate", "scope": "layer", "head": "local", "step": 0.7},
    {"train": "valgrad", "scope": "layer", "omega": 0.4, "curvature": "secant", "trust": "on", "clip": 1.0},
    {"train": "surrogate", "sparse": "lsh", "neighbours": 1, "hashes": 2, "max_age": 1},
]


def name_of(params: object) -> str:
    return ",".join(f"{k}={v}" for k, v in params.items()) if isinstance(params, Mapping) else str(params)


every_lesson = pytest.mark.parametrize("params", TAUGHT, ids=name_of)


def attn(made: Job) -> Attn:
    assert isinstance(made.method, Attn)
    return made.method


def trained(params: Params, **settings: Any) -> tuple[Job, State]:
    """A job and its state after three rounds, in which the scorer has taken two steps."""
    made = model_attn({"meta_rate": 0.05, **params}, **{"rounds": 3, **settings})
    return made, play(made)[-1].state


def learner_of(state: State) -> Learner:
    return Learner.from_tensors(state.server)


def scorer_bits(state: State, *groups: str) -> dict[str, str]:
    """What was learned, comparable; all of it unless some groups are named."""
    kept = {k: v for k, v in state.server.items() if k.startswith(tuple(f"learn.{g}" for g in groups or ("",)))}
    assert kept
    return {k: fingerprint({k: v}) for k, v in kept.items()}


# The start


@pytest.mark.parametrize("params", FREE, ids=name_of)
@pytest.mark.parametrize("participation", [1.0, 0.75])
def test_a_scorer_that_learns_nothing_is_the_free_mode(params: Params, participation: float) -> None:
    free = {k: v for k, v in params.items() if k not in ("heads", "mlp")}
    given = {"rounds": 4, "participation": participation}
    plain = play(model_attn(free, **given))
    for told in ({"qk": "learned"}, {"train": "surrogate", "meta_rate": 0}, {"train": "valgrad", "meta_rate": 0}):
        for a, b in zip(plain, play(model_attn({**params, **told}, **given)), strict=True):
            assert a.map is not None and b.map is not None
            for part, expected in a.map.slices.items():
                torch.testing.assert_close(b.map.slices[part], expected, rtol=0, atol=1e-6)
            assert torch.equal(a.state.server["lone"], b.state.server["lone"])


def test_on_the_same_models_the_start_is_exact_to_nine_digits() -> None:
    for params in FREE:
        free = model_attn({k: v for k, v in params.items() if k not in ("heads", "mlp")})
        made = model_attn({**params, "qk": "learned"})
        sent = uploads(free, free.method.init(TASK))
        a, b = (aggregated(m, sent).server["map"] for m in (free, made))
        torch.testing.assert_close(b, a, rtol=0, atol=1e-9)


def test_without_a_scorer_nothing_of_it_is_kept() -> None:
    for params in ({}, {"qk": "free"}, {"heads": 2, "mlp": 3, "meta_holdout": 0.5}):
        made = model_attn(params)
        server = made.method.init(TASK).server
        assert "judges" not in server and not any(k.startswith("learn.") for k in server)
        assert "tau" not in made.method.diagnostics(play(made)[-1].state, TASK)


def test_a_private_head_does_not_ask_for_the_scorer() -> None:
    made = model_attn({"train": "surrogate", "head": "local"}, head_mix="classes")
    made.method.check(made.task())


# What survives a round


@every_lesson
def test_what_is_learned_survives_a_resume(params: Params) -> None:
    params = {"meta_rate": 0.05, **params}
    whole = play(model_attn(params, rounds=5, participation=0.75))
    half = play(model_attn(params, rounds=3, participation=0.75))[-1]
    stored = {k: v.clone() for k, v in half.state.tensors().items()}
    rest = play(model_attn(params, rounds=5, participation=0.75), resume=(3, State.from_tensors(stored)))
    assert [r.digest for r in whole][3:] == [r.digest for r in rest]
    assert int(learner_of(whole[-1].state).adam.steps) > int(learner_of(half.state).adam.steps) > 0


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("params", TAUGHT[1:2], ids=name_of)
def test_worker_processes_change_no_bit(params: Params) -> None:
    made = model_attn({"meta_rate": 0.05, **params}, rounds=3, participation=0.75)
    pool = engine.make("process:2", made)
    try:
        staffed(pool)
        parallel = list(loop.rounds(made, pool))
    finally:
        pool.close()
    assert [r.digest for r in parallel] == [r.digest for r in play(made)]


@every_lesson
def test_the_scorer_moves_the_map(params: Params) -> None:
    made, state = trained(params)
    learner = learner_of(state)
    assert int(learner.adam.steps) == 2
    _, free = trained({**params, "qk": "learned", "train": "off"})
    assert int(learner_of(free).adam.steps) == 0
    assert float((state.server["map"] - free.server["map"]).abs().max()) > 1e-6
    told = made.method.diagnostics(state, TASK)
    assert told["tau"] == pytest.approx(float(learner.scorer.log_tau.exp().mean()))
    assert (told["held_out"], told["held_out_best"]) == tuple(learner.held.tolist())


# What teaches


def by_hand(made: Job, state: State, phi: Scorer, round: int) -> Tensor:
    """The maps (G, K, K) of everybody in the bank in the state after `round`, from the equations."""
    method, found = attn(made), []
    for g, (part, cut) in enumerate(method.parts(TASK).items()):
        rows, start = columns(state.client["bank"], cut), columns(state.server["start"], cut)
        options = method._options(part, round, TASK)
        z = tokens([Part(rows, start)], method.r, options.seed)
        exact = similarity(rows, start)
        found.append(learned_attention(phi, z, options, layer=g, exact=exact, samples=TASK.n).map)
    return torch.stack(found)


@pytest.mark.parametrize(
    "params",
    [
        {"train": "surrogate"},
        {"train": "valgrad"},
        {"train": "surrogate", "scope": "layer", "step": 0.5, "r": 20, "heads": 2},
        {"train": "valgrad", "scope": "layer", "head": "local", "mlp": 3},
    ],
    ids=name_of,
)
def test_a_lesson_is_the_gradient_through_the_mixed_models(params: Params) -> None:
    """Adam's first moment against autograd through u_i = (1 - s) theta_i + s sum_j A_ij theta_j, in float64."""
    made = model_attn({"meta_entropy": 0.3, **params})
    method, init = attn(made), made.method.init(TASK)
    before = aggregated(made, uploads(made, init), state=init)
    sent = uploads(made, before, round=1)
    after = aggregated(made, sent, round=1, state=before)
    bench, kinds = Bench(made), method.columns
    slopes = []
    for i, (down, u) in enumerate(zip(method.downlink(before, range(N), TASK), sent, strict=True)):
        mine = down.sent(LAYOUT, kinds).double() - u.w.double()
        if params["train"] == "valgrad":
            slope = bench.trainer.gradient(down.whole(TASK, kinds).w, bench.client(i).val)
            mine = LAYOUT.take(slope, kinds.travels).double()
            assert torch.equal(u.sent["slope"].double(), mine)
        slopes.append(mine)
    teaching = torch.nonzero(~before.server["judges"]).flatten().tolist()
    assert len(teaching) == N - 1
    leaves = {k: v.clone().requires_grad_() for k, v in learner_of(before).scorer.tensors().items()}
    maps, theta = by_hand(made, before, Scorer.from_tensors(leaves), 0), before.client["bank"].double()
    total = torch.zeros((), dtype=torch.float64)
    for a, cut in zip(maps, method.parts(TASK).values(), strict=True):
        for i in teaching:
            mixed = (1 - method.step) * columns(theta, cut)[i] + method.step * a[i] @ columns(theta, cut)
            total = total + columns(slopes[i], cut) @ mixed / len(teaching)
            total = total + 0.3 * (a[i] * a[i].log()).sum() / len(teaching) / len(maps)
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    first = learner_of(after).adam.first
    assert any(g.abs().max() > 1e-3 for g in found)
    for key, expected in zip(leaves, found, strict=True):
        torch.testing.assert_close(first[key], 0.1 * expected, rtol=1e-6, atol=1e-9)


@every_lesson
def test_lessons_are_about_the_maps_that_were_played(params: Params) -> None:
    made = model_attn({"meta_rate": 0.05, **params}, rounds=5, participation=0.75)
    method = attn(made)
    for done in play(made):
        state = done.state
        known = members(state, done.round - 1)
        assert len(known) >= 3
        keys, learner = method.fresh(state, done.round - 1)[known], learner_of(state)
        for g, part in enumerate(method.parts(TASK)):
            make = method._cohort(state, known, keys, part, done.round - 1, TASK).maker(g)
            own = torch.eye(len(known), dtype=torch.float64)
            expected = (1 - method.step) * own + method.step * make(learner.scorer).map
            torch.testing.assert_close(method.maps(state)[g][known][:, known], expected, rtol=0, atol=1e-12)
        assert not len(members(state, done.round))


def changed(sent: list[Upload], who: Tensor) -> list[Upload]:
    """The uploads with other contents from some clients."""
    return [
        replace(u, w=u.w + 0.05 * random(len(u.w), seed=u.client), sent={k: -2 * v for k, v in u.sent.items()})
        if bool(who[u.client])
        else u
        for u in sent
    ]


@every_lesson
def test_held_out_clients_never_teach(params: Params) -> None:
    made, state = trained({**params, "meta_holdout": 0.5})
    judges, sent = state.server["judges"], uploads(made, state, round=3)
    assert int(judges.sum()) == 2
    once, other = (aggregated(made, s, round=3, state=state) for s in (sent, changed(sent, judges)))
    for group in ("phi", "first", "second", "previous", "steps"):
        assert scorer_bits(once, group) == scorer_bits(other, group)
    assert scorer_bits(once, "held") != scorer_bits(other, "held")
    taught = aggregated(made, changed(sent, ~judges), round=3, state=state)
    assert scorer_bits(taught, "phi") != scorer_bits(once, "phi")
    assert scorer_bits(taught, "held") == scorer_bits(once, "held")


def test_nobody_held_out_makes_the_last_scorer_the_best() -> None:
    _, state = trained({"train": "surrogate", "meta_holdout": 0})
    assert not state.server["judges"].any()
    learner = learner_of(state)
    assert all(torch.equal(v, learner.best.tensors()[k]) for k, v in learner.scorer.tensors().items())


@every_lesson
def test_wild_contributions_teach_nothing(params: Params) -> None:
    """A broken upload, and a broken gradient, count as if their client had not taken part."""
    made, state = trained({**params, "meta_holdout": 0})
    sent = uploads(made, state, round=3)
    without = aggregated(made, [u for u in sent if u.client != 2], round=3, state=state)
    for far in (math.nan, math.inf, 1e6):
        broken = [replace(u, w=u.w + far) if u.client == 2 else u for u in sent]
        after = aggregated(made, broken, round=3, state=state)
        assert scorer_bits(after) == scorer_bits(without)
        assert members(after, 3).tolist() == [0, 1, 3]  # client 2 goes on with its last good model, which is no mix
    if params["train"] == "valgrad":
        broken = [replace(u, sent={"slope": u.sent["slope"] * math.nan}) if u.client == 2 else u for u in sent]
        assert scorer_bits(aggregated(made, broken, round=3, state=state)) == scorer_bits(without)


def test_rounds_without_a_map_of_the_scorer_teach_nothing() -> None:
    for done in play(model_attn({"train": "surrogate", "warmup": 2}, rounds=5)):
        assert int(learner_of(done.state).adam.steps) == max(0, done.round - 3)
    made, state = trained({"train": "valgrad"})
    sent = [replace(u, w=u.w * math.nan) for u in uploads(made, state, round=3)]
    lost = aggregated(made, sent, round=3, state=state)
    assert scorer_bits(lost) == scorer_bits(state)
    assert not len(members(lost, 3))
    later = aggregated(made, uploads(made, lost, round=4), round=4, state=lost)
    assert scorer_bits(later) == scorer_bits(state)
    again = aggregated(made, uploads(made, later, round=5), round=5, state=later)
    assert int(learner_of(again).adam.steps) == int(learner_of(state).adam.steps) + 1


def test_first_rounds_send_no_gradient_and_the_cost_says_what_others_do() -> None:
    made = model_attn({"train": "valgrad", "head": "local"})
    init = made.method.init(TASK)
    width = LAYOUT.width("base")
    assert all(not u.sent for u in uploads(made, init))
    state = aggregated(made, uploads(made, init, ids=(0, 1, 2)), state=init)
    for u in uploads(made, state, round=1):
        assert u.sent.keys() == (set() if u.client == 3 else {"slope"})
        assert all(v.shape == (width,) for v in u.sent.values())
        assert u.nbytes == (4 if u.client == 3 else 8) * width


def test_gradients_change_nothing_of_the_training() -> None:
    plain, made = model_attn(), model_attn({"train": "valgrad"})
    _, state = trained({"train": "valgrad"})
    for a, b in zip(uploads(plain, state, round=3), uploads(made, state, round=3), strict=True):
        assert torch.equal(a.w, b.w)


def test_learning_divides_groups_that_too_wide_a_score_has_merged() -> None:
    """Groups with contradicting labels: weight on the other group falls, for those who teach and those who judge."""
    k = 10
    y = torch.arange(30 * k) % 4
    x = random(4, 1, 4, 4, seed=1)[y] + 0.5 * random(len(y), 1, 4, 4, seed=2)
    group = torch.arange(k) % 2
    y = torch.where(group[torch.arange(len(y)) // 30] == 1, 3 - y, y)
    data = create("digits", x.numpy(), y.numpy(), tuple("abcd"))
    starts = torch.arange(0, 30 * k, 30)
    cuts = [[torch.arange(a, b).numpy() for a, b in ((s, s + 20), (s + 20, s + 25), (s + 25, s + 30))] for s in starts]
    clients = dealt(data, cuts)
    other = group[:, None] != group
    for train in ("valgrad", "surrogate"):
        params = {"train": train, "tau": 1.0, "meta_rate": 0.02, "meta_entropy": 0, "lone": 0}
        done = play(model_attn(params, data=clients, rounds=15))
        judges = done[-1].state.server["judges"]
        across = [(r.state.server["map"] * other).sum(1) for r in (done[0], done[-1])]
        for who in (judges, ~judges):
            assert float(across[1][who].mean()) < 0.5 * float(across[0][who].mean())


# Newcomers


def join(made: Job, state: State) -> Joined:
    bench = Bench(made)
    return made.method.join(state, NEW, bench.trainer.at(0, N), TASK)


@pytest.mark.parametrize("token", ["birth", "update", "loss"])
@pytest.mark.parametrize("params", [{}, {"scope": "layer", "heads": 3}, {"mlp": 3, "heads": 2}], ids=name_of)
def test_a_newcomer_to_a_scorer_that_learned_nothing_is_met_freely(token: str, params: Params) -> None:
    params = {"join_token": token, "r": 20, **params}
    plain = {k: v for k, v in params.items() if k not in ("heads", "mlp")}
    made, free = model_attn({**params, "qk": "learned"}), model_attn(plain)
    sent = uploads(free, free.method.init(TASK))
    a, b = (join(m, aggregated(m, sent)) for m in (free, made))
    assert a.row is not None and b.row is not None
    torch.testing.assert_close(b.row, a.row, rtol=0, atol=1e-9)
    torch.testing.assert_close(b.model, a.model, rtol=0, atol=1e-6)
    assert (b.down, b.up, b.note) == (a.down, a.up, a.note)


def with_scorer(state: State, name: str, by: float) -> State:
    """The state with one of its two scorers pushed away."""
    scorer = {k: v for k, v in state.server.items() if k.startswith(f"learn.{name}.")}
    pushed = {k: v + by * random(*v.shape, seed=3).double() for k, v in scorer.items()}
    return replace(state, server={**state.server, **pushed})


@pytest.mark.parametrize("token", ["birth", "update"])
def test_a_newcomer_is_met_by_the_scorer_that_did_best(token: str) -> None:
    made, state = trained({"train": "valgrad", "join_token": token, "lone": 0})
    row = join(made, state).row
    assert row is not None
    for name, matters in (("phi", False), ("best", True)):
        other = join(made, with_scorer(state, name, 0.5)).row
        assert other is not None
        assert float((other - row).abs().max()) > 1e-3 if matters else torch.equal(other, row)


def test_the_row_of_a_newcomer_is_that_of_the_scorers_similarities() -> None:
    made, state = trained({"train": "surrogate", "lone": 0, "heads": 2})
    state = with_scorer(state, "best", 0.2)
    got, best = join(made, state), learner_of(state).best
    w = Bench(made).trainer.at(0, N).sgd(TASK.w0, NEW.train)
    z = unit(torch.cat([state.client["birth"], (w - TASK.w0)[None]]).double())  # P < r: nothing is projected
    everybody = Others(TASK.n, torch.ones(N, dtype=torch.bool))
    rows = [
        newcomer_row(s, everybody, replace(attn(made)._options("all", 2, TASK), tau=tau)).weights
        for s, tau in zip(similarities(best, z), best.log_tau.exp().tolist(), strict=True)
    ]
    assert got.row is not None
    torch.testing.assert_close(got.row, torch.stack(rows).mean(0) @ state.server["map"], rtol=0, atol=1e-9)


@every_lesson
def test_newcomers_enter_and_teach_once_they_have_a_row_of_the_scorer(params: Params) -> None:
    made, state = trained(params)
    larger = model_attn({"meta_rate": 0.05, **params}, data=federation((*SIZES, 11)))
    task = larger.task()
    grown = larger.method.add_clients(state, [join(made, state)], task)
    assert torch.equal(grown.server["judges"][:N], state.server["judges"])
    assert scorer_bits(grown) == scorer_bits(state)
    assert members(grown, 2).tolist() == list(range(N))
    sent = uploads(larger, grown, round=3)
    assert "slope" not in sent[N].sent
    now = aggregated(larger, sent, round=3, state=grown, n=task.n)
    assert scorer_bits(now) == scorer_bits(aggregated(larger, sent[:N], round=3, state=grown, n=task.n))
    assert scorer_bits(now) == scorer_bits(aggregated(made, sent[:N], round=3, state=state))
    assert members(now, 3).tolist() == list(range(N + 1))
    assert all(torch.isfinite(w).all() for w in models(larger, now))


# What is refused

REFUSED: list[tuple[Params, str]] = [
    ({"qk": "learned", "tau": "inf"}, "qk=learned does not go with tau=inf"),
    ({"train": "surrogate", "tau": "inf"}, "train=surrogate does not go with tau=inf"),
    ({"qk": "learned", "token": "prototypes"}, "qk=learned does not go with token=prototypes"),
    ({"train": "valgrad", "token": "prototypes"}, "train=valgrad does not go with token=prototypes"),
    ({"token": "model", "qk": "learned", "hier": "kmeans"}, "qk=learned does not go with hier=kmeans"),
    ({"token": "model", "train": "surrogate", "hier": "gmm"}, "train=surrogate does not go with hier=gmm"),
    ({"token": "model", "train": "valgrad", "qk": "free"}, "train=valgrad does not go with qk=free"),
    ({"train": "proxy"}, "train=proxy"),
]


@pytest.mark.parametrize(("params", "line"), REFUSED, ids=name_of)
def test_contradictions_are_refused_by_name(params: Params, line: str) -> None:
    with pytest.raises(UsageError, match=f"--set {line}") as caught:
        methods.create("attn", params)
    assert "\n" not in str(caught.value)


def test_weights_per_class_cannot_be_learned_through() -> None:
    made = model_attn({"train": "surrogate"}, head_mix="classes")
    with pytest.raises(UsageError, match="--head-mix classes does not go with --set train=surrogate"):
        made.method.check(made.task())
    play(model_attn({"qk": "learned"}, head_mix="classes"))


def test_validation_gradients_need_validation_data() -> None:
    made = model_attn({"train": "valgrad"})
    made.method.check(TASK)
    lacking = replace(TASK, n_val=TASK.n_val * (torch.arange(len(TASK.n_val)) != 1))
    with pytest.raises(UsageError, match="client 1 has no validation data; raise --val-share"):
        made.method.check(lacking)
    model_attn().method.check(lacking)
