"""Attacks and defences compose with one model, cluster models and mixed rows in the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from attacked import BAD, attacked, defended, plain
from toys import federation, job, models, play, random

from fltk import defences
from fltk.attacks.base import Group, Sent
from fltk.attacks.campaign import choose, groups
from fltk.defences.base import Defence
from fltk.defences.guard import DefenceRun
from fltk.engine.base import Bench, Job
from fltk.engine.serial import Serial
from fltk.engine.work import RootTask, train_root
from fltk.errors import UsageError
from fltk.names import ATTACKS, DEFENCES
from fltk.protocol.messages import Upload
from fltk.protocol.server import Server
from fltk.rounds import attack, pipeline, terms
from fltk.rounds.cohort import Cohort
from fltk.train.streams import Streams

EIGHT = federation(sizes=[12] * 8)
# One global model, one cluster, and mixed rows whose map is 1/n everywhere.
SAME: Mapping[str, Mapping[str, object]] = {"fedavg": {}, "ifca": {"clusters": 1}, "attn": {"tau": "inf"}}
# attn stores no upload that lies far out, and where weights are not known before, a scaled update is longer.
MILD: Mapping[str, Mapping[str, object]] = {"scale": {"gamma": 2}, "same-value": {"value": 0.05}}
WEIGHTED = [name for name in DEFENCES if "combine" in defences.defence_class(name).forms.get("mixed", ())]


def eight(method: str, **train: object) -> Job:
    return job(method, SAME.get(method, {}), data=EIGHT, **{"agg_weights": "uniform", "rounds": 3, **train})


def result(made: Job) -> torch.Tensor:
    return models(made, play(made)[-1].state)


@pytest.mark.parametrize("kind", ATTACKS)
def test_every_kind_of_method_comes_to_the_same_model_under_every_attack(kind: str) -> None:
    found = [result(attacked(eight(method), kind, MILD.get(kind))) for method in SAME]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)
    if kind not in ("label-flip", "badnets", "dba"):
        assert not torch.allclose(found[0], result(eight("fedavg")), atol=1e-4)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("kind", ["sign-flip", "ipm", "min-max"])
def test_every_kind_of_method_comes_to_the_same_model_under_every_weighted_rule(name: str, kind: str) -> None:
    found = [result(defended(attacked(eight(method), kind), name)) for method in SAME]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("method", ["fedavg", "fedamp", "ifca", "attn"])
def test_nobody_malicious_is_the_honest_run_bit_for_bit(kind: str, method: str) -> None:
    made = job(method, rounds=3)
    assert [r.digest for r in play(attacked(made, kind, malicious=()))] == [r.digest for r in play(made)]


def test_nobody_is_malicious_before_the_start_and_behind_the_end() -> None:
    made = job("fedamp", rounds=4)
    honest = [r.digest for r in play(made)]
    late = play(attacked(made, "sign-flip", start=2))
    assert [r.digest for r in late][:2] == honest[:2]
    assert late[2].digest != honest[2]
    early = play(attacked(made, "sign-flip", start=0, stop=1))
    again = play(attacked(made, "sign-flip", start=0))
    assert early[0].digest == again[0].digest
    assert early[1].digest != again[1].digest


def everybody_trusted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A defence of this name that judges, and finds nothing."""
    cls = defences.defence_class(name)
    monkeypatch.setattr(cls, "screen", Defence.screen)


