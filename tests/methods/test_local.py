"""local: nobody but the client itself and its data decide its model."""

from __future__ import annotations

import pytest
import torch
from toys import SIZES, federation, final, job, models, play

from fltk.engine.base import Bench


def test_a_client_trains_the_same_whoever_else_takes_part() -> None:
    made = job("local")
    few = play(job("local", participation=0.5, rounds=1))[-1].state
    everybody = play(job("local", rounds=1))[-1].state
    present = few.last >= 0
    assert 0 < int(present.sum()) < len(SIZES)
    assert torch.equal(models(made, few)[present], models(made, everybody)[present])


def test_a_client_trains_the_same_whatever_data_the_others_hold() -> None:
    data, other = federation(seed=0), federation(seed=0)
    for client in other.clients[1:]:
        client.train.x.neg_()
    ours, theirs = final("local", data=data), final("local", data=other)
    assert torch.equal(ours[0], theirs[0])
    assert not torch.equal(ours[1], theirs[1])


def test_everybody_starts_from_the_common_model_and_absent_clients_stay_there() -> None:
    made = job("local", participation=0.25, rounds=1)
    task = made.task()
    before = models(made, made.method.init(task))
    assert torch.equal(before, task.w0.expand(task.n_clients, -1))
    done = play(made)[-1].state
    absent = done.last < 0
    assert int(absent.sum()) == task.n_clients - 1
    assert torch.equal(models(made, done)[absent], before[absent])
    assert not torch.equal(models(made, done)[~absent], before[~absent])


def test_nothing_is_sent() -> None:
    made = job("local")
    done = play(made)[-1]
    assert done.scalars["bytes_up"] == done.scalars["bytes_down"] == 0
    assert done.state.server["w"].numel() == 0
    assert made.method.global_model(done.state, made.task()) is None


@pytest.mark.parametrize(("participation", "trained"), [(1.0, 8), (0.5, 4), (0.25, 2)])
def test_a_newcomer_trains_in_as_many_rounds_as_the_others_on_average(participation: float, trained: int) -> None:
    made = job("local", rounds=8, participation=participation, data=federation(sizes=[12] * 8))
    state, bench = play(made)[-1].state, Bench(made)
    rounds = int(state.last.max()) + 1
    joined = made.method.join(state, bench.client(0), bench.trainer.at(0, 0), made.task())
    w = made.task().w0
    for k in range(trained):
        w = bench.trainer.at(k * rounds // trained, 0).sgd(w, bench.client(0).train)
    assert rounds == 8
    assert torch.equal(joined.model, w)
