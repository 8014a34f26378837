"""Centred clipping and norm clipping: bounded influence, fixed points, and the mean as their limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attacked import attacked, defended
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import federation, job, play, random
from uploads import equal, facts, judge, merge, uploads

from fltk.defences.base import Facts
from fltk.defences.centered_clip import CenteredClip
from fltk.defences.norm_clip import NormClip, clip_factors
from fltk.errors import UsageError
from fltk.protocol.averaging import MIXED, weighted_sum


def slow_clip(g: Tensor, v: Tensor, a: Tensor, tau: float, iterations: int) -> Tensor:
    for _ in range(iterations):
        steps = [a[k] * (g[k] - v) * min(1.0, tau / max(1e-300, float((g[k] - v).norm()))) for k in range(len(g))]
        v = v + torch.stack(steps).sum(0)
    return v


@given(st.integers(0, 10**6), st.floats(0.01, 5), st.integers(1, 4))
@settings(deadline=None)
def test_steps_from_the_last_update_as_loops(seed: int, tau: float, iterations: int) -> None:
    rows, start = uploads(6, 15, seed=seed)
    a, v = torch.softmax(random(6, seed=seed).double(), 0), random(15, seed=seed + 1)
    found = merge(CenteredClip(tau=tau, iterations=iterations), rows, start, a, {"v": v})
    expected = slow_clip(rows.double() - start.double(), v.double(), a, tau, iterations)
    torch.testing.assert_close(found.row.double(), start.double() + expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.state["v"], expected.float(), rtol=1e-5, atol=1e-5)
    assert bool((found.used >= 0).all())
    assert float(found.used.sum()) <= 1 + 1e-9


def test_the_first_round_starts_at_no_update_and_the_radius_is_the_median_distance() -> None:
    rows, start = uploads(7)
    found = merge(CenteredClip(iterations=1), rows, start)
    tau = float((rows.double() - start.double()).norm(dim=1).quantile(0.5))
    assert found.numbers["clip_radius"] == pytest.approx(tau)
    expected = slow_clip(rows.double() - start.double(), torch.zeros(len(start)).double(), equal(7), tau, 1)
    torch.testing.assert_close(found.row.double(), start.double() + expected, rtol=1e-5, atol=1e-5)
    twice = merge(CenteredClip(iterations=1, tau_rel=2), rows, start)
    assert twice.numbers["clip_radius"] == pytest.approx(2 * tau)


def test_without_a_limit_it_is_the_mean_wherever_it_starts() -> None:
    rows, start = uploads(6)
    a = torch.softmax(random(6).double(), 0)
    for state in ({}, {"v": random(len(start), seed=3)}):
        found = merge(CenteredClip(tau=math.inf, iterations=1), rows, start, a, state)
        torch.testing.assert_close(found.row, weighted_sum(list(rows), a), rtol=1e-5, atol=1e-6)


def test_equal_uploads_are_a_fixed_point_that_is_reached_in_one_step() -> None:
    rows, start = uploads(5)
    rows = rows[:1].expand(5, -1)
    g = rows[0] - start
    again = merge(CenteredClip(tau=1e-3, iterations=2), rows, start, state={"v": g})
    torch.testing.assert_close(again.row, rows[0])
    reached = merge(CenteredClip(tau=1.01 * float(g.norm()), iterations=1), rows, start)
    torch.testing.assert_close(reached.row, rows[0])


def test_one_client_moves_the_result_by_no_more_than_its_share_of_tau() -> None:
    rows, start = uploads(8)
    for size in (1e3, 1e9):
        bad = rows.clone()
        bad[7] = start + size
        one, other = (merge(CenteredClip(tau=0.5, iterations=1), x, start).row for x in (rows, bad))
        assert float((one - other).norm()) <= 2 * 0.5 / 8 + 1e-4


def test_running_means_of_updates_take_their_place() -> None:
    rule, state = CenteredClip(momentum=0.9), {}
    rows, start = uploads(3, 10)
    expected = torch.zeros(4, 10)
    for seed, ids in ((0, (0, 1, 2)), (1, (1, 2, 3))):
        rows = start + random(3, 10, seed=seed)
        told = facts(rows, start, n_clients=4, ids=ids)
        found = rule.screen(rows - start, told, state)
        for at, k in enumerate(ids):
            expected[k] = 0.9 * expected[k] + 0.1 * (rows[at] - start)
        state = found.state
        torch.testing.assert_close(state["means"], expected)
        assert found.rows is not None
        torch.testing.assert_close(torch.stack(list(found.rows)), start + expected[list(ids)])
        assert found.trust.tolist() == [1, 1, 1]
    assert judge(CenteredClip(), rows, start).rows is None


def test_buffers_are_a_mean_of_buffers() -> None:
    """They have no last update: a variance must not be continued below zero."""
    rows, start = uploads(6, 12)
    rows[:, 9:], start[9:] = random(6, 3).abs(), 0.5
    state = {"v": -5 * random(9, seed=1)}
    found = merge(CenteredClip(tau=0.1), rows, start, state=state, parameters=9)
    low, high = rows[:, 9:].amin(0).clamp_max(0.5), rows[:, 9:].amax(0).clamp_min(0.5)
    assert bool((found.row[9:] >= low).all() and (found.row[9:] <= high).all())
    assert found.state["v"].shape == (9,)
    bent = rows.clone()
    bent[:, 9:] += 100  # distances do not look at buffers
    torch.testing.assert_close(merge(CenteredClip(tau=0.1), bent, start, state=state, parameters=9).used, found.used)


def test_norms_are_cut_and_directions_kept() -> None:
    rows, start = uploads(9)
    rows[3] = start + 50 * (rows[3] - start)
    found = judge(NormClip(), rows, start)
    assert found.rows is not None
    before, after = rows - start, torch.stack(list(found.rows)) - start
    median = float(before.norm(dim=1).median())
    assert float(after.norm(dim=1).max()) <= median * (1 + 1e-5)
    untouched = [k for k in range(9) if torch.equal(found.rows[k], rows[k])]
    assert len(untouched) >= 5  # at least half
    torch.testing.assert_close(torch.cosine_similarity(before, after), torch.ones(9))
    assert found.trust.tolist() == [1] * 9
    assert found.numbers["clipped"] == 9 - len(untouched)
    assert NormClip.weighted


def test_no_limit_hands_on_the_rows_themselves() -> None:
    rows, start = uploads(4)
    told = facts(rows, start)
    found = NormClip(limit=math.inf).screen(told.gram.updates, told, {})
    assert found.rows is not None and told.rows is not None
    assert all(a is b for a, b in zip(found.rows, told.rows, strict=True))
    a = torch.softmax(random(4).double(), 0)
    assert torch.equal(merge(NormClip(limit=math.inf), rows, start, a).row, weighted_sum(list(rows), a))


def test_the_mean_of_clipped_updates_is_no_longer_than_the_limit() -> None:
    rows, start = uploads(6)
    found = judge(NormClip(limit=0.2), rows, start)
    assert found.rows is not None
    out = merge(NormClip(limit=0.2), torch.stack(list(found.rows)), start).row
    assert float((out - start).norm()) <= 0.2 * (1 + 1e-5)


def test_factors() -> None:
    norms = torch.tensor([0.0, 1, 2, 4])
    assert clip_factors(norms, 2).tolist() == [1, 1, 1, 0.5]
    assert clip_factors(torch.zeros(3), 0).tolist() == [1, 1, 1]


def test_noise_is_added_once_and_to_parameters_only() -> None:
    start = torch.zeros(50_000)
    rows = torch.zeros(3, 50_000)
    out = merge(NormClip(noise=0.3), rows, start, parameters=49_990).row
    assert float(out[:49_990].std()) == pytest.approx(0.3, rel=0.02)
    assert not out[49_990:].any()
    with pytest.raises(UsageError, match="noise"):
        NormClip(noise=0.3).check(MIXED, 1.0, 10)
    NormClip().check(MIXED, 1.0, 10)


def test_clipping_is_measured_on_parameters_and_leaves_buffers_alone() -> None:
    rows, start = uploads(5, 12)
    rows[:, 8:] = 1e3
    told: Facts = facts(rows, start, parameters=8)
    found = NormClip(limit=0.1).screen(told.gram.updates, told, {})
    assert found.rows is not None
    out = torch.stack(list(found.rows))
    assert torch.equal(out[:, 8:], rows[:, 8:])
    torch.testing.assert_close((out - start)[:, :8].norm(dim=1), torch.full((5,), 0.1))


def test_a_shortened_update_has_its_shortened_weight_in_the_map() -> None:
    """p_k min(1, M / |g_k|): what was cut off stayed with the model, and the attacker's weight with it."""
    made = attacked(job("fedavg", rounds=2, agg_weights="uniform"), "scale", {"gamma": 100}, malicious=(1,))
    done = play(defended(made, "norm-clip"))[-1]
    p, factor = done.state.server["p"], done.clients["clip"]
    np.testing.assert_allclose(p, 0.25 * factor, rtol=1e-6)
    assert factor[1] < 0.1
    assert done.scalars["mal_weight_ratio"] < 0.5


def test_clients_that_were_shortened_are_counted_over_all_groups() -> None:
    made = defended(job("oracle", rounds=2, data=federation(sizes=[12] * 8, groups=[0] * 4 + [1] * 4)), "norm-clip")
    for done in play(made):
        assert done.scalars["clipped"] == np.sum(done.clients["clip"] < 1)
    assert done.scalars["clipped"] == 4
