"""scaffold: the control variates' formulas, and the drift they remove."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import federation, final, job, models, play, random, uploads

from fltk.engine.base import Bench, Job
from fltk.errors import UsageError
from fltk.protocol.messages import Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State


def gradient(made: Job, w: Tensor, client: int) -> Tensor:
    """Full-batch gradient of a client's loss, flat."""
    layout, data = made.task().layout, made.federation.clients[client].train
    model = made.network().to_empty(device="cpu")
    parameters = layout.bind(model, w.clone())
    pieces = torch.autograd.grad(F.cross_entropy(model(data.x), data.y), parameters)
    return torch.cat([e.flatten(g) for e, g in zip(layout.entries, pieces, strict=True)])


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_the_servers_variate_is_the_mean_over_all_clients(participation: float) -> None:
    for done in play(job("scaffold", rounds=5, participation=participation)):
        torch.testing.assert_close(done.state.server["c"], done.state.client["c"].mean(0), rtol=0, atol=1e-6)
        assert float(done.state.server["c"].norm()) > 0.01


def test_the_clients_variate_is_option_two() -> None:
    """c_i+ = c_i - c + (x - y) / (K eta), with K the number of steps."""
    made = job("scaffold", lr=0.07)
    state = play(made)[-1].state
    x, c, c_i = state.server["w"], state.server["c"], state.client["c"]
    for u, steps in zip(uploads(made, state, round=2), (3, 5, 2, 4), strict=True):  # ceil(n / 5)
        expected = c_i[u.client] - c + (x - u.w) / (steps * 0.07)
        torch.testing.assert_close(u.own["c"], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(u.sent["dc"], expected - c_i[u.client], rtol=1e-5, atol=1e-6)


def test_the_local_step_is_corrected_by_the_variates() -> None:
    """One full-batch step: y = x - eta (g_i(x) - c_i + c)."""
    made = job("scaffold", batch_size=1000, lr=0.2)
    task = made.task()
    state = made.method.init(task)
    c, c_i = random(task.layout.size, seed=1), random(4, task.layout.size, seed=2)
    state = replace(state, server={**state.server, "c": c}, client={**state.client, "c": c_i})
    for u in uploads(made, state):
        g = gradient(made, task.w0, u.client)
        torch.testing.assert_close(u.w, task.w0 - 0.2 * (g - c_i[u.client] + c), rtol=0, atol=1e-6)
        torch.testing.assert_close(u.own["c"], g, rtol=0, atol=2e-5)  # K = 1: the gradient at x


def test_full_batches_of_everybody_are_gradient_descent_on_the_uniform_mean() -> None:
    made = job("scaffold", batch_size=1000, lr=0.2, rounds=1)
    task = made.task()
    mean = torch.stack([gradient(made, task.w0, i) for i in range(4)]).mean(0)
    got = play(made)[-1].state.server["w"]
    torch.testing.assert_close(got, task.w0 - 0.2 * mean, rtol=0, atol=1e-6)


def test_with_variates_of_zero_it_is_uniform_fedavg_bit_for_bit() -> None:
    ours, theirs = final("scaffold", rounds=1), final("fedavg", rounds=1, agg_weights="uniform")
    assert torch.equal(ours, theirs)


def test_the_servers_step_scales_the_mean_difference() -> None:
    made, half = job("scaffold", rounds=1), job("scaffold", {"server_lr": 0.5}, rounds=1)
    w0 = made.task().w0
    full, part = (models(m, play(m)[-1].state)[0] for m in (made, half))
    torch.testing.assert_close(part, w0 + 0.5 * (full - w0), rtol=0, atol=1e-6)
    assert (made.method.map_kind, half.method.map_kind) == ("exact", "direction")


@pytest.mark.parametrize("setting", [{"momentum": 0.9}, {"weight_decay": 1e-3}])
def test_other_optimisers_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="leave out --momentum, --weight-decay"):
        play(job("scaffold", **setting))


def test_a_lowered_rate_is_the_rate_of_the_variate() -> None:
    made = job("scaffold", rounds=3, lr_schedule="exponential", lr_decay=0.5, batch_size=1000)
    for done in play(made):
        torch.testing.assert_close(done.state.server["c"], done.state.client["c"].mean(0), rtol=0, atol=1e-5)
    state = play(made)[1].state
    sent = uploads(made, state, round=2)[0]
    torch.testing.assert_close(sent.own["c"], gradient(made, state.server["w"], 0), rtol=0, atol=1e-4)
    assert Bench(made).trainer.at(2, 0).lr == pytest.approx(0.025)


