"""Server optimisers against the equations of their papers, and as options of methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import federation, job, models, play, random

from fltk.errors import UsageError
from fltk.protocol.server_optimiser import ServerOptimiser

ADAPTIVE = ("adagrad", "adam", "yogi")


def walked(optimiser: ServerOptimiser, deltas: list[Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The model and the memory after each of these differences."""
    w, memory, out = torch.zeros(5), {}, []
    for delta in deltas:
        w, memory = optimiser.step(w, w + delta, memory)
        out.append((w, memory))
    return out


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_three_steps_are_those_of_algorithm_2(kind: str) -> None:
    eta, b1, b2, tau = 0.3, 0.8, 0.9, 0.05
    deltas = [random(5, seed=k) for k in range(3)]
    found = walked(ServerOptimiser(kind, eta, b1, b2, tau), deltas)

    w = [0.0] * 5
    m, v = [0.0] * 5, [tau**2] * 5
    for delta, (got, _) in zip(deltas, found, strict=True):
        for i, d in enumerate(delta.tolist()):
            m[i] = b1 * m[i] + (1 - b1) * d
            if kind == "adagrad":
                v[i] = v[i] + d * d
            elif kind == "adam":
                v[i] = b2 * v[i] + (1 - b2) * d * d
            else:
                v[i] = v[i] - (1 - b2) * d * d * ((v[i] > d * d) - (v[i] < d * d))
            w[i] = w[i] + eta * m[i] / (v[i] ** 0.5 + tau)
        torch.testing.assert_close(got, torch.tensor(w), rtol=1e-5, atol=1e-6)


def test_momentum_adds_up_a_constant_difference() -> None:
    delta, beta = random(5), 0.7
    found = walked(ServerOptimiser("avgm", 1.0, beta), [delta] * 4)
    expected = (1 - beta**4) / (1 - beta) * delta
    torch.testing.assert_close(found[-1][1]["m"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_without_a_difference_nothing_moves(kind: str) -> None:
    start = random(5)
    assert torch.equal(ServerOptimiser(kind).step(start, start, {})[0], start)


def test_momentum_zero_is_fedavg_bit_for_bit() -> None:
    plain = play(job("fedavg", rounds=3))[-1].state.server["w"]
    for made in (job("fedavgm", {"beta": 0.0}, rounds=3), job("fedavg", server_opt="avgm", server_beta1=0.0, rounds=3)):
        assert torch.equal(play(made)[-1].state.server["w"], plain)


@pytest.mark.parametrize(
    ("method", "params", "option"),
    [
        ("fedavgm", {"beta": 0.9, "server_lr": 1.0}, {"server_opt": "avgm"}),
        ("fedadam", {"server_lr": 0.02}, {"server_opt": "adam", "server_lr": 0.02}),
        ("fedyogi", {"tau": 0.1}, {"server_opt": "yogi", "server_tau": 0.1}),
        ("fedadagrad", {}, {"server_opt": "adagrad"}),
    ],
)
def test_a_preset_is_fedavg_with_the_option(method: str, params: dict[str, float], option: dict[str, object]) -> None:
    preset, plain = job(method, params, rounds=3), job("fedavg", rounds=3, **option)
    assert play(preset)[-1].digest == play(plain)[-1].digest


@pytest.mark.parametrize("method", ["fedper", "ifca", "ditto", "scaffold", "cluster-kmeans", "oracle"])
def test_methods_with_an_average_take_the_option_and_resume(method: str) -> None:
    made = job(method, rounds=4, server_opt="adam")
    whole = play(made)
    rest = play(made, resume=(2, whole[1].state))
    assert [done.digest for done in whole[2:]] == [done.digest for done in rest]
    assert whole[-1].digest != play(job(method, rounds=4))[-1].digest
    assert torch.isfinite(models(made, whole[-1].state)).all()


def test_every_cluster_model_has_moments_of_its_own() -> None:
    state = play(job("oracle", server_opt="adam"))[-1].state
    moments = [state.server[f"server-opt.model{m}.m"] for m in range(2)]
    assert not torch.equal(*moments)


def test_running_statistics_are_those_of_the_average() -> None:
    made = job("fedavg", data=federation(shape=(1, 8, 8)), model="cnn-bn", rounds=2, server_opt="avgm")
    layout = made.task().layout
    first, second = (done.state.server for done in play(made))
    assert first["server-opt.w.m"].shape == (layout.trainable,)
    assert (second["w"][layout.trainable :].isfinite()).all()
    names = [e for e in layout.entries if e.name.endswith("running_var")]
    assert all(bool((e.view(second["w"]) >= 0).all()) for e in names)


def test_the_map_of_a_server_optimiser_is_a_direction() -> None:
    assert play(job("fedavg"))[-1].map.kind == "exact"  # type: ignore[union-attr]
    assert play(job("fedavg", server_opt="adam"))[-1].map.kind == "direction"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "why"), [("attn", "no average"), ("fedamp", "no average"), ("local", "sends no model")]
)
def test_where_nothing_common_is_averaged_the_option_is_refused(method: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"--server-opt adam does not go with this --method.*{why}"):
        play(job(method, server_opt="adam"))


def test_a_preset_takes_no_second_optimiser() -> None:
    with pytest.raises(UsageError, match="a server optimiser of its own"):
        play(job("fedadam", server_opt="avgm"))


@pytest.mark.parametrize(
    "settings",
    [{"server_lr": 0.1}, {"server_opt": "adam", "server_tau": 0.0}, {"server_opt": "adam", "server_beta1": 1.0}],
)
def test_constants_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^--server-"):
        job("fedavg", **settings)
