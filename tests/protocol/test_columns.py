"""What a method says of its columns is kept by everything around it, frozen ones included."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from toys import SIZES, federation, job, models, play, uploads

from fltk.engine.base import Bench, Job
from fltk.errors import UsageError
from fltk.methods.fedavg import FedAvg
from fltk.methods.split import SplitMethod
from fltk.models.parts import ALL, BASE, HEAD, NORM, Columns, Part


@dataclass(frozen=True)
class FrozenBase(FedAvg):
    """FedAvg on the head, over the base of theta^0."""

    @property
    def columns(self) -> Columns:
        return Columns(travels=HEAD, frozen=BASE)


@dataclass(frozen=True)
class ThreeParts(SplitMethod):
    """A head that travels, private normalisation, and convolutions that nobody trains."""

    @property
    def columns(self) -> Columns:
        return Columns(travels=HEAD, private=NORM, frozen=BASE - NORM)


def made_of(method: FedAvg | SplitMethod) -> Job:
    data = federation(shape=(1, 8, 8))
    return replace(job("fedavg", data=data, model="cnn-bn", rounds=2), method=method)


def test_frozen_columns_stay_those_of_the_initial_model_and_are_in_no_state() -> None:
    made = made_of(ThreeParts())
    task, state = made.task(), play(made)[-1].state
    layout, rows = task.layout, models(made, state)
    frozen, norm, head = (layout.width(part) for part in (BASE - NORM, NORM, HEAD))

    assert frozen + norm + head == layout.size
    assert torch.equal(layout.take(rows, BASE - NORM), layout.take(task.w0, BASE - NORM).expand(len(SIZES), -1))
    assert (layout.take(rows, HEAD) != layout.take(task.w0, HEAD)).any(1).all()
    assert (layout.take(rows, NORM) != layout.take(task.w0, NORM)).any(1).all()

    assert state.server["w"].shape == (head,)
    assert state.client["private"].shape == (len(SIZES), norm)
    assert sum(t.numel() for t in state.tensors().values()) < frozen
    assert {u.w.numel() for u in uploads(made, state)} == {head}
    assert {u.nbytes for u in uploads(made, state)} == {4 * head}


def test_a_frozen_base_is_the_head_trained_over_it() -> None:
    """By the definition: SGD on the head of theta^0 alone, averaged."""
    made = made_of(FrozenBase())
    task, bench = made.task(), Bench(made)
    sent = uploads(made, made.method.init(task))
    plain = Bench(replace(made, method=FedAvg()))
    for u in sent:
        client = plain.client(u.client)
        trained = plain.trainer.at(0, u.client).sgd(task.w0, client.train, only=HEAD)
        assert torch.equal(u.w, task.layout.take(trained, HEAD))
    assert "private" not in made.method.init(task).client
    assert made.method.global_model(made.method.init(task), task) is None
    w = bench.trainer.at(0, 0).sgd(task.w0, bench.client(0).train)
    assert torch.equal(task.layout.take(w, BASE), task.layout.take(task.w0, BASE))


def test_a_frozen_part_is_frozen_for_every_training() -> None:
    bench = Bench(made_of(ThreeParts()))
    task, data = bench.task, bench.client(0).train
    for only in (ALL, BASE, NORM, Part("top:1"), Part("below:1")):
        got = bench.trainer.at(0, 0).sgd(task.w0, data, only=only)
        assert torch.equal(task.layout.take(got, BASE - NORM), task.layout.take(task.w0, BASE - NORM)), only
        assert not torch.equal(got, task.w0), only
    assert bench.trainer.sgd(task.w0, data, only="0") is task.w0


def test_the_map_and_a_newcomer_have_all_columns() -> None:
    made = made_of(ThreeParts())
    task, done, bench = made.task(), play(made)[-1], Bench(made)
    assert done.map is not None
    assert sum(task.layout.width(part) for part in done.map.slices) == task.layout.size
    got = made.method.join(done.state, bench.client(2), bench.trainer.at(0, 2), task)
    assert torch.equal(task.layout.take(got.model, BASE - NORM), task.layout.take(task.w0, BASE - NORM))
    assert torch.equal(task.layout.take(got.model, HEAD), done.state.server["w"])


def test_columns_in_two_places_or_none_are_refused() -> None:
    @dataclass(frozen=True)
    class Twice(FedAvg):
        @property
        def columns(self) -> Columns:
            return Columns(travels=ALL, private=HEAD)

    with pytest.raises(UsageError, match=r"Twice\.columns: 9\.weight is in 2 of the parts"):
        made_of(Twice()).task()
