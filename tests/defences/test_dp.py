"""DP-FedAvg: clipping, noise, the adaptive norm and the accountant."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from attacked import defended
from toys import federation, job, play, random
from uploads import equal, merge, uploads

from fltk.defences import accountant, dp_fedavg
from fltk.defences.accountant import epsilon
from fltk.defences.dp_fedavg import DPFedAvg
from fltk.errors import FltkError, UsageError
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE, weighted_sum
from fltk.rounds import terms

needs_opacus = pytest.mark.skipif(
    importlib.util.find_spec("opacus") is None, reason="opacus is not installed (the extra `privacy`)"
)


def test_without_noise_and_limit_it_is_fedavg_of_equal_clients() -> None:
    rows, start = uploads(7)
    found = merge(DPFedAvg(noise=0, clip=math.inf), rows, start)
    torch.testing.assert_close(found.row, weighted_sum(list(rows), equal(7)))
    torch.testing.assert_close(found.used, equal(7))


def test_weights_are_equal_and_the_denominator_is_fixed_whoever_comes() -> None:
    rows, start = uploads(3, 12)
    weights = torch.tensor([0.8, 0.1, 0.1], dtype=torch.float64)
    found = merge(DPFedAvg(noise=0, clip=1e-2), rows, start, weights, n_clients=20, participation=0.5)
    g = rows.double() - start.double()
    expected = start.double() + (g / g.norm(dim=1, keepdim=True) * 1e-2).sum(0) / 10
    torch.testing.assert_close(found.row.double(), expected, rtol=1e-6, atol=1e-6)
    assert float(found.used.sum()) < 3 / 10 + 1e-9


def test_one_client_changes_the_sum_by_no_more_than_the_clipping_norm() -> None:
    rows, start = uploads(5)
    bad = rows.clone()
    bad[2] = start + 1e6
    one, other = (merge(DPFedAvg(noise=0, clip=0.3), x, start).row for x in (rows, bad))
    assert float((one - other).norm()) <= 2 * 0.3 / 5 * (1 + 1e-4)


def test_the_noise_has_the_deviation_that_the_guarantee_is_for() -> None:
    d = 1_000_000
    start = torch.zeros(d)
    out = merge(DPFedAvg(noise=1.5, clip=0.2), start.expand(2, -1), start, n_clients=40, participation=0.5).row
    assert float(out.double().std()) == pytest.approx(1.5 * 0.2 / 20, rel=0.01)
    assert abs(float(out.double().mean())) < 5 * 0.015 / d**0.5


def test_noise_goes_by_the_generator() -> None:
    rows, start = uploads(4)
    one, same, other = (merge(DPFedAvg(), rows, start, seed=s).row for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_running_statistics_of_the_last_model_stay() -> None:
    rows, start = uploads(4, 10)
    rows[:, 6:] += 5
    out = merge(DPFedAvg(), rows, start, parameters=6).row
    assert torch.equal(out[6:], start[6:])


def test_the_adaptive_norm_follows_the_share_of_short_updates() -> None:
    start = torch.zeros(40)
    rows = torch.nn.functional.normalize(random(200, 40)) * torch.linspace(0.5, 1.5, 200)[:, None]
    rule = DPFedAvg(adaptive="on", clip=0.1, noise=1.0)
    state: dict[str, torch.Tensor] = {}
    for t in range(60):
        found = merge(rule, rows, start, state=state, seed=t)
        bound = found.numbers["clip_norm"]
        expected = bound * math.exp(-0.2 * (float((rows.norm(dim=1) <= bound).sum()) / 200 - 0.5))
        assert float(found.state["clip"]) == pytest.approx(expected, rel=0.05)  # the count's noise is a twentieth
        state = dict(found.state)
    assert float(state["clip"]) == pytest.approx(1, rel=0.15)  # the median norm
    assert float(merge(DPFedAvg(clip=0.1), rows, start).state["clip"]) == pytest.approx(0.1)


def test_the_noise_of_an_adaptive_run_pays_for_the_count() -> None:
    assert DPFedAvg(adaptive="on", noise=1).update_noise(100) == pytest.approx(1.00504, abs=1e-5)
    assert DPFedAvg(adaptive="off", noise=1).update_noise(100) == 1
    z = DPFedAvg(adaptive="on", noise=1.3).update_noise(40)
    assert z**-2 + (2 * 40 / 20) ** -2 == pytest.approx(1.3**-2)


def test_what_the_mechanism_cannot_promise_is_refused() -> None:
    with pytest.raises(UsageError, match="Poisson"):
        DPFedAvg().check(ONE, 0.5, 20)
    DPFedAvg(approximate="on").check(ONE, 0.5, 20)
    DPFedAvg().check(ONE, 1.0, 20)
    with pytest.raises(UsageError, match="clip=inf"):
        DPFedAvg(clip=math.inf).check(ONE, 1.0, 20)
    with pytest.raises(UsageError, match="noise=1: adaptive clipping needs less than 0"):
        DPFedAvg(adaptive="on").check(ONE, 1.0, 8)
    DPFedAvg(adaptive="on").check(ONE, 1.0, 20)
    assert {CLUSTERS, MIXED} <= set(DPFedAvg.refusals)
    assert set(DPFedAvg.forms) == {ONE}


def test_without_the_library_the_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "available", lambda: False)
    monkeypatch.setattr(dp_fedavg, "available", lambda: False)
    rows, start = uploads(4)
    found = merge(DPFedAvg(), rows, start)
    assert "epsilon" not in found.numbers
    assert "fltk[privacy]" in found.notes[0]
    with pytest.raises(FltkError, match=r"fltk\[privacy\]"):
        epsilon(1.0, 0.1, 10, 1e-5)


def test_no_noise_has_no_finite_epsilon() -> None:
    assert epsilon(0, 0.1, 10, 1e-5) == math.inf
    assert epsilon(1, 0.1, 0, 1e-5) == 0
    rows, start = uploads(4)
    assert "epsilon" not in merge(DPFedAvg(noise=0), rows, start).numbers


@needs_opacus
@pytest.mark.parametrize(
    ("noise", "rate", "rounds", "kind", "expected"),
    [
        (1.1, 0.01, 1000, "rdp", 1.7118),  # the same in two libraries
        (1.0, 0.1, 100, "rdp", 7.904),
        (1.0, 1.0, 1, "rdp", 4.7285),
        (1.1, 0.01, 1000, "prv", 1.5255),
        (1.0, 0.1, 100, "prv", 7.047),  # another library's numerical composition
    ],
)
def test_reference_values(noise: float, rate: float, rounds: int, kind: str, expected: float) -> None:
    assert epsilon(noise, rate, rounds, 1e-5, kind) == pytest.approx(expected, rel=2e-3)


@needs_opacus
def test_epsilon_of_one_release_is_no_less_than_the_exact_one() -> None:
    """delta = Phi(1/2z - eps z) - e^eps Phi(-1/2z - eps z) of the Gaussian mechanism (B. Balle, Y.-X. Wang, 2018)."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    for z in (0.7, 1.0, 2.0):
        for kind in ("rdp", "prv"):
            eps = epsilon(z, 1.0, 1, 1e-5, kind)
            spent = phi(1 / (2 * z) - eps * z) - math.exp(eps) * phi(-1 / (2 * z) - eps * z)
            assert spent <= 1e-5 * (1 + 1e-3)
        assert epsilon(z, 1.0, 1, 1e-5, "prv") <= epsilon(z, 1.0, 1, 1e-5, "rdp")


