"""fedbn: batch norm stays with the client, everything else is FedAvg's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import SIZES, federation, job, models, play, uploads

from fltk.engine.base import Bench, Job
from fltk.models.parts import BATCH_NORM
from fltk.protocol.server import Server

IMAGES = federation(shape=(1, 8, 8))


def images(method: str = "fedbn", **train: Any) -> Job:
    """A job on a network with batch norm."""
    return job(method, data=IMAGES, **{"model": "cnn-bn", **train})


@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_without_batch_norm_it_is_fedavg_bit_for_bit_and_says_so(model: str) -> None:
    """Group norm is no batch norm."""
    once, fedavg = (play(images(method, model=model)) for method in ("fedbn", "fedavg"))
    assert [r.digest for r in once] == [r.digest for r in fedavg]
    assert once[0].notes == ("--model: this network has no part batch-norm, so that clients keep nothing private",)
    assert fedavg[0].notes == once[1].notes == ()


def test_batch_norm_differs_and_all_else_is_common() -> None:
    made = images()
    task, rows = made.task(), models(made, play(made)[-1].state)
    norm, rest = task.layout.take(rows, "batch-norm"), task.layout.take(rows, "all - batch-norm")
    assert norm.shape == (len(SIZES), 4 * (16 + 32))
    assert torch.equal(rest, rest[:1].expand_as(rest))
    assert all(not torch.equal(norm[i], norm[j]) for i in range(len(SIZES)) for j in range(i))


def test_nothing_of_batch_norm_travels_and_that_of_an_absent_client_stays() -> None:
    made = images()
    task, state = made.task(), play(made)[-1].state
    layout, sent = task.layout, uploads(made, state, ids=(0, 2), round=2)
    assert {u.w.numel() for u in sent} == {layout.size - 4 * (16 + 32)}
    after = models(made, made.method.aggregate(state, sent, Server(2, task)))
    before = models(made, state)
    assert torch.equal(layout.take(after, BATCH_NORM)[[1, 3]], layout.take(before, BATCH_NORM)[[1, 3]])
    for k, u in zip((0, 2), sent, strict=True):
        assert torch.equal(layout.take(after, BATCH_NORM)[k], u.own["private"])


def test_the_first_round_trains_what_fedavg_trains() -> None:
    made, plain = images(), images("fedavg")
    layout = made.task().layout
    ours = uploads(made, made.method.init(made.task()))
    theirs = uploads(plain, plain.method.init(plain.task()))
    for mine, whole in zip(ours, theirs, strict=True):
        assert torch.equal(mine.w, layout.take(whole.w, "all - batch-norm"))
        assert torch.equal(mine.own["private"], layout.take(whole.w, "batch-norm"))


def test_the_map_is_fedavgs_but_for_batch_norm() -> None:
    made = images()
    done, n = play(made)[-1], torch.tensor(SIZES, dtype=torch.float64)
    assert done.map is not None
    assert list(done.map.slices) == ["all - batch-norm", "batch-norm"]
    torch.testing.assert_close(done.map.slices["all - batch-norm"], (n / n.sum()).expand(len(SIZES), -1))
    assert torch.equal(done.map.slices["batch-norm"], torch.eye(len(SIZES)))


def test_a_newcomer_trains_batch_norm_alone() -> None:
    made = images()
    task, state = made.task(), play(made)[-1].state
    bench = Bench(made)
    got = made.method.join(state, bench.client(1), bench.trainer.at(0, 1), task)
    layout = task.layout
    for w in (got.arrival, got.model):
        assert torch.equal(layout.take(w, "all - batch-norm"), state.server["w"])
    assert torch.equal(layout.take(got.arrival, BATCH_NORM), layout.take(task.w0, BATCH_NORM))
    changed = layout.take(got.model, BATCH_NORM) != layout.take(got.arrival, BATCH_NORM)
    assert changed.double().mean() > 0.9
