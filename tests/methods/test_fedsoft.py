"""FedSoft: importances, selection by them, and personal models that are pulled to all centres."""

from __future__ import annotations

from dataclasses import replace

import torch
from toys import federation, job, models, play, server

from fltk.engine.base import Bench
from fltk.methods.fedsoft import SIGMA, FedSoft, importances, mixed


def test_importances_are_shares_of_samples_with_the_lowest_loss() -> None:
    made = job("fedsoft")
    trainer, data = server(made, 0).trainer, made.federation.clients[0].train
    centres = torch.stack([made.task().fresh("x", k) for k in range(3)])
    counts = [0, 0, 0]
    for k in range(len(data)):
        losses = [trainer.outputs(w, data.x[k : k + 1]).log_softmax(1)[0, data.y[k]] for w in centres]
        counts[int(torch.stack(losses).argmax())] += 1
    expected = (torch.tensor(counts).double() / len(data)).clamp_min(SIGMA)
    assert torch.equal(importances(centres, data, trainer), expected)


def test_a_round_asks_all_clients_and_trains_those_that_were_selected() -> None:
    made = job("fedsoft", rounds=1, participation=0.25)
    done = play(made)[0]
    assert isinstance(made.method, FedSoft)
    trained = (done.state.last == 0).nonzero().flatten().tolist()
    assert 1 <= len(trained) <= 2
    assert done.scalars["participants"] == 4
    u = done.state.client["u"]
    assert ((u >= SIGMA) & (u <= 1)).all()
    moved = (done.state.client["w"] != made.task().w0).any(1).nonzero().flatten().tolist()
    assert moved == trained


def test_one_centre_without_pull_is_local_training_and_their_mean() -> None:
    made, alone = job("fedsoft", {"clusters": 1, "lam": 0.0}), job("local")
    state = play(made)[-1].state
    assert torch.equal(models(made, state), models(alone, play(alone)[-1].state))
    torch.testing.assert_close(state.server["centres"][0], models(made, state).mean(0), rtol=0, atol=1e-6)


def test_the_pull_vanishes_at_the_mean_by_importances() -> None:
    centres, u = torch.tensor([[0.0, 2.0], [4.0, 0.0]]), torch.tensor([0.25, 0.75], dtype=torch.float64)
    w = mixed(u, centres)
    slope = sum(u[s] * (w - centres[s]) for s in range(2))
    torch.testing.assert_close(slope, torch.zeros(2, dtype=slope.dtype), rtol=0, atol=1e-6)


def test_estimates_every_other_round_and_resumes_in_between() -> None:
    made = job("fedsoft", {"every": 2}, rounds=4)
    whole = play(made)
    downs = [done.scalars["bytes_down"] for done in whole]
    assert downs[0] == downs[2] > downs[1] == downs[3]
    rest = play(made, resume=(1, whole[0].state))
    assert [done.digest for done in rest] == [done.digest for done in whole[1:]]


def test_a_newcomer_is_pulled_to_the_centres_that_fit_it() -> None:
    made = job("fedsoft", data=federation(groups=(0, 1, 0, 1)), rounds=3)
    state, task = play(made)[-1].state, made.task()
    joined = made.method.join(state, replace(made.federation.clients[0], id=4), Bench(made).trainer.at(0, 4), task)
    assert joined.row is not None
    torch.testing.assert_close(joined.row.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert joined.down == 4 * state.server["centres"].numel()
