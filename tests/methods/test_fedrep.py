"""fedrep: head and base in turn; each stays to the bit while the other is trained."""

from __future__ import annotations

import pytest
import torch
from toys import SIZES, final, job, models, play, uploads

from fltk.engine.base import Bench


def test_no_private_layer_and_no_head_epoch_is_fedavg_bit_for_bit() -> None:
    assert torch.equal(final("fedrep", {"head_layers": 0, "head_epochs": 0}, rounds=3), final("fedavg", rounds=3))


def test_without_base_epochs_the_base_never_changes() -> None:
    made = job("fedrep", {"base_epochs": 0, "head_epochs": 2}, rounds=3)
    layout, w0 = made.task().layout, made.task().w0
    rows = models(made, play(made)[-1].state)
    assert torch.equal(layout.take(rows, "base"), layout.take(w0, "base").expand(len(SIZES), -1))
    assert not torch.equal(layout.take(rows, "head"), layout.take(w0, "head").expand(len(SIZES), -1))


@pytest.mark.parametrize("step", ["fast", "autograd"])
def test_a_round_is_the_head_over_the_base_and_then_the_base_under_the_head(step: str) -> None:
    made = job("fedrep", {"head_epochs": 3}, step=step)
    state, bench, layout = play(made)[-1].state, Bench(made), made.task().layout
    start = models(made, state)[1]
    sent = uploads(made, state, ids=(1,), round=2)[0]
    trainer, data = bench.trainer.at(2, 1), bench.client(1).train
    first = trainer.sgd(start, data, epochs=3, only="head")
    assert torch.equal(layout.take(first, "base"), layout.take(start, "base"))
    second = trainer.sgd(first, data, only="base")
    assert torch.equal(layout.take(second, "head"), layout.take(first, "head"))
    assert torch.equal(sent.w, layout.take(second, "base"))
    assert torch.equal(sent.own["private"], layout.take(first, "head"))


def test_more_private_layers_are_trained_together() -> None:
    made = job("fedrep", {"head_layers": 9, "head_epochs": 1}, rounds=3)
    assert torch.equal(models(made, play(made)[-1].state), final("local", rounds=3))


def test_heads_are_finalised_for_use_alone() -> None:
    plain, longer = job("fedrep", eval_every=1), job("fedrep", {"finalise_heads": 5}, eval_every=1)
    a, b = play(plain), play(longer)
    assert [r.digest for r in a] == [r.digest for r in b]
    assert a[-1].scalars["personal_val_loss"] != b[-1].scalars["personal_val_loss"]
