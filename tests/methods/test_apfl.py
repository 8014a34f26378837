"""apfl: FedAvg's trajectory, untouched, and a mixture whose local part takes its share of the gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_pfedme import slope
from toys import SIZES, final, job, models, play, uploads

from fltk.engine.base import Bench
from fltk.errors import UsageError

Params = dict[str, Any]
LEARNED: Params = {"adaptive": "on", "alpha": 0.3}


@pytest.mark.parametrize("params", [{"alpha": 0}, {"alpha": 0.4}, {"alpha": 1}, LEARNED])
def test_the_global_trajectory_is_fedavg_bit_for_bit(params: Params) -> None:
    for mine, theirs in zip(play(job("apfl", params, rounds=3)), play(job("fedavg", rounds=3)), strict=True):
        assert torch.equal(mine.state.server["w"], theirs.state.server["w"])


def test_a_weight_of_one_is_local_bit_for_bit() -> None:
    for share in (1.0, 0.5):
        assert torch.equal(
            final("apfl", {"alpha": 1}, rounds=3, participation=share), final("local", rounds=3, participation=share)
        )


def test_a_weight_of_zero_is_fedavg_and_the_local_model_never_moves() -> None:
    made = job("apfl", {"alpha": 0}, rounds=3)
    state = play(made)[-1].state
    assert torch.equal(models(made, state), final("fedavg", rounds=3))
    assert torch.equal(state.client["v"], made.task().w0.expand(len(SIZES), -1))


@pytest.mark.parametrize("step", ["fast", "autograd"])
@pytest.mark.parametrize("params", [{"alpha": 0.4}, {**LEARNED, "alpha_decay": 0.2}])
def test_a_round_as_loops(params: Params, step: str) -> None:
    made = job("apfl", params, step=step)
    state, bench = play(made)[-1].state, Bench(made)
    sent = uploads(made, state, ids=(1,), round=2)[0]
    w, v, alpha = state.server["w"], state.client["v"][1], float(state.client["alpha"][1])
    for k, batch in enumerate(bench.trainer.at(2, 1).batches(bench.client(1).train)):
        g, used = slope(alpha * v + (1 - alpha) * w, batch), alpha
        if k == 0 and "adaptive" in params:
            alpha = min(1.0, max(0.0, alpha - 0.1 * (float((v - w) @ g) + 0.2 * alpha)))
        v, w = v - 0.1 * used * g, w - 0.1 * slope(w, batch)
    torch.testing.assert_close(sent.own["v"], v, rtol=0, atol=2e-6)
    assert float(sent.own["alpha"]) == pytest.approx(alpha, abs=1e-6)
    assert ("adaptive" in params) == (alpha != params["alpha"])


def test_alpha_does_not_move_where_local_and_global_model_are_one() -> None:
    made = job("apfl", LEARNED)
    sent = uploads(made, made.method.init(made.task()))
    assert [float(u.own["alpha"]) for u in sent] == [0.3] * len(SIZES)


def test_alpha_stays_between_zero_and_one() -> None:
    made = job("apfl", {"adaptive": "on", "alpha": 0.9}, lr=0.5)
    state = play(made)[-1].state
    apart = replace(state, client={**state.client, "v": state.client["v"] * 30})
    alphas = torch.stack([u.own["alpha"] for u in uploads(made, apart, round=2)])
    assert ((alphas >= 0) & (alphas <= 1)).all()
    assert bool(((alphas == 0) | (alphas == 1)).any())


def test_the_map_is_alpha_on_oneself() -> None:
    made = job("apfl", {"alpha": 0.3})
    done, task = play(made)[-1], made.task()
    p = task.n.double() / task.n.sum()
    assert done.map is not None
    expected = 0.3 * torch.eye(len(SIZES), dtype=torch.float64) + 0.7 * p
    torch.testing.assert_close(done.map.whole(), expected, rtol=0, atol=1e-12)


def test_momentum_is_refused() -> None:
    with pytest.raises(UsageError, match="--momentum"):
        final("apfl", momentum=0.5)
