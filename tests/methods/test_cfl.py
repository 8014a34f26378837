"""cfl: when a cluster is split, how, and what a newcomer finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import federation, final, job, made_up, models, play, random, rows, uploads

from fltk.attention.tokens import cosines
from fltk.engine.base import Bench, Job
from fltk.memory.products import gram
from fltk.methods.cfl import CFL, bipartition, nearer_side
from fltk.protocol.messages import Upload
from fltk.protocol.server import Server
from fltk.protocol.state import State

SMALL = {"eps1": 0.5, "eps2": 0.5, "t_min": 0, "min_size": 2}


def crowd(n: int, **params: Any) -> Job:
    return job("cfl", {**SMALL, **params}, data=federation((10,) * n))


def cosine(updates: Tensor) -> Tensor:
    return cosines(gram(updates, torch.zeros_like(updates[0])))


def moved(made: Job, state: State, updates: Tensor, ids: Sequence[int] | None = None) -> State:
    """The state after everybody (or `ids`) has sent its start model plus a chosen update."""
    ids = range(len(updates)) if ids is None else ids
    starts = made.method.personal_model(state, ids, made.task())
    sent = [Upload(w + updates[i], client=i) for i, w in zip(ids, starts, strict=True)]
    return made.method.aggregate(state, sent, Server(int(state.last.max()) + 1, made.task()))


def clusters(state: State) -> list[int]:
    return state.server["cluster"].tolist()


def opposed(made: Job, sides: Sequence[int], seed: int = 0) -> Tensor:
    """Updates +v or -v with |v| = 1 and a little noise, (N, P)."""
    size = made.task().layout.size
    v = random(size, seed=seed)
    signs = torch.tensor([1.0 if s else -1.0 for s in sides])[:, None]
    return signs * v / v.norm() + 0.1 * random(len(sides), size, seed=seed + 1) / size**0.5


@pytest.mark.parametrize("settings", [{}, {"participation": 0.5}])
@pytest.mark.parametrize("params", [{"eps1": 0.0}, {"rel1": 0.0}])
def test_eps1_zero_is_uniform_fedavg_bit_for_bit(params: dict[str, Any], settings: dict[str, Any]) -> None:
    ours = final("cfl", {"t_min": 0, "min_size": 2, **params}, rounds=4, **settings)
    assert torch.equal(ours, final("fedavg", rounds=4, agg_weights="uniform", **settings))


@pytest.mark.parametrize("sides", [[0, 1], [0, 0, 1, 1], [1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 1, 1, 1, 0, 1]])
def test_the_bipartition_of_opposed_updates_is_exact_for_any_sizes(sides: list[int]) -> None:
    made = crowd(len(sides))
    side = bipartition(cosine(opposed(made, sides)))
    assert side[0] == 0
    assert [int(s) != int(side[0]) for s in side] == [s != sides[0] for s in sides]


def test_equal_halves_split_in_one_round_and_each_gets_the_mean_of_its_own() -> None:
    made = crowd(6)
    sides = [0, 1, 1, 0, 1, 0]
    updates = opposed(made, sides)
    state = made.method.init(made.task())
    after = moved(made, state, updates)
    assert clusters(after) == sides
    for k in (0, 1):
        members = [i for i, s in enumerate(sides) if s == k]
        expected = made.task().w0.double() + updates[members].double().mean(0)
        torch.testing.assert_close(after.server["models"][k].double(), expected, rtol=0, atol=1e-6)


def test_the_thresholds_are_those_of_the_paper() -> None:
    sides = [0, 1, 0, 1]
    for params, happens in (
        ({}, True),
        ({"eps1": 0.01}, False),  # the mean of the updates is longer
        ({"eps2": 2.0}, False),  # everybody is at rest
        ({"t_min": 1}, False),
        ({"min_size": 5}, False),
    ):
        made = crowd(4, **params)
        after = moved(made, made.method.init(made.task()), opposed(made, sides))
        assert (clusters(after) == sides) == happens, params


def test_unequal_halves_keep_the_mean_long() -> None:
    """Seven against three opposed clients: the mean is 0.4 of a single update, and the test does not fire."""
    made = crowd(10, eps1=0.39)
    sides = [0] * 7 + [1] * 3
    assert clusters(moved(made, made.method.init(made.task()), opposed(made, sides))) == [0] * 10
    made = crowd(10, eps1=0.41)
    assert clusters(moved(made, made.method.init(made.task()), opposed(made, sides))) == sides


def test_relative_thresholds_are_shares_of_the_longest_update_of_the_first_round() -> None:
    for scale in (0.01, 1.0, 100.0):
        made = crowd(4, eps1=None, eps2=None, rel1=0.5, rel2=0.5)
        after = moved(made, made.method.init(made.task()), scale * opposed(made, [0, 1, 0, 1]))
        assert clusters(after) == [0, 1, 0, 1]
        assert float(after.server["longest"]) == pytest.approx(scale, rel=0.05)
    method = CFL(rel1=0.2, rel2=0.6, eps2=7.0)
    assert method.thresholds(2.0) == (0.4, 7.0)


def twice(made: Job) -> tuple[State, Tensor]:
    """Eight clients in two opposed halves, then one half in two again; with client numbers that are no positions."""
    first = [1, 0, 1, 0, 0, 1, 1, 0]
    state = moved(made, made.method.init(made.task()), opposed(made, first))
    again = 10 * torch.eye(made.task().layout.size)[:8]  # updates of the other half agree: they are left alone
    second = {1: 0, 3: 1, 4: 1, 7: 0}
    for i, side in second.items():
        again[i] = opposed(made, [side], seed=5)[0]
    return moved(made, state, again), again


def test_after_two_splits_everybody_is_in_the_leaf_where_it_belongs() -> None:
    """Members of a later split are not the first rows of the federation."""
    made = crowd(8)
    state, _ = twice(made)
    assert sorted(set(clusters(state))) == [0, 1, 2]
    assert len(clusters(state)) == 8
    leaves = [{i for i, c in enumerate(clusters(state)) if c == k} for k in range(3)]
    assert sorted(map(sorted, leaves)) == [[0, 2, 5, 6], [1, 7], [3, 4]]
    assert len(state.server["models"]) == 3 == len(state.server["rows"])


def test_a_cluster_is_split_at_most_once_a_round() -> None:
    made = crowd(8)
    size = made.task().layout.size
    updates = torch.cat([torch.eye(size)[:4], -torch.eye(size)[:4]])  # four directions that cancel
    after = moved(made, made.method.init(made.task()), updates)
    assert len(after.server["models"]) == 2


def test_who_is_away_keeps_its_cluster_whole() -> None:
    made = crowd(4)
    updates = opposed(made, [0, 1, 0, 1])
    state = moved(made, made.method.init(made.task()), updates, ids=[0, 1, 3])
    assert clusters(state) == [0, 0, 0, 0]
    assert clusters(moved(made, state, updates)) == [0, 1, 0, 1]


def test_groups_that_disagree_are_found_in_training() -> None:
    data = federation((40,) * 8, groups=(0, 1) * 4)
    for client in data.clients:
        if client.id % 2:
            client.train.y.copy_((client.train.y + 1) % 4)
    done = play(job("cfl", {}, data=data, rounds=6, lr=0.2))
    assert done[-1].scalars["cluster_ari"] == 1.0
    assert [d.scalars["clusters"] for d in done][:2] == [1.0, 1.0]
    assert sum(d.scalars["changed"] for d in done) == 4.0
    assert done[0].scalars["longest_update"] >= done[0].scalars["mean_update"] > 0


def test_the_map_times_the_uploads_is_what_everybody_starts_from() -> None:
    made = crowd(8)
    task, state = made.task(), made.method.init(made.task())
    updates = opposed(made, [1, 0, 1, 0, 0, 1, 1, 0])
    for t in range(2):
        starts = made.method.personal_model(state, range(8), task)
        sent = made_up(made, torch.stack(starts) + updates)
        state = made.method.aggregate(state, sent, Server(t, task))
        weights = made.method.mixing(state, task)
        assert weights is not None and weights.kind == "exact"
        expected = (weights.whole() @ rows(made, sent).double()).float()
        torch.testing.assert_close(models(made, state), expected, rtol=0, atol=1e-6)
    assert set(weights.whole().flatten().tolist()) == {0.0, 0.25}


def test_a_newcomer_walks_to_the_leaf_of_its_like() -> None:
    """A twin of a client makes that client's update from each cached split model, so it ends in its leaf."""
    made = job("cfl", {"eps1": 100.0, "eps2": 0.0, "t_min": 0, "min_size": 2}, data=federation((40,) * 6), lr=0.2)
    task, bench, state = made.task(), Bench(made), made.method.init(made.task())
    for t in range(2):
        state = made.method.aggregate(state, uploads(made, state, round=t), Server(t, task))
    assert len(state.server["models"]) > 2
    size = 4 * task.layout.size
    for twin in range(6):
        first = bench.trainer.at(0, twin)
        got = made.method.join(state, bench.client(twin), first, task)
        assert torch.equal(got.arrival, task.w0)
        assert got.down == got.up + size
        if state.server["child"][0, state.server["side"][0, twin]] < 0:  # a leaf at once: exactly its own update
            assert int(got.own["cluster"]) == clusters(state)[twin]
    for split in range(len(state.server["parent"])):
        inside = state.server["side"][split] >= 0
        start = int((state.server["side"][:split] >= 0).sum())
        for k, i in enumerate(torch.nonzero(inside).flatten().tolist()):
            update = 3 * state.server["update"][start + k]
            assert nearer_side(state.server, split, update) == int(state.server["side"][split, i])


