"""ditto: FedAvg's trajectory, untouched, and a personal model that is pulled towards it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toys import SIZES, final, job, models, play, uploads

from fltk.engine.base import Bench
from fltk.partition.federation import ClientData, Split
from fltk.protocol.messages import Down


def test_without_pull_the_personal_models_are_local_bit_for_bit() -> None:
    assert torch.equal(final("ditto", {"lam": 0}, rounds=3), final("local", rounds=3))
    assert torch.equal(
        final("ditto", {"lam": 0}, rounds=3, participation=0.5), final("local", rounds=3, participation=0.5)
    )


@pytest.mark.parametrize("lam", [0.0, 0.5, 2.0])
def test_the_global_trajectory_is_fedavg_bit_for_bit(lam: float) -> None:
    for mine, theirs in zip(play(job("ditto", {"lam": lam}, rounds=3)), play(job("fedavg", rounds=3)), strict=True):
        assert torch.equal(mine.state.server["w"], theirs.state.server["w"])


def test_a_pull_of_one_and_no_gradient_lands_on_the_global_model() -> None:
    """eta lam = 1: v - eta (0 + lam (v - w)) = w. Saturated logits have a gradient of exactly zero."""
    made = job("ditto", {"lam": 10.0}, hidden="", lr=0.1, steps=1)
    bench = Bench(made)
    layout = made.task().layout
    w = torch.zeros(layout.size)
    layout.entries[0].view(w)[:, :4] = 200 * torch.eye(4)
    x = torch.zeros(4, 1, 4, 4)
    x.view(4, 16)[:, :4] = torch.eye(4)
    split = Split(x, torch.arange(4))
    client = ClientData(0, split, split, split)
    got = made.method.local_update(Down(w, own={"v": 1.5 * w}), client, bench.trainer.at(0, 0))
    torch.testing.assert_close(got.own["v"], w, rtol=0, atol=1e-4)  # of 300
    assert torch.equal(got.w, w)
    assert float(got.own["pulled"]) == pytest.approx(1.0)


def test_the_upload_does_not_depend_on_the_personal_model() -> None:
    made = job("ditto")
    state = play(made)[-1].state
    noisy = replace(state, client={**state.client, "v": torch.randn_like(state.client["v"])})
    for a, b in zip(uploads(made, state, round=2), uploads(made, noisy, round=2), strict=True):
        assert torch.equal(a.w, b.w)
        assert not a.sent
        assert not torch.equal(a.own["v"], b.own["v"])


def test_the_anchor_is_the_received_model() -> None:
    made = job("ditto", {"lam": 2.0})
    state, bench = play(made)[-1].state, Bench(made)
    sent = uploads(made, state, ids=(1,), round=2)[0]
    expected = bench.trainer.at(2, 1).sgd(state.client["v"][1], bench.client(1).train, pull=(state.server["w"], 2.0))
    assert torch.equal(sent.own["v"], expected)


def test_a_stronger_pull_ends_nearer_to_the_global_model() -> None:
    distances = []
    for lam in (0.0, 1.0, 5.0):
        made = job("ditto", {"lam": lam}, rounds=3)
        state = play(made)[-1].state
        distances.append(float((models(made, state) - state.server["w"]).norm()))
    assert distances == sorted(distances, reverse=True)


def test_no_personal_epoch_leaves_the_personal_model_at_the_start() -> None:
    made = job("ditto", {"personal_epochs": 0})
    assert torch.equal(final("ditto", {"personal_epochs": 0}), made.task().w0.expand(len(SIZES), -1))


def test_the_map_is_the_pull_alone() -> None:
    """s = 1 - (1 - eta lam)^steps on FedAvg's weights, 1 - s on the own model."""
    made = job("ditto", {"lam": 0.5}, lr=0.1)
    done = play(made)[-1]
    task, steps = made.task(), torch.tensor([3, 5, 2, 4])  # ceil(n / 5)
    s = 1 - 0.95 ** steps.double()
    p = task.n.double() / task.n.sum()
    expected = torch.diag(1 - s) + s[:, None] * p
    assert done.map is not None
    assert done.map.kind == "pull"
    torch.testing.assert_close(done.map.whole(), expected, rtol=0, atol=1e-12)