@needs_opacus
def test_epsilon_grows_with_rounds_and_rate_and_falls_with_noise() -> None:
    base = epsilon(1.0, 0.1, 10, 1e-5)
    assert epsilon(1.0, 0.1, 20, 1e-5) > base
    assert epsilon(1.0, 0.2, 10, 1e-5) > base
    assert epsilon(1.5, 0.1, 10, 1e-5) < base


@needs_opacus
def test_a_round_tells_what_was_spent_up_to_it() -> None:
    rows, start = uploads(4)
    for t in (0, 4):
        told = merge(DPFedAvg(delta=1e-3), rows, start, round=t).numbers
        assert told["epsilon"] == epsilon(1.0, 1.0, t + 1, 1e-3)
        assert told["delta"] == 1e-3
    assert merge(DPFedAvg(), rows, start).numbers["delta"] == pytest.approx(4**-1.1)


@pytest.mark.parametrize(("share", "clients"), [(0.01, 1), (0.07, 1), (0.5, 10)])
def test_the_mean_is_over_those_who_really_take_part(share: float, clients: int) -> None:
    """At least one client does, and so many count, in the mean and in epsilon."""
    twenty = federation(sizes=[12] * 20)
    free = {"noise": 0, "clip": math.inf, "approximate": "on"}
    plain = job("fedavg", data=twenty, rounds=1, participation=share, agg_weights="uniform")
    private = defended(plain, "dp-fedavg", free, share=0.0)
    assert terms.participants(private, private.task()) == clients
    torch.testing.assert_close(
        play(private)[-1].state.server["w"], play(plain)[-1].state.server["w"], rtol=0, atol=1e-6
    )
