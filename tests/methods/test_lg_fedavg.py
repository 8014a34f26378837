"""lg-fedavg: a shared head over private bases, between FedAvg and local training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from toys import SIZES, final, job, models, play, uploads

from fltk.engine.base import Bench
from fltk.methods.fedper import FedPer
from fltk.models.parts import BASE, HEAD, Columns


@pytest.mark.parametrize("layers", [2, 9])
def test_everything_shared_is_fedavg_bit_for_bit(layers: int) -> None:
    once, fedavg = (play(job(*made)) for made in (("lg-fedavg", {"shared_layers": layers}), ("fedavg",)))
    assert [r.digest for r in once] == [r.digest for r in fedavg]


def test_nothing_shared_is_local_bit_for_bit() -> None:
    assert torch.equal(final("lg-fedavg", {"shared_layers": 0}, rounds=3), final("local", rounds=3))


def test_it_is_fedper_with_the_parts_exchanged() -> None:
    """Bit for bit: a method that shares the same columns by FedPer's code."""

    @dataclass(frozen=True)
    class Upside(FedPer):
        @property
        def columns(self) -> Columns:
            return Columns(travels=HEAD, private=BASE)

    made = job("lg-fedavg", rounds=3)
    other = replace(made, method=Upside())
    assert torch.equal(models(made, play(made)[-1].state), models(other, play(other)[-1].state))


def test_the_head_is_common_and_bases_differ() -> None:
    made = job("lg-fedavg")
    rows, layout = models(made, play(made)[-1].state), made.task().layout
    base, head = layout.take(rows, BASE), layout.take(rows, HEAD)
    assert torch.equal(head, head[:1].expand_as(head))
    assert all(not torch.equal(base[i], base[j]) for i in range(len(SIZES)) for j in range(i))


def test_only_the_head_travels() -> None:
    made = job("lg-fedavg")
    layout = made.task().layout
    assert {u.w.numel() for u in uploads(made, made.method.init(made.task()))} == {layout.width(HEAD)}
    done = play(made)[0]
    assert done.scalars["bytes_up"] == done.scalars["bytes_down"]
    assert done.scalars["bytes_up"] == 4 * layout.width(HEAD) * done.scalars["participants"]


def test_a_newcomer_trains_its_own_base_under_the_shared_head() -> None:
    made = job("lg-fedavg")
    task, state, bench = made.task(), play(made)[-1].state, Bench(made)
    got = made.method.join(state, bench.client(1), bench.trainer.at(0, 1), task)
    for w in (got.arrival, got.model):
        assert torch.equal(task.layout.take(w, HEAD), state.server["w"])
    assert torch.equal(task.layout.take(got.arrival, BASE), task.layout.take(task.w0, BASE))
    assert not torch.equal(task.layout.take(got.model, BASE), task.layout.take(got.arrival, BASE))
