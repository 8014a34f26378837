"""oracle: FedAvg inside the true groups."""

from __future__ import annotations

import pytest
import torch
from toys import aggregated, federation, final, job, made_up, models, play, random

from fltk.errors import UsageError


def test_one_group_is_fedavg_bit_for_bit() -> None:
    data = federation(groups=(0, 0, 0, 0))
    assert torch.equal(final("oracle", data=data, rounds=3), final("fedavg", data=data, rounds=3))


def test_groups_of_one_are_local_bit_for_bit() -> None:
    data = federation(groups=(2, 0, 3, 1))
    assert torch.equal(final("oracle", data=data, rounds=3), final("local", data=data, rounds=3))


def test_members_are_averaged_by_samples() -> None:
    made = job("oracle")
    n, w = made.task().n.double(), random(4, made.task().layout.size)
    got = models(made, aggregated(made, made_up(made, w)))
    for a, b in ((0, 2), (1, 3)):
        expected = (n[a] * w[a].double() + n[b] * w[b].double()) / (n[a] + n[b])
        torch.testing.assert_close(got[a].double(), expected, rtol=0, atol=1e-6)
        assert torch.equal(got[a], got[b])


def test_a_group_without_participants_keeps_its_model() -> None:
    made = job("oracle")
    state = play(made)[-1].state
    sent = [u for u in made_up(made, random(4, made.task().layout.size)) if u.client in (0, 2)]
    after = aggregated(made, sent, round=2, state=state).server["models"]
    assert torch.equal(after[1], state.server["models"][1])
    assert not torch.equal(after[0], state.server["models"][0])


def test_unknown_groups_are_refused() -> None:
    made = job("oracle", data=federation())
    with pytest.raises(UsageError, match=r"--method oracle.*--scheme"):
        play(made)