def test_every_path_down_the_tree_ends_in_the_leaf_of_its_clients() -> None:
    made = crowd(8)
    state, _ = twice(made)
    server = state.server
    for i, leaf in enumerate(clusters(state)):
        at = 0
        while at >= 0:
            at = int(server["child"][at, server["side"][at, i]])
        assert -1 - at == leaf


def test_newcomers_enter_the_leaf_that_they_walked_to() -> None:
    made = crowd(8)
    state, _ = twice(made)
    task, bench = made.task(), Bench(made)
    joined = made.method.join(state, replace(bench.client(0), id=8), bench.trainer.at(0, 8), task)
    larger = replace(task, n=torch.cat([task.n, task.n[:1]]))
    after = made.method.add_clients(state, [joined], larger)
    assert clusters(after) == [*clusters(state), int(joined.own["cluster"])]
    assert torch.equal(made.method.personal_model(after, [8], larger)[0], joined.model)
    assert after.server["side"].shape == (2, 9) and (after.server["side"][:, 8] == -1).all()


def test_before_the_first_split_a_newcomer_takes_the_one_model() -> None:
    made = crowd(4)
    task, bench = made.task(), Bench(made)
    got = made.method.join(made.method.init(task), bench.client(0), bench.trainer.at(0, 4), task)
    assert torch.equal(got.model, task.w0) and got.row is None and got.up == 0
