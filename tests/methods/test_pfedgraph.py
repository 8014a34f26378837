"""pFedGraph: the projection, the limits of alpha, and the direction in local training."""

from __future__ import annotations

import pytest
import torch
from toys import federation, job, models, play, random

from fltk.methods.pfedgraph import graph, onto_simplex


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_is_the_nearest_point_of_the_simplex(seed: int) -> None:
    """By the conditions of the optimum: the same shift for all that are positive, and no gain for the others."""
    v = random(7, seed=seed).double()
    a = onto_simplex(v)
    torch.testing.assert_close(a.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert (a >= 0).all()
    shift = (v - a)[a > 0]
    torch.testing.assert_close(shift, shift[:1].expand_as(shift))
    assert (v[a == 0] <= shift[0] + 1e-12).all()


def test_ties_above_the_threshold_share_by_data() -> None:
    similar = torch.tensor([[1.0, 0.95, -1, -1], [0.95, 1, -1, -1], [-1, -1, 1, -1], [-1, -1, -1, 1]])
    samples = torch.tensor([5.0, 3, 1, 1])
    a = graph(similar, samples, torch.ones(4, dtype=torch.bool), 1e-3)
    torch.testing.assert_close(a[0], torch.tensor([0.6, 0.4, 0, 0], dtype=torch.float64))


def test_without_keys_a_client_keeps_its_model() -> None:
    a = graph(torch.ones(3, 3), torch.ones(3), torch.zeros(3, dtype=torch.bool), 0.8)
    assert torch.equal(a, torch.eye(3, dtype=torch.float64))


def test_a_large_alpha_without_direction_is_fedavg() -> None:
    made, plain = job("pfedgraph", {"alpha": 1e9, "lam": 0.0}, rounds=3), job("fedavg", rounds=3)
    got, expected = (models(one, play(one)[-1].state) for one in (made, plain))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_the_direction_draws_local_training_towards_it() -> None:
    from fltk.engine.base import Bench
    from fltk.protocol.messages import Down

    made = job("pfedgraph", {"lam": 50.0}, lr=0.01)
    bench, task = Bench(made), made.task()
    client, c = bench.client(1), random(task.layout.trainable)
    plain = made.method.local_update(Down(task.w0), client, bench.trainer.at(1, 1)).w
    drawn = made.method.local_update(Down(task.w0, server={"direction": c}), client, bench.trainer.at(1, 1)).w
    assert float(drawn @ c / drawn.norm()) > float(plain @ c / plain.norm())


def test_the_direction_is_counted_as_sent() -> None:
    first, second = (done.scalars["bytes_down"] for done in play(job("pfedgraph", data=federation())))
    assert second == 2 * first
