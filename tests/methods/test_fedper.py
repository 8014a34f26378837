"""fedper: a shared base and private heads, between FedAvg and local training."""

from __future__ import annotations

import pytest
import torch
from toys import SIZES, final, job, models, play, uploads

from fltk.protocol.server import Server


def test_no_private_layer_is_fedavg_bit_for_bit() -> None:
    assert torch.equal(final("fedper", {"head_layers": 0}, rounds=3), final("fedavg", rounds=3))


@pytest.mark.parametrize("layers", [2, 9])
def test_only_private_layers_are_local_bit_for_bit(layers: int) -> None:
    assert torch.equal(final("fedper", {"head_layers": layers}, rounds=3), final("local", rounds=3))


def test_the_base_is_common_and_heads_differ() -> None:
    made = job("fedper")
    rows, layout = models(made, play(made)[-1].state), made.task().layout
    base, head = layout.take(rows, "base"), layout.take(rows, "head")
    assert torch.equal(base, base[:1].expand_as(base))
    assert all(not torch.equal(head[i], head[j]) for i in range(len(SIZES)) for j in range(i))


def test_the_upload_has_no_head_and_the_head_of_an_absent_client_stays() -> None:
    made = job("fedper")
    task = made.task()
    state = play(made)[-1].state
    sent = uploads(made, state, ids=(0, 2), round=2)
    assert {u.w.numel() for u in sent} == {task.layout.width("base")}
    after = models(made, made.method.aggregate(state, sent, Server(2, task)))
    before = models(made, state)
    head = task.layout.take
    assert torch.equal(head(after, "head")[[1, 3]], head(before, "head")[[1, 3]])
    assert torch.equal(head(after, "head")[0], sent[0].own["private"])
    assert not torch.equal(head(after, "base"), head(before, "base"))


def test_base_and_head_are_trained_together() -> None:
    made = job("fedper", rounds=1)
    task = made.task()
    sent = uploads(made, made.method.init(task))
    plain = job("fedavg", rounds=1)
    whole = uploads(plain, plain.method.init(task))
    for mine, theirs in zip(sent, whole, strict=True):
        assert torch.equal(mine.w, task.layout.take(theirs.w, "base"))
        assert torch.equal(mine.own["private"], task.layout.take(theirs.w, "head"))