@pytest.mark.parametrize(
    "method", ["fedavg", "scaffold", "fedper", "ditto", "fedamp", "ifca", "cfl", "cluster-gmm", "attn"]
)
def test_a_screen_that_trusts_everybody_is_no_defence_bit_for_bit(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    everybody_trusted(monkeypatch, "multi-krum")
    made = job(method, data=federation(sizes=(12, 23, 8, 17, 9)), rounds=3)
    bare, judged = play(made)[-1].state, play(defended(made, "multi-krum", share=0.2, weights="method"))[-1].state
    assert plain(bare).keys() == plain(judged).keys()
    assert all(torch.equal(plain(bare)[key], tensor) for key, tensor in plain(judged).items())


@pytest.mark.parametrize(
    ("kind", "name"),
    [("zero-gradient", ""), ("mimic", "centered-clip"), ("random-model", "foolsgold"), ("sign-flip", "norm-clip")],
)
@pytest.mark.parametrize("method", ["fedavg", "fedamp", "cluster-kmeans", "attn"])
def test_a_resumed_attacked_run_is_the_run(kind: str, name: str, method: str) -> None:
    def make(rounds: int) -> Job:
        made = job(method, {"warmup": 2} if method == "cluster-kmeans" else {}, rounds=rounds, participation=0.75)
        made = attacked(made, kind, {"mode": "delta"} if kind == "zero-gradient" else {})
        return defended(made, name) if name else made

    whole, half = play(make(5)), play(make(3))[-1]
    stored = type(half.state).from_tensors({k: v.clone() for k, v in half.state.tensors().items()})
    rest = play(make(5), resume=(3, stored))
    assert [r.digest for r in rest] == [r.digest for r in whole][3:]


# The round, step by step


def uploads_of(made: Job, round: int = 0) -> tuple[pipeline.Faced, list[torch.Tensor]]:
    """A first round's uploads as the method gets them, and as they were trained."""
    task, engine = made.task(), Serial(made)
    state = made.method.init(task)
    downs = made.method.downlink(state, range(task.n_clients), task)
    trained, _ = Cohort(made.method, task, round, range(task.n_clients), downs).trained(engine)
    return pipeline.face(made, engine, state, downs, trained, Server(round, task)), [u.w for u in trained]


def test_attackers_see_unpoisoned_uploads_and_leave_those_of_others_alone() -> None:
    made = attacked(job("fedavg"), "zero-sum")
    faced, trained = uploads_of(made)
    w0 = made.task().w0
    for u, w in zip(faced.uploads, trained, strict=True):
        assert torch.equal(u.w, w) == (u.client not in BAD)
    total = sum((u.w - w0).double() for u in faced.uploads)
    assert float(total.abs().max()) < 1e-6


def test_only_shared_columns_are_touched() -> None:
    made = attacked(job("fedper"), "same-value")
    honest, state = (
        play(job("fedper", rounds=1))[-1].state,
        play(replace(made, train=replace(made.train, rounds=1)))[-1].state,
    )
    assert torch.equal(honest.client["private"], state.client["private"])
    assert not torch.equal(honest.server["w"], state.server["w"])


def test_an_upload_that_is_not_finite_is_dropped_and_counted() -> None:
    made = attacked(job("fedavg", rounds=1), "gaussian-noise", {"sigma": 3e38})
    done = play(made)[-1]
    assert done.scalars["dropped"] == len(BAD)
    left = [i for i in range(4) if i not in BAD]
    assert (done.state.last[left] == 0).all()
    assert (done.state.last[list(BAD)] == -1).all()
    clean = uploads_of(job("fedavg", rounds=1))[1]
    p = made.task().weights(left)
    expected = sum(p[k] * clean[i].double() for k, i in enumerate(left))
    torch.testing.assert_close(done.state.server["w"].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("setting", ["lr", "epochs"])
def test_nothing_that_an_attacker_sends_makes_numbers_infinite(setting: str) -> None:
    """SCAFFOLD divides by the way that a client has gone, and an attacker may go none."""
    done = play(attacked(job("scaffold", rounds=3), "badnets", {setting: 0}))
    assert [one.scalars["dropped"] for one in done] == [0, 0, 0]
    assert all(bool(torch.isfinite(t).all()) for t in done[-1].state.tensors().values())


def test_an_upload_is_dropped_for_anything_in_it_that_is_not_finite() -> None:
    whole, broken = Upload(torch.zeros(3)), Upload(torch.zeros(3), sent={"dc": torch.tensor([0.0, math.nan])})
    assert pipeline.finite([whole, broken]) == [whole]


def test_a_row_from_which_the_server_cannot_train_is_left_as_it_is() -> None:
    """Else one upload could end a run under a rule that trains from uploads."""
    bench = Bench(job("fedavg"))
    bench.__dict__["root"] = bench.client(0).train
    far = torch.full((bench.backend.layout.size,), 1e30)
    assert torch.equal(train_root(bench, RootTask(0, far)), far)


def test_model_replacement_knows_that_a_defence_averages_equally() -> None:
    uneven = federation(sizes=(40, 8, 8, 8))
    made = defended(job("fedavg", data=uneven), "dnc", {"c": 0})
    uploads = uploads_of(made)[1]
    given = [Upload(w, client=i) for i, w in enumerate(uploads)]
    assert terms.weights_of(made, made.task(), given).tolist() == [0.25] * 4
    assert terms.weights_of(job("fedavg", data=uneven), made.task(), given)[0] == pytest.approx(40 / 64)


def test_training_that_diverges_under_attack_ends_no_run() -> None:
    done = play(attacked(job("fedavg", rounds=3), "same-value", {"value": 1e30}))
    assert len(done) == 3
    assert done[-1].scalars["dropped"] > 0


def test_malicious_clients_that_go_on_with_their_own_model_keep_the_trained_one() -> None:
    """FedAMP: what they upload is poisoned, what they train from is not, and the server does not know it."""
    made = attacked(job("fedamp", rounds=1), "same-value", {"value": 3.0})
    state = play(made)[-1].state
    honest = play(job("fedamp", rounds=1))[-1].state
    task = made.task()
    downs = made.method.downlink(state, range(4), task)
    starts = attack.own_starts(made, state, range(4), downs)
    for i in range(4):
        assert torch.equal(starts[i].w, honest.client["w"][i])
        assert torch.equal(downs[i].w, starts[i].w) == (i not in BAD)


def test_who_stops_attacking_goes_on_with_the_model_that_it_has_trained() -> None:
    made = attacked(job("fedamp", rounds=4), "same-value", {"value": 3.0}, stop=2)
    for done in play(made):
        own = done.state.server.get("attack-own")
        assert own is not None
        assert bool(own.isnan().all()) == (done.round > 2)
        task = made.task()
        downs = made.method.downlink(done.state, range(4), task)
        starts = attack.own_starts(made, done.state, range(4), downs)
        same = [torch.equal(a.w, b.w) for a, b in zip(starts, downs, strict=True)]
        assert same == [done.round > 2 or i not in BAD for i in range(4)]


def test_equal_clients_give_attackers_their_fair_share_and_no_more() -> None:
    done = play(attacked(eight("fedavg"), "sign-flip"))[-1]
    assert done.scalars["mal_weight"] == pytest.approx(1 / 8, abs=1e-12)
    assert done.scalars["mal_weight_ratio"] == pytest.approx(1, abs=1e-12)
    assert done.scalars["attackers"] == len(BAD)
    half = play(attacked(eight("fedavg", participation=0.5), "sign-flip"))
    assert {r.scalars["attackers"] for r in half} <= {0.0, 1.0, 2.0}
    for r in half:
        assert ("mal_weight_ratio" in r.scalars) == (r.scalars["attackers"] > 0)
        if r.scalars["attackers"]:  # the mean over malicious participants, whatever their number
            assert r.scalars["mal_weight_ratio"] == pytest.approx(1, abs=1e-12)


def test_further_models_of_an_upload_are_poisoned_too() -> None:
    """A clustering method that probes with a second model: both rows of an attacker are random."""
    params = {"warmup": 1, "k": 2, "recluster": 1}
    made = attacked(job("cluster-kmeans", params, rounds=2), "same-value", {"value": 9.0, "space": "weights"})
    task, engine = made.task(), Serial(made)
    state = play(replace(made, train=replace(made.train, rounds=1)))[-1].state
    downs = made.method.downlink(state, range(4), task)
    trained, _ = Cohort(made.method, task, 1, range(4), downs).trained(engine)
    assert all("probe" in u.sent for u in trained)
    for u in pipeline.face(made, engine, state, downs, trained, Server(1, task)).uploads:
        assert bool((u.sent["probe"] == 9).all()) == (u.client in BAD)


def test_claimed_samples_count_in_the_average() -> None:
    made = attacked(job("fedavg", rounds=1), "random-model", size=10)
    done = play(made)[-1]
    n = made.task().n.double()
    n[list(BAD)] *= 10
    torch.testing.assert_close(done.state.server["p"], n / n.sum())


# Who hides among whom


def stage(references: list[int], malicious: tuple[int, ...]) -> Group:
    rows = random(4, 5)
    members = tuple(Sent(k, random(5, seed=k + 9), rows[r].clone()) for k, r in enumerate(references))
    return Group(members, frozenset(malicious), 5, "all")


def test_a_group_has_one_reference_and_two_benign_members_or_is_everybody() -> None:
    found = groups(stage([0, 0, 0, 1, 1, 2, 1, 1], (0, 3, 5)))
    assert [[m.client for m in members] for _, members in found] == [[0], [3], [5]]
    assert [[s.client for s in g.members] for g, _ in found] == [[0, 1, 2], [3, 4, 6, 7], [*range(8)]]
    assert [g.rule for g, _ in found] == ["same-reference", "same-reference", "all"]
    assert [(g.n, g.f) for g, _ in found] == [(3, 1), (4, 1), (8, 3)]
    together = groups(stage([0, 0, 0, 1, 1, 2, 2, 0], (0, 2, 3, 5)))
    assert [[m.client for m in members] for _, members in together] == [[0, 2], [3, 5]]


def test_the_malicious_set_is_a_share_of_all_clients_or_those_named() -> None:
    drawn = choose(0.2, (), 20, Streams(1))
    assert len(drawn) == 4
    assert drawn == choose(0.2, (), 20, Streams(1)) != choose(0.2, (), 20, Streams(2))
    assert list(drawn) == sorted(set(drawn))
    assert choose(0.2, (7, 3), 20, Streams(1)) == (3, 7)
    with pytest.raises(UsageError, match=r"--attackers.*no client 20"):
        choose(0.2, (20,), 20, Streams(1))


# Trust, clipping, and the target's own row


def guard_of(name: str, kind: str, n: int = 4, share: float = 0.0) -> DefenceRun:
    return DefenceRun(defences.create(name, {}), kind, share, False, 5, Streams(1), n)


def test_trust_is_weighed_before_normalising_and_nobody_trusted_keeps_the_model() -> None:
    watch = guard_of("multi-krum", "one").watch(
        0, [0, 1, 2, 3], list(random(4, 5)), [torch.zeros(5)] * 4, torch.ones(4) / 4, {}
    )
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    watch.trust = torch.tensor([1.0, 0.5, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(watch.weigh(p, [0, 1, 2, 3]), torch.tensor([0.1, 0.1, 0, 0.4]).double() / 0.6)
    watch.trust = torch.ones(4, dtype=torch.float64)
    assert watch.weigh(p, [0, 1, 2, 3]) is p
    watch.trust = torch.zeros(4, dtype=torch.float64)
    context, origin = Server(0, job("fedavg").task(), watch), random(5, seed=8)
    row, used = context.average(list(random(4, 5)), p, [0, 1, 2, 3], origin)
    assert torch.equal(row, origin)
    assert not used.any()
    assert watch.numbers["defence_kept"] == 1


def test_a_client_always_trusts_itself_in_a_map() -> None:
    watch = guard_of("multi-krum", "mixed").watch(
        0, [0, 1, 2, 3], list(random(4, 5)), [torch.zeros(5)] * 4, torch.ones(4) / 4, {}
    )
    a = torch.softmax(random(4, 4).double(), 1)
    a[3] = torch.tensor([0.5, 0.5, 0, 0])
    watch.trust = torch.tensor([0.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    got = watch.weigh_map(a)
    for i in range(3):
        raw = [float(a[i, j]) * (1.0 if i == j else float(watch.trust[j])) for j in range(4)]
        torch.testing.assert_close(got[i], torch.tensor(raw).double() / sum(raw))
    assert got[3].tolist() == [0, 0, 0, 1]  # without a trusted peer: the own model
    watch.trust = torch.ones(4, dtype=torch.float64)
    assert watch.weigh_map(a) is a


def test_clipped_rows_are_what_others_get_and_the_own_row_is_what_it_was() -> None:
    """norm-clip with fedamp: u_i = sum_j A_ij w^_j with w_i in the place of w^_i, as loops."""
    made = defended(job("fedamp", rounds=1), "norm-clip", {"limit": 0.01})
    state, task = play(made)[-1].state, made.task()
    w, xi = state.client["w"].double(), state.server["xi"]
    w0 = task.w0.double()
    length = (w - w0).norm(dim=1, keepdim=True)
    others = w0 + (w - w0) * (0.01 / length).clamp_max(1)
    for i in range(4):
        expected = sum(float(xi[i, j]) * (w[j] if i == j else others[j]) for j in range(4))
        torch.testing.assert_close(state.client["mixed"][i].double(), expected, rtol=0, atol=1e-6)
    assert (torch.tensor([math.isclose(float(x), 0.01, rel_tol=1e-3) for x in (others - w0).norm(dim=1)])).all()


def test_soft_clusters_keep_their_memberships_under_equal_weights() -> None:
    made = defended(job("cluster-gmm", {"soft": "yes", "warmup": 1, "k": 2}, rounds=2), "median", weights="uniform")
    context = Server(
        0, made.task(), guard_of("median", "clusters").watch(0, [0], [random(5)], [random(5)], torch.ones(1), {})
    )
    equal = replace(context, watch=replace_equal(context))
    assert equal.weights([0, 1, 2]).tolist() == pytest.approx([1 / 3] * 3)
    assert play(made)


def replace_equal(context: Server) -> object:
    """The context's watch under a guard that weighs all clients equally."""
    assert context.watch is not None
    return replace(context.watch, guard=replace(context.watch.guard, equal=True))


def test_scaffold_trusts_increments_as_it_trusts_models() -> None:
    """A client without trust moves neither the model nor the server's control variate."""
    made = defended(attacked(job("scaffold", rounds=1, data=EIGHT), "same-value", {"value": 50.0}), "multi-krum")
    state = play(made)[-1].state
    assert not bool(state.server["p"][list(BAD)].any())
    judged = [i for i in range(8) if float(state.server["p"][i]) > 0]
    expected = sum(state.client["c"][i].double() for i in judged) / 8
    torch.testing.assert_close(state.server["c"].double(), expected, rtol=0, atol=1e-6)


# What is too small is lowered and told, never silently


def test_a_rule_without_room_is_lowered_or_left_out_and_says_so() -> None:
    data = federation(sizes=[12] * 8, groups=(0, 0, 0, 0, 0, 0, 1, 1))
    made = attacked(defended(job("oracle", data=data, rounds=1), "krum", share=0.25), "sign-flip", malicious=(0, 6))
    done = play(made)[-1]
    assert done.scalars["defence_mean"] == 1  # the group of two
    assert any("mean of 2 clients" in text for text in done.notes)
    five = attacked(defended(job("oracle", data=data, rounds=1), "bulyan", share=0.2), "sign-flip", malicious=(0, 6))
    told = play(five)[-1]
    assert told.scalars["defence_lowered"] == 1  # the group of six: 4 f + 3 <= 6 allows none
    assert any("lowered from 1 to 0 among 6" in text for text in told.notes)


@pytest.mark.parametrize(
    ("method", "name", "share", "said"),
    [
        ("fedavg", "krum", 0.4, "--defence krum needs n >= 2f \\+ 3.*f = 3.*--defence-fraction"),
        ("attn", "krum", 0.2, "--defence krum does not go with.*take multi-krum"),
        ("local", "median", 0.2, "--defence median.*leave --defence out"),
        ("fedavg", "fltrust", 0.2, "--defence fltrust needs a clean set.*--newcomers"),
        ("scaffold", "dp-fedavg", 0.0, "--defence dp-fedavg.*changes of control variates"),
        ("ifca", "dp-fedavg", 0.0, "--defence dp-fedavg does not go with a method of cluster models"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(method: str, name: str, share: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        play(defended(job(method, data=EIGHT), name, share=share))


def test_more_attackers_than_a_defence_can_face_are_refused_whatever_it_assumes() -> None:
    made = attacked(job("fedavg", data=EIGHT), "random-model", malicious=range(5))
    with pytest.raises(UsageError, match=r"--malicious.*5 of the 8.*at most 3"):
        play(defended(made, "trimmed-mean", share=0.2))
    with pytest.raises(UsageError, match="--head-mix classes"):
        play(defended(job("fedavg", data=EIGHT, head_mix="classes"), "median", share=0.2))
