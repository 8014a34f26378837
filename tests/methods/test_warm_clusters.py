"""cluster-kmeans and cluster-gmm: limits, tokens, late clients, re-clustering, maps and newcomers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attacked import attacked
from torch import Tensor
from toys import aggregated, federation, final, job, made_up, models, play, random, rows, uploads

from fltk import methods
from fltk.engine.base import Bench, Job
from fltk.engine.serial import Serial
from fltk.methods.clusters import cluster_means
from fltk.methods.warm_clusters import WarmClusters, everybody, placed_clients, shared_means
from fltk.partition.federation import Federation
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.rounds import loop

BOTH = pytest.mark.parametrize("method", ["cluster-kmeans", "cluster-gmm"])
GROUPS = (0, 1, 0, 1, 0, 1)


def swapped(sizes: tuple[int, ...] = (40,) * 6) -> Federation:
    """Two groups that call the classes by other names."""
    data = federation(sizes, groups=GROUPS[: len(sizes)])
    for client in data.clients:
        if client.id % 2:
            client.train.y.copy_((client.train.y + 1) % 4)
    return data


def grouped(method: str, params: Mapping[str, Any] | None = None, **train: Any) -> Job:
    return job(method, {"k": 2, "warmup": 2, **(params or {})}, data=swapped(), **{"rounds": 4, "lr": 0.3, **train})


def labels(made: Job, state: State) -> list[float]:
    return made.method.client_diagnostics(state, made.task())["cluster"].tolist()


@BOTH
@pytest.mark.parametrize("settings", [{}, {"agg_weights": "uniform"}, {"participation": 0.5}])
def test_one_cluster_is_fedavg_bit_for_bit(method: str, settings: dict[str, Any]) -> None:
    params = {"k": 1, "warmup": 2, "recluster": 2}
    assert torch.equal(final(method, params, rounds=6, **settings), final("fedavg", rounds=6, **settings))


def test_one_soft_cluster_is_fedavg_bit_for_bit() -> None:
    assert torch.equal(final("cluster-gmm", {"k": 1, "warmup": 1, "soft": "yes"}, rounds=4), final("fedavg", rounds=4))


@BOTH
def test_the_warm_up_is_fedavg_bit_for_bit(method: str) -> None:
    assert torch.equal(final(method, {"warmup": 5}, rounds=4), final("fedavg", rounds=4))


@BOTH
def test_as_many_clusters_as_clients_is_local_training_from_the_warm_model(method: str) -> None:
    made = job(method, {"k": 4, "warmup": 2}, rounds=5)
    alone = job("local", rounds=5)
    warm = play(made)[1].state.server["w"]
    start = alone.method.init(alone.task())
    begun = replace(start, client={k: warm.repeat(4, 1) for k in start.client})
    ours, theirs = play(made)[-1].state, play(alone, resume=(2, begun))[-1].state
    assert torch.equal(models(made, ours), models(alone, theirs))


@BOTH
def test_groups_are_found_and_kept_apart(method: str) -> None:
    made = grouped(method)
    done = play(made)
    assert [("clusters" in d.scalars) for d in done] == [False, True, True, True]
    assert labels(made, done[-1].state) == [0, 1, 0, 1, 0, 1]
    assert done[-1].scalars["cluster_ari"] == done[-1].scalars["cluster_nmi"] == 1.0
    assert done[-1].scalars["changed"] == 0.0
    assert done[-1].map is not None
    weights = done[-1].map.whole()
    assert float(weights[0::2, 1::2].abs().max()) == float(weights[1::2, 0::2].abs().max()) == 0.0
    np.testing.assert_array_equal(done[-1].clients["cluster"], [0, 1, 0, 1, 0, 1])
    assert np.isnan(done[0].clients["cluster"]).all()


@BOTH
@pytest.mark.parametrize("embed", ["params", "both", "label-hist-oracle"])
def test_other_tokens_work_and_are_of_their_kind(method: str, embed: str) -> None:
    made = grouped(method, {"embed": embed})
    state = play(made)[-1].state
    size = made.task().layout.size
    width = {"params": size, "both": 2 * size, "label-hist-oracle": 4}[embed]
    assert state.client["token"].shape == (6, width)
    assert placed_clients(state).all()


def test_a_token_is_the_sum_of_the_directions_of_all_updates() -> None:
    made = job("cluster-kmeans", {"warmup": 3}, rounds=2)
    task, state = made.task(), made.method.init(made.task())
    expected = torch.zeros(4, task.layout.size)
    for t in range(2):
        sent = uploads(made, state, round=t)
        for u in sent:
            update = u.w - state.server["w"]
            expected[u.client] += update / update.norm()
        state = made.method.aggregate(state, sent, Server(t, task))
    torch.testing.assert_close(state.client["token"], expected, rtol=0, atol=1e-6)


def test_the_lengths_of_updates_do_not_decide() -> None:
    """Magnitude is mostly data size: a group of long and short updates in two directions is cut by direction."""
    made = job("cluster-kmeans", {"k": 2, "warmup": 1})
    task = made.task()
    ways = random(2, task.layout.size)[[0, 1, 0, 1]] * torch.tensor([1.0, 1.0, 30.0, 30.0])[:, None]
    state = aggregated(made, made_up(made, task.w0 + ways))
    assert labels(made, state) == [0, 1, 0, 1]


@BOTH
def test_the_same_seed_gives_the_same_clusters(method: str) -> None:
    once, again = (play(grouped(method, {"k": 0}))[-1] for _ in range(2))
    assert once.digest == again.digest


@BOTH
@pytest.mark.parametrize("params", [{}, {"soft": "yes"}, {"recluster": 1}])
def test_the_map_times_the_uploads_is_what_everybody_starts_from(method: str, params: dict[str, Any]) -> None:
    if "soft" in params and method != "cluster-gmm":
        return
    made = job(method, {"k": 2, "warmup": 1, **params})
    task, state = made.task(), made.method.init(made.task())
    for t in range(4):
        sent = uploads(made, state, round=t)
        state = made.method.aggregate(state, sent, Server(t, task))
        made_map = made.method.mixing(state, task)
        assert made_map is not None and made_map.kind == "exact"
        expected = (made_map.whole() @ rows(made, sent).double()).float()
        torch.testing.assert_close(models(made, state), expected, rtol=0, atol=1e-6)
        starts = torch.stack([d.w for d in made.method.downlink(state, range(4), task)])
        torch.testing.assert_close(starts, expected, rtol=0, atol=1e-6)


def with_r(made: Job, r: Tensor, w: Tensor) -> dict[str, Tensor]:
    return {"models": random(r.shape[1], w.shape[1], seed=9), "rows": torch.zeros(r.shape[1], len(r)).double(), "r": r}


def test_soft_means_are_the_equation() -> None:
    """theta_k = sum_j r_jk n_j w_j / sum_j r_jk n_j, as a loop."""
    made = job("cluster-gmm", {"soft": "yes"})
    task, w = made.task(), random(4, made.task().layout.size)
    r = torch.softmax(random(4, 3, seed=2).double(), 1)
    got, weights = shared_means(with_r(made, r, w), made_up(made, w), Server(0, task))
    for k in range(3):
        top, bottom = torch.zeros(w.shape[1]).double(), 0.0
        for j in range(4):
            top += float(r[j, k] * task.n[j]) * w[j].double()
            bottom += float(r[j, k] * task.n[j])
        torch.testing.assert_close(got[k].double(), top / bottom, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights.sum(1), torch.ones(3).double())


def test_hard_soft_means_are_cluster_means_and_empty_clusters_keep_their_bits() -> None:
    made = job("cluster-gmm")
    task, w = made.task(), random(4, made.task().layout.size)
    r = torch.nn.functional.one_hot(torch.tensor([2, 0, 2, 0]), 3).double()
    server, sent = with_r(made, r, w), made_up(made, w)
    got, expected = (
        shared_means(server, sent, Server(0, task)),
        cluster_means(server, [2, 0, 2, 0], sent, Server(0, task)),
    )
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert torch.equal(got[0][1], server["models"][1])


def absent_first() -> tuple[Job, State]:
    """Clients 0 to 4 took part in the warm-up and were clustered; client 5 was away."""
    made = grouped("cluster-kmeans", {"warmup": 2})
    task, state = made.task(), made.method.init(made.task())
    for t in range(3):
        state = made.method.aggregate(state, uploads(made, state, ids=range(5), round=t), Server(t, task))
    return made, state


def test_who_was_away_in_the_warm_up_is_placed_on_first_sight() -> None:
    made, state = absent_first()
    task = made.task()
    assert labels(made, state)[:5] == [0, 1, 0, 1, 0] and np.isnan(labels(made, state)[5])
    before = made.method.personal_model(state, [5], task)[0]
    torch.testing.assert_close(before, everybody(state, task))
    made_map = made.method.mixing(state, task)
    assert made_map is not None
    torch.testing.assert_close(made_map.whole().sum(1), torch.ones(6).double())

    [down] = made.method.downlink(state, [5], task)
    assert torch.equal(down.w, state.server["w"]) and down.first
    after = made.method.aggregate(state, uploads(made, state, ids=[5], round=3), Server(3, task))
    assert torch.equal(after.server["models"], state.server["models"])  # its upload began elsewhere: a token only
    assert labels(made, after) == [0, 1, 0, 1, 0, 1]
    assert torch.equal(made.method.personal_model(after, [5], task)[0], state.server["models"][1])


@BOTH
def test_partial_participation_ends_with_all_that_were_seen_in_a_cluster(method: str) -> None:
    made = grouped(method, rounds=8, participation=0.5)
    done = play(made)
    for d in done:
        if "models" in d.state.server:
            assert torch.equal(placed_clients(d.state), d.state.last >= 0)
    assert bool((done[-1].state.last >= 0).all()) and done[-1].scalars["clusters"] == 2.0


def test_clusters_are_made_anew_from_updates_of_one_common_model() -> None:
    made = grouped("cluster-kmeans", {"recluster": 2}, rounds=6)
    task, state = made.task(), made.method.init(made.task())
    for t in range(6):
        due = t in (3, 5)
        downs = made.method.downlink(state, range(6), task)
        assert all(("probe" in d.server) == due for d in downs)
        if due:
            torch.testing.assert_close(downs[0].server["probe"], everybody(state, task))
        token = state.client["token"]
        state = made.method.aggregate(state, uploads(made, state, round=t), Server(t, task))
        assert torch.equal(token, state.client["token"]) != (due or t < 2)
        if t > 0:
            assert labels(made, state) == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("lost", [2, 3, 4])
def test_a_round_whose_uploads_are_all_lost_does_not_move_the_clustering(lost: int) -> None:
    """Rounds 3 and 5, counted from 0, are due; of a lost one nothing is left, and the others come when they are due."""
    made = grouped("cluster-kmeans", {"recluster": 2}, rounds=6)
    made = attacked(made, "gaussian-noise", {"sigma": 3e38}, malicious=range(6), start=lost, stop=lost + 1)
    done = play(made)
    assert [d.scalars["dropped"] for d in done] == [6.0 * (t == lost) for t in range(6)]
    tokens = [torch.zeros_like(done[0].state.client["token"]), *(d.state.client["token"] for d in done)]
    heard = [t for t in range(6) if not torch.equal(tokens[t], tokens[t + 1])]
    assert heard == [t for t in (0, 1, 3, 5) if t != lost]
    for t in (2, 3, 4, 5):
        downs = made.method.downlink(done[t - 1].state, range(6), made.task())
        assert all(("probe" in d.server) == (t in (3, 5)) for d in downs), "nobody trains a probe in vain"
    stored = State.from_tensors(done[lost].state.tensors())
    assert [d.digest for d in play(made, resume=(lost + 1, stored))] == [d.digest for d in done[lost + 1 :]]


def test_a_clusters_number_outlives_the_clustering() -> None:
    """However the clusters come out of k-means, they are called what the majority of their clients were called."""
    made, state = absent_first()
    server = {**state.server, "name": torch.tensor([7, 3])}
    again = made.method
    assert isinstance(again, WarmClusters)
    probed = again._clustered(replace(state, server=server), Server(9, made.task()), fallback=state.server["w"])
    assert probed.server["name"].tolist() == [7, 3]
    assert torch.equal(probed.server["models"], state.server["models"])
    single = methods.create("cluster-kmeans", {"k": 3})
    assert isinstance(single, WarmClusters)
    more = single._clustered(replace(state, server=server), Server(9, made.task()), fallback=state.server["w"])
    assert sorted(more.server["name"].tolist()) == [3, 7, 8]
    fresh = more.server["name"].tolist().index(8)
    assert torch.equal(more.server["models"][fresh], state.server["w"])


@BOTH
@pytest.mark.parametrize("embed", ["update", "params", "both", "label-hist-oracle"])
def test_a_newcomer_with_a_clients_data_joins_that_clients_cluster(method: str, embed: str) -> None:
    made = grouped(method, {"embed": embed})
    task, state, bench = made.task(), play(made)[-1].state, Bench(made)
    own = labels(made, state)
    for twin in (0, 1, 2, 3):
        got = made.method.join(state, replace(bench.client(twin), id=6), bench.trainer.at(0, 6), task)
        if embed == "update":
            assert torch.equal(got.model, state.server["models"][int(own[twin])])
        assert got.row is not None
        torch.testing.assert_close(got.row.sum(), torch.ones(()).double())
        assert torch.equal(got.arrival, state.server["w"])


def test_a_newcomer_enters_its_cluster_and_trains_on() -> None:
    made = grouped("cluster-kmeans", {})
    task, state, bench = made.task(), play(made)[-1].state, Bench(made)
    twin = replace(bench.client(1), id=6)
    joined = made.method.join(state, twin, bench.trainer.at(0, 6), task)
    larger = replace(
        task,
        n=torch.cat([task.n, task.n[1:2]]),
        label_counts=torch.cat([task.label_counts, task.label_counts[1:2]]),
        groups=None,
    )
    after = made.method.add_clients(state, [joined], larger)
    assert made.method.client_diagnostics(after, larger)["cluster"].tolist() == [0, 1, 0, 1, 0, 1, 1]
    assert torch.equal(made.method.personal_model(after, [6], larger)[0], joined.model)
    assert after.server["rows"].shape == (2, 7) and after.last.tolist()[6] == -1


def test_no_global_model_but_with_one_cluster() -> None:
    for k in (0, 1, 2):
        made = grouped("cluster-kmeans", {"k": k})
        shared = made.method.global_model(play(made)[-1].state, made.task())
        assert (shared is None) == (k != 1)


@BOTH
def test_a_resumed_run_is_the_run(method: str) -> None:
    made = grouped(method, {"recluster": 1}, rounds=6, participation=0.6)
    whole = play(made)
    for at in (1, 2, 4):
        stored = {k: v.clone() for k, v in whole[at - 1].state.tensors().items()}
        rest = list(loop.rounds(made, Serial(made), resume=(at, State.from_tensors(stored))))
        assert [d.digest for d in rest] == [d.digest for d in whole[at:]]
        assert [d.scalars.get("changed") for d in rest] == [d.scalars.get("changed") for d in whole[at:]]
