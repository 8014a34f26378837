"""ifca: choice by training loss, means per cluster."""

from __future__ import annotations

import torch
from toys import aggregated, federation, final, job, models, play, random, uploads

from fltk.engine.base import Bench
from fltk.methods.ifca import choose
from fltk.protocol.messages import Upload
from fltk.protocol.state import State


def test_one_cluster_is_fedavg_bit_for_bit() -> None:
    for settings in ({}, {"agg_weights": "uniform"}, {"participation": 0.5}):
        ours, theirs = final("ifca", {"clusters": 1}, rounds=3, **settings), final("fedavg", rounds=3, **settings)
        assert torch.equal(ours, theirs)


def test_the_chosen_model_has_the_lowest_training_loss() -> None:
    bench = Bench(job("ifca"))
    rows = bench.trainer.layout.size
    candidates = random(6, rows)
    for i in range(4):
        data = bench.client(i).train
        losses = [bench.trainer.score(w, data).loss for w in candidates]
        k = choose(candidates, bench.client(i), bench.trainer.at(0, i))
        assert losses[k] == min(losses)
    assert choose(candidates[:1].expand(3, -1), bench.client(0), bench.trainer) == 0  # a tie goes to the first


def test_clusters_start_from_different_models_the_first_from_the_common_one() -> None:
    made = job("ifca", {"clusters": 3})
    task = made.task()
    start = made.method.init(task).server["models"]
    assert torch.equal(start[0], task.w0)
    assert not torch.equal(start[1], start[2])
    assert torch.equal(start, made.method.init(made.task()).server["models"])


def test_members_are_averaged_by_samples_and_empty_clusters_keep_their_bits() -> None:
    made = job("ifca", {"clusters": 3})
    task, before = made.task(), made.method.init(made.task())
    w = random(4, task.layout.size)
    choice = torch.tensor([2, 0, 2, 0])
    sent = [Upload(w[i], sent={"choice": choice[i]}, own={"choice": choice[i]}, client=i) for i in range(4)]
    state = aggregated(made, sent, state=before)
    n = task.n.double()
    for k, (a, b) in {0: (1, 3), 2: (0, 2)}.items():
        expected = (n[a] * w[a].double() + n[b] * w[b].double()) / (n[a] + n[b])
        torch.testing.assert_close(state.server["models"][k].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(state.server["models"][1], before.server["models"][1])
    assert torch.equal(state.client["choice"], choice)
    assert torch.equal(models(made, state), state.server["models"][choice])


def test_clients_find_the_model_of_their_own_group() -> None:
    """Two groups whose labels are swapped: once the models know one group each, nobody changes sides."""
    data = federation((20, 20, 20, 20), groups=(0, 1, 0, 1))
    for client in data.clients:
        if client.id % 2:
            client.train.y.copy_((client.train.y + 1) % 4)
    made = job("ifca", {"clusters": 2}, data=data, rounds=4)
    oracle = play(job("oracle", data=data, rounds=8))[-1].state.server["models"]
    task = made.task()
    start = made.method.init(task)
    state = State({**start.server, "models": oracle}, start.client, start.last)
    for done in play(made, resume=(0, state)):
        assert done.state.client["choice"].tolist() == [0, 1, 0, 1]


def test_all_models_travel_down_and_one_up() -> None:
    made = job("ifca", {"clusters": 3})
    layout = made.task().layout
    done = play(made)[0]
    count, choice = done.scalars["participants"], 8
    assert done.scalars["bytes_down"] == 3 * 4 * layout.size * count
    assert done.scalars["bytes_up"] == (4 * layout.size + choice) * count
    sent = uploads(made, made.method.init(made.task()))
    assert all(u.w.numel() == layout.size for u in sent)
