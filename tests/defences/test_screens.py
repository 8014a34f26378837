"""Rules that judge clients: FLTrust, DnC, FoolsGold, SignGuard and attention trust."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import random
from uploads import facts, judge, uploads

from fltk.attention.trust import log_trust
from fltk.defences.attention_trust import AttentionTrust
from fltk.defences.base import Screened
from fltk.defences.dnc import DnC, spectral_scores
from fltk.defences.fltrust import FLTrust
from fltk.defences.foolsgold import FoolsGold, lone_trust
from fltk.defences.signguard import SignGuard, largest_cluster, sign_shares


def mean_of(found: Screened, start: Tensor) -> Tensor:
    """The aggregated update: the mean of the screened rows by trust, less the start."""
    assert found.rows is not None
    moved = torch.stack(list(found.rows)).double() - start.double()
    return (found.trust[:, None] * moved).sum(0) / found.trust.sum()


# --- FLTrust


def test_trust_and_length_come_from_the_servers_own_update() -> None:
    rows, start = uploads(6, 20, spread=2)
    root = random(20, seed=7)
    found = judge(FLTrust(), rows, start, root=root.expand(6, -1))
    expected = torch.cosine_similarity(rows.double() - start.double(), root.double()[None]).clamp_min(0)
    torch.testing.assert_close(found.trust, expected, rtol=1e-5, atol=1e-6)
    assert found.rows is not None
    lengths = (torch.stack(list(found.rows)) - start).norm(dim=1)
    torch.testing.assert_close(lengths, root.norm().expand(6), rtol=1e-4, atol=1e-4)
    assert float(mean_of(found, start).norm()) <= float(root.norm()) * (1 + 1e-5)


def test_everybody_like_the_server_gives_the_servers_update_at_any_scale() -> None:
    start, root = random(20), random(20, seed=1)
    for scale in (1.0, 1e-3, 1e3):
        rows = start + scale * root.expand(4, -1)
        found = judge(FLTrust(), rows, start, root=root.expand(4, -1))
        torch.testing.assert_close(found.trust, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mean_of(found, start).float(), root, rtol=1e-3, atol=1e-3)


def test_the_opposite_and_no_update_at_all_are_not_trusted() -> None:
    start, root = random(20), random(20, seed=1)
    rows = torch.stack([start - 3 * root, start, start + root])
    found = judge(FLTrust(), rows, start, root=root.expand(3, -1))
    assert found.trust[:2].tolist() == [0, 0]
    nobody = judge(FLTrust(), rows[:2], start, root=root.expand(2, -1))
    assert not nobody.trust.any()
    assert "the model is kept" in nobody.notes[0]
    assert not judge(FLTrust(), rows, start, root=torch.zeros(3, 20)).trust.any()


def test_every_start_has_a_root_update_of_its_own_and_buffers_are_left_alone() -> None:
    starts, root = random(3, 10), random(3, 8, seed=1)
    rows = starts.clone()
    rows[:, :8] += 2 * root
    rows[:, 8:] = 7
    found = judge(FLTrust(), rows, starts, root=root, parameters=8)
    torch.testing.assert_close(found.trust, torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert found.rows is not None
    out = torch.stack(list(found.rows))
    torch.testing.assert_close(out[:, :8], starts[:, :8] + root, rtol=1e-4, atol=1e-5)
    assert torch.equal(out[:, 8:], rows[:, 8:])


# --- DnC


def test_scores_are_projections_on_the_first_singular_vector() -> None:
    x = random(8, 30).double()
    centred = x - x.mean(0)
    v = torch.linalg.svd(centred)[2][0]
    torch.testing.assert_close(spectral_scores(x), (centred @ v).square())
    torch.testing.assert_close(spectral_scores(-x), spectral_scores(x))


@pytest.mark.parametrize("f", [1, 3])
def test_dnc_leaves_out_as_many_as_assumed_and_the_outliers_first(f: int) -> None:
    rows, start = uploads(12)
    rows[-f:] = start + 30 * random(1, len(start), seed=5)
    trust = judge(DnC(iterations=3), rows, start, f=f).trust
    assert trust.tolist() == [1.0] * (12 - f) + [0.0] * f


def test_dnc_trusts_everybody_where_nobody_is_malicious_and_goes_by_its_generator() -> None:
    rows, start = uploads(9, 500)
    assert judge(DnC(), rows, start, f=0).trust.tolist() == [1] * 9
    one, same, other = (judge(DnC(coordinates=5), rows, start, f=3, seed=s).trust for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_dnc_falls_back_to_the_last_sample_when_nobody_is_left() -> None:
    rows, start = uploads(6, 400)
    found = judge(DnC(coordinates=1, iterations=60), rows, start, f=3)
    assert found.trust.sum() == 3
    assert "no client was kept in every sample" in found.notes[0]


def test_dnc_needs_someone_to_keep() -> None:
    for c in (0.5, 1.0, 1.5):
        for n in range(1, 20):
            f = DnC(c=c).most(n)
            assert n - math.ceil(c * f) >= 1
            assert n - math.ceil(c * (f + 1)) < 1
    assert DnC(c=0).most(5) == 5


# --- FoolsGold


def slow_foolsgold(h: Tensor) -> list[float]:
    n = len(h)
    cs = [[float(torch.cosine_similarity(h[i], h[j], dim=0)) if i != j else 0.0 for j in range(n)] for i in range(n)]
    v = [max(0.0, *row) for row in cs]
    pardoned = [[cs[i][j] * v[i] / v[j] if v[i] < v[j] else cs[i][j] for j in range(n)] for i in range(n)]
    a = [min(1.0, max(0.0, 1 - max(0.0, *row))) for row in pardoned]
    a = [min(0.99, x / max(a)) for x in a]
    return [min(1.0, max(0.0, math.log(x / (1 - x)) + 0.5)) if x > 0 else 0.0 for x in a]


@given(st.integers(0, 10**6), st.integers(3, 9))
@settings(deadline=None)
def test_foolsgold_as_loops(seed: int, k: int) -> None:
    h = random(k, 6, seed=seed)
    h[0] = h[1] + 0.1 * random(6, seed=seed + 1)
    found = judge(FoolsGold(), h, torch.zeros(6))
    expected = torch.tensor(slow_foolsgold(h.double()), dtype=torch.float64)
    torch.testing.assert_close(found.trust, expected, rtol=1e-5, atol=1e-5)


def test_copies_lose_their_weight_and_those_who_differ_keep_theirs() -> None:
    rows = torch.eye(6)[[0, 1, 2, 3, 3, 3]]
    found = judge(FoolsGold(), rows, torch.zeros(6))
    assert found.trust.tolist() == [1, 1, 1, 0, 0, 0]
    assert judge(FoolsGold(), rows * torch.tensor([1.0, 5, 1, 9, 1, 2])[:, None], torch.zeros(6)).trust.equal(
        found.trust
    )


def test_histories_add_up_over_the_rounds_of_each_client() -> None:
    start = torch.zeros(8)
    first, second = random(3, 8), random(2, 8, seed=1)
    rule = FoolsGold()
    state = rule.screen(first, facts(first, start, n_clients=4, ids=(0, 1, 3)), {}).state
    found = rule.screen(second, facts(second, start, n_clients=4, ids=(1, 2)), state)
    expected = torch.stack([first[0], first[1] + second[0], second[1], first[2]])
    torch.testing.assert_close(found.state["history"], expected)
    torch.testing.assert_close(
        found.trust, torch.tensor(slow_foolsgold(expected[1:3].double()), dtype=torch.float64), rtol=1e-5, atol=1e-5
    )


def test_if_all_are_copies_everybody_is_trusted() -> None:
    rows = random(1, 6).expand(4, -1)
    found = judge(FoolsGold(), rows, torch.zeros(6))
    assert found.trust.tolist() == [1] * 4
    assert "everybody is trusted" in found.notes[0]
    assert FoolsGold().most(1) == -1


def test_no_update_resembles_nobody() -> None:
    rows = torch.cat([torch.zeros(2, 6), torch.eye(6)[:2]])
    assert judge(FoolsGold(), rows, torch.zeros(6)).trust.tolist() == [1, 1, 1, 1]
    assert lone_trust(torch.ones(3, 3).double()) is None


# --- SignGuard


def test_sign_shares_as_loops() -> None:
    x = random(5, 40)
    x[:, ::4] = 0
    x[2] = x[2].abs()
    shares = sign_shares(x)
    counts = [[sum(v > 0 for v in row), sum(v == 0 for v in row), sum(v < 0 for v in row)] for row in x.tolist()]
    for i in range(5):
        for j in range(3):
            assert float(shares[i, j]) == pytest.approx(counts[i][j] / max(c[j] for c in counts))
    assert not sign_shares(x.abs())[:, 2].any()


def test_equal_uploads_pass_both_filters() -> None:
    rows, start = uploads(1)
    found = judge(SignGuard(), rows.expand(5, -1), start)
    assert found.trust.tolist() == [1] * 5
    torch.testing.assert_close(mean_of(found, start).float(), rows[0] - start)


def test_lengths_and_signs_out_of_the_ordinary_are_left_out() -> None:
    rows, start = uploads(10, 2000, spread=1)
    update = rows - start
    long, short, negative = start + 30 * update[7], start + 0.01 * update[8], start - update[9].abs()
    found = judge(SignGuard(), torch.stack([*rows[:7], long, short, negative]), start)
    assert found.trust[7:].tolist() == [0, 0, 0]
    assert int(found.trust.sum()) >= 4
    median = float(update.norm(dim=1).quantile(0.5))
    assert float(mean_of(found, start).norm()) <= 1.3 * median


def test_kept_updates_are_no_longer_than_the_median_of_all() -> None:
    rows, start = uploads(9, 500)
    rows[4] = start + 2 * (rows[4] - start)
    found = judge(SignGuard(), rows, start)
    assert found.rows is not None
    median = float((rows - start).norm(dim=1).quantile(0.5))
    assert float((torch.stack(list(found.rows)) - start).norm(dim=1).max()) <= median * (1 + 1e-5)
    assert float(mean_of(found, start).norm()) <= median * (1 + 1e-5)


def test_the_largest_cluster_and_none_without_width() -> None:
    points = torch.tensor([[0.0], [0.01], [0.02], [0.03], [0.04], [5.0], [5.01]]).double()
    assert largest_cluster(points).tolist() == [True] * 5 + [False] * 2
    assert largest_cluster(torch.ones(4, 3).double()).tolist() == [True] * 4


# --- attention trust


def test_trust_of_attention_from_the_same_gram_matrix() -> None:
    rows, start = uploads(10)
    rows[9] = start + random(len(start), seed=8)
    found = judge(AttentionTrust(), rows, start)
    torch.testing.assert_close(found.trust, log_trust(facts(rows, start).gram.products).exp())
    assert found.trust[9] < 0.1
    assert bool((found.trust[:9] > 0.5).all())
    assert judge(AttentionTrust(), rows[:3], start).trust.tolist() == [1, 1, 1]
