"""FedEM: the mixture as a network, EM on the shares, and FedAvg for one component."""

from __future__ import annotations

from itertools import pairwise

import torch
from toys import federation, job, models, play, server, uploads

from fltk.engine.base import Bench
from fltk.methods.fedem import SHARES, FedEM


def test_the_network_says_the_mixture_of_softmaxes() -> None:
    made = job("fedem", {"components": 2})
    trainer, layout, w = server(made, 0).trainer, made.task().layout, made.task().w0
    x = made.federation.clients[0].train.x
    shares = torch.tensor([0.3, 0.7])
    mixed = layout.put(w, SHARES, shares.log())
    parts = []
    for m in range(2):
        alone = torch.full((2,), -torch.inf)
        alone[m] = 0
        parts.append(trainer.outputs(layout.put(w, SHARES, alone), x).exp())
    expected = 0.3 * parts[0] + 0.7 * parts[1]
    torch.testing.assert_close(trainer.outputs(mixed, x).exp(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(expected.sum(1), torch.ones(len(x)), rtol=1e-5, atol=1e-6)


def test_em_on_the_shares_makes_the_data_more_likely_and_keeps_them_a_distribution() -> None:
    made = job("fedem", epochs=5.0)
    state, task = play(made)[-1].state, made.task()
    assert isinstance(made.method, FedEM)
    trainer, data = Bench(made).trainer.at(0, 1), made.federation.clients[1].train
    [w] = made.method.personal_model(state, [1], task)
    losses = []
    for _ in range(5):
        losses.append(trainer.score(w, data).loss)
        w = made.method._with_shares(w, data, trainer)
        shares = task.layout.take(w, SHARES).exp()
        torch.testing.assert_close(shares.sum(), torch.tensor(1.0), rtol=0, atol=1e-5)
    assert all(b <= a + 1e-5 for a, b in pairwise(losses))


def test_equal_components_leave_the_shares_alone() -> None:
    made = job("fedem", {"components": 2})
    layout, w = made.task().layout, made.task().w0.clone()
    half = (layout.size - 2) // 2
    w[2 + half :] = w[2 : 2 + half]
    w = layout.put(w, SHARES, torch.tensor([0.2, 0.8]).log())
    assert isinstance(made.method, FedEM)
    after = made.method._with_shares(w, made.federation.clients[0].train, Bench(made).trainer.at(0, 0))
    torch.testing.assert_close(layout.take(after, SHARES).exp(), torch.tensor([0.2, 0.8]), rtol=1e-5, atol=1e-6)


def test_one_component_is_fedavg() -> None:
    """Up to rounding: the mixture takes a logarithm of its softmax once more."""
    one, plain = job("fedem", {"components": 1}), job("fedavg")
    found, expected = play(one)[-1].state.server["w"], play(plain)[-1].state.server["w"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_shares_never_travel() -> None:
    made = job("fedem", {"components": 3})
    size = made.task().layout.size - 3
    for u in uploads(made, made.method.init(made.task())):
        assert u.w.numel() == size
        assert not u.sent
        assert u.own["private"].shape == (3,)


def test_a_newcomer_trains_no_weight() -> None:
    made = job("fedem", data=federation())
    state, task = play(made)[-1].state, made.task()
    joined = made.method.join(state, made.federation.clients[2], Bench(made).trainer.at(0, 2), task)
    layout = task.layout
    assert torch.equal(layout.take(joined.model, ~SHARES), state.server["w"])
    assert not torch.equal(joined.model, joined.arrival)
    assert models(made, state).shape == (4, layout.size)