class Quadratics:
    """A trainer whose client losses are 1/2 a_i ||w - m_i||^2, with exact gradients, in float64."""

    lr = 0.1
    config = SimpleNamespace(momentum=0.0, weight_decay=0.0)

    def __init__(self, curvature: Tensor, minimum: Tensor):
        self.a, self.m = curvature, minimum

    def steps(self, n: int) -> int:
        return 4

    def sgd(self, w: Tensor, data: int, drift: Tensor | None = None) -> Tensor:
        for _ in range(4):
            g = self.a[data] * (w - self.m[data])
            w = w - self.lr * (g if drift is None else g + drift)
        return w


def play_quadratics(method: Method, trainer: Quadratics, rounds: int) -> Tensor:
    """The global model after rounds with 2 of 5 clients each, float64."""
    task = replace(job("scaffold").task(), n=torch.ones(5, dtype=torch.int64), uniform=True)
    zero = torch.zeros(3, dtype=torch.float64)
    state = State({"w": zero, "c": zero}, {"c": torch.zeros(5, 3, dtype=torch.float64)}, torch.full((5,), -1))
    generator = torch.Generator().manual_seed(0)
    for t in range(rounds):
        ids = sorted(torch.randperm(5, generator=generator)[:2].tolist())
        sent = [_local(method, state, i, trainer) for i in ids]
        state = method.aggregate(state, sent, Server(t, task))
        torch.testing.assert_close(state.server["c"], state.client["c"].mean(0), rtol=0, atol=1e-12)
    return state.server["w"]


def _local(method: Method, state: State, i: int, trainer: Quadratics) -> Upload:
    down = SimpleNamespace(w=state.server["w"], server={"c": state.server["c"]}, own={"c": state.client["c"][i]})
    client = SimpleNamespace(train=_Data(i))
    return replace(method.local_update(down, client, trainer), client=i)  # type: ignore[arg-type]  # doubles


class _Data(int):
    """Stands for a client's samples: its index."""

    def __len__(self) -> int:
        return 1


def test_it_reaches_the_minimum_that_fedavg_misses() -> None:
    """Different curvatures, four local steps, 2 of 5 clients: the uniform mean's minimum is sum a m / sum a."""
    a = torch.tensor([0.2, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    trainer = Quadratics(a, random(5, 3).double())
    best = (a[:, None] * trainer.m).sum(0) / a.sum()
    ours = play_quadratics(job("scaffold").method, trainer, 1500)
    assert float((ours - best).norm()) < 1e-6
    w = torch.zeros(3, dtype=torch.float64)
    for _ in range(300):  # FedAvg even with everybody
        w = torch.stack([trainer.sgd(w, i) for i in range(5)]).mean(0)
    assert float((w - best).norm()) > 0.05


def test_both_variates_travel() -> None:
    made = job("scaffold")
    size, done = made.task().layout.size, play(made)[0]
    assert done.scalars["bytes_up"] == done.scalars["bytes_down"] == 8 * size * done.scalars["participants"]


def test_a_long_server_step_leaves_running_statistics_alone() -> None:
    """Past the mean of variances it would come out below zero."""
    sizes = {"data": federation(shape=(1, 8, 8)), "model": "resnet8-bn", "rounds": 1}
    long, plain = (job("scaffold", {"server_lr": step}, **sizes) for step in (2.0, 1.0))
    cut = long.task().layout.trainable
    a, b, w0 = play(long)[-1].state.server["w"], play(plain)[-1].state.server["w"], long.task().w0
    assert torch.equal(a[cut:], b[cut:])
    torch.testing.assert_close(a[:cut] - w0[:cut], 2 * (b - w0)[:cut], rtol=0, atol=1e-5)
    assert not torch.equal(b[cut:], w0[cut:])


def test_newcomers_keep_the_servers_variate_the_mean() -> None:
    made = job("scaffold", data=federation(sizes=(12, 23, 8)))
    state, larger = play(made)[-1].state, job("scaffold")
    joined = Joined(made.task().w0, made.task().w0)
    grown = made.method.add_clients(state, [joined], larger.task())
    torch.testing.assert_close(grown.server["c"], grown.client["c"].mean(0), rtol=0, atol=1e-6)
    assert float(grown.server["c"].norm()) > 0.01
