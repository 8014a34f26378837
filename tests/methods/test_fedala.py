"""fedala: between FedAvg and local training by the weights, which take steps down the client's own loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_pfedme import slope
from toys import SIZES, final, job, models, play, uploads

from fltk.engine.base import Bench, Job
from fltk.protocol.messages import Down
from fltk.protocol.state import State


def weighed(made: Job, value: float) -> State:
    """The initial state with the same weight everywhere."""
    state = made.method.init(made.task())
    return replace(state, client={**state.client, "weights": torch.full_like(state.client["weights"], value)})


def test_weights_of_one_that_stay_are_fedavg_bit_for_bit() -> None:
    mine, theirs = play(job("fedala", {"ala_eta": 0}, rounds=3)), play(job("fedavg", rounds=3))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a.state.server["w"], b.state.server["w"])


def test_no_layer_is_fedavg_bit_for_bit() -> None:
    mine, theirs = play(job("fedala", {"ala_layers": 0}, rounds=3)), play(job("fedavg", rounds=3))
    assert torch.equal(mine[-1].state.server["w"], theirs[-1].state.server["w"])


def test_weights_of_zero_that_stay_are_local_bit_for_bit() -> None:
    made = job("fedala", {"ala_eta": 0, "ala_layers": 9}, rounds=3, participation=0.5)
    done = play(made, resume=(0, weighed(made, 0.0)))
    assert torch.equal(models(made, done[-1].state), final("local", rounds=3, participation=0.5))


def test_a_later_round_as_loops() -> None:
    """One pass over the drawn samples; then local training from the mixture."""
    made = job("fedala", {"ala_eta": 0.5, "ala_share": 0.5}, rounds=3)
    state, bench, layout = play(made)[-1].state, Bench(made), made.task().layout
    assert bool(state.client["learned"].all())
    sent = uploads(made, state, ids=(1,), round=3)[0]
    w, theta, weights = state.server["w"], state.client["theta"][1], state.client["weights"][1]
    trainer, data = bench.trainer.at(3, 1), bench.client(1).train
    head = layout.ranges("head")[0][0]
    drawn = made.method._batches(data, trainer)  # type: ignore[attr-defined]
    assert [len(b) for b in drawn] == [5, 5, 2]
    mixed = w.clone()
    for batch in drawn:
        mixed[head:] = theta[head:] + (w - theta)[head:] * weights
        weights = (weights - 0.5 * slope(mixed, batch)[head:] * (w - theta)[head:]).clamp(0, 1)
    mixed[head:] = theta[head:] + (w - theta)[head:] * weights
    torch.testing.assert_close(sent.own["weights"], weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(sent.w, trainer.sgd(mixed, data), rtol=0, atol=1e-5)
    assert torch.equal(sent.own["theta"], sent.w)


@pytest.mark.parametrize("passes", [1, 4])
def test_the_first_time_has_so_many_passes_at_most(passes: int) -> None:
    """And as a round of passes has the same samples, as many as one pass on them again and again."""
    made = job("fedala", {"ala_passes": passes, "ala_eta": 0.5})
    state, bench = play(job("fedala", {"ala_eta": 0.5}, rounds=1))[-1].state, Bench(made)
    sent = uploads(made, state, ids=(1,), round=1)[0]
    once = job("fedala", {"ala_passes": 1, "ala_eta": 0.5})
    own = {name: rows[1] for name, rows in state.client.items()}
    for _ in range(passes):
        down = Down(state.server["w"], own=own)
        weights = once.method._learned(down, bench.client(1), bench.trainer.at(1, 1))  # type: ignore[attr-defined]
        own = {**own, "weights": weights}
    assert torch.equal(sent.own["weights"], own["weights"])


def test_a_loss_that_has_settled_ends_the_first_time() -> None:
    """At a threshold above every deviation eleven passes are enough: more than ten, as in the authors' code."""
    made, longer = (job("fedala", {"ala_threshold": 1e3, "ala_passes": most}) for most in (11, 50))
    state = play(made)[0].state
    for a, b in zip(uploads(made, state, round=1), uploads(longer, state, round=1), strict=True):
        assert torch.equal(a.own["weights"], b.own["weights"])


def test_equal_models_leave_the_weights_alone_and_they_stay_between_zero_and_one() -> None:
    made = job("fedala", {"ala_eta": 50.0}, rounds=3)
    first = play(made)[0].state
    assert torch.equal(first.client["weights"], torch.ones_like(first.client["weights"]))
    weights = play(made)[-1].state.client["weights"]
    assert bool(((weights >= 0) & (weights <= 1)).all())
    assert bool((weights < 1).any())
    alike = replace(first, client={**first.client, "theta": first.server["w"].expand(len(SIZES), -1)})
    assert all(bool((u.own["weights"] == 1).all()) for u in uploads(made, alike, round=1))


def test_the_map_has_the_mean_weight_on_the_global_model() -> None:
    made = job("fedala", {"ala_eta": 5.0}, rounds=3)
    done, task = play(made)[-1], made.task()
    p = task.n.double() / task.n.sum()
    share = done.state.client["weights"].double().mean(1)
    assert done.map is not None
    expected = torch.diag(1 - share) + share[:, None] * p
    torch.testing.assert_close(done.map.slices["top:1"], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(done.map.slices["below:1"], p.expand(len(SIZES), -1), rtol=0, atol=1e-12)
    assert float(share.max()) < 1
