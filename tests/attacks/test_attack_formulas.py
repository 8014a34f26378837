"""What colluders upload: each publication's formula, as loops and as the identities that follow from it."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from attacked import group, scene, sent
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import random

from fltk import attacks
from fltk.attacks.alie import supporters, z_max
from fltk.attacks.base import Group, deviation_of, mean_of
from fltk.attacks.fang_krum import first_length
from fltk.attacks.min_max import gamma_min_max
from fltk.attacks.min_sum import gamma_min_sum
from fltk.attacks.perturb import Line
from fltk.errors import UsageError
from fltk.memory.products import Gram

N, D = 9, 23
BAD = (1, 4, 6)
OMNISCIENT = ("zero-sum", "ipm", "alie", "min-max", "min-sum", "fang-krum")


def crowd(seed: int = 0, buffers: int = 2) -> Group:
    """Nine clients around a common direction, three of them malicious; float32 rows, as they are uploaded."""
    return group(random(N, D, seed=seed) * 0.3 + random(D, seed=50), BAD, buffers=buffers)


def forged(kind: str, found: Group, **params: object) -> Tensor:
    """g* of an attack on a group, (d,) float64."""
    out = attacks.create(kind, params).forge(found, scene(BAD), {})
    assert out is not None
    return out.double()


def uploads(kind: str, found: Group, **params: object) -> dict[int, Tensor]:
    return sent(attacks.create(kind, params), found, scene(BAD))[0]


def everybody(found: Group, kind: str, **params: object) -> Tensor:
    """All updates of a round (n, d) float64, malicious ones forged."""
    bad = uploads(kind, found, **params)
    honest = dict(zip([s.client for s in found.honest], found.benign.double(), strict=True))
    return torch.stack([{**honest, **bad}[k] for k in range(found.n)])


# Statistics of a group


def test_a_group_knows_its_benign_updates_and_its_own_as_loops() -> None:
    found = crowd()
    assert (found.n, found.f) == (N, len(BAD))
    for k, g in zip([0, 2, 3, 5, 7, 8], found.benign, strict=True):
        member = found.members[k]
        assert torch.equal(g, member.row[:D] - member.reference[:D])
    assert len(found.own) == len(BAD)
    torch.testing.assert_close(mean_of(found.benign), found.benign.double().mean(0))
    for sample in (True, False):
        expected = found.benign.double().std(0, correction=int(sample))
        torch.testing.assert_close(deviation_of(found.benign, mean_of(found.benign), sample), expected)
    assert not deviation_of(found.benign[:1], mean_of(found.benign[:1])).any()


# Updates of one's own


def test_a_random_model_is_new_in_every_round_and_the_same_for_equal_seeds() -> None:
    found = group(random(N, 9), BAD)
    rows = [uploads("random-model", found) for _ in range(2)]
    assert all(torch.equal(rows[0][k], rows[1][k]) for k in BAD)
    assert not torch.equal(rows[0][1], rows[0][4])
    made = attacks.create("random-model", {})
    once = attacks.create("random-model", {"resample": "once"})
    one, other = scene(BAD, round=1), scene(BAD, round=2)
    member = found.members[1]
    assert not torch.equal(*(made.poison_upload(member, None, found, s, {}) for s in (one, other)))
    assert torch.equal(*(once.poison_upload(member, None, found, s, {}) for s in (one, other)))


def test_noise_replaces_or_joins_an_update_and_has_the_length_asked_for() -> None:
    found = group(random(N, 20_000) * 0.01, BAD)
    own = dict(zip(BAD, found.own.double(), strict=True))
    for k, g in uploads("gaussian-noise", found, sigma=0.3, mean=0.5).items():
        assert float(g.mean()) == pytest.approx(0.5, abs=0.02)
        assert float(g.std()) == pytest.approx(0.3, abs=0.01)
        assert abs(float(torch.corrcoef(torch.stack([g, own[k]]))[0, 1])) < 0.05
    for k, g in uploads("gaussian-noise", found, mode="add", rel=2).items():
        assert float((g - own[k]).norm() / own[k].norm()) == pytest.approx(2, rel=0.05)


def test_noise_without_spread_is_the_free_rider() -> None:
    found = crowd()
    quiet, free = uploads("gaussian-noise", found, sigma=0, mean=0), uploads("zero-gradient", found)
    assert all(torch.equal(quiet[k], free[k]) and not quiet[k].any() for k in BAD)


def test_a_sign_flip_turns_the_own_update_round() -> None:
    found = crowd()
    for lam in (1, 4):
        for g, own in zip(uploads("sign-flip", found, lam=lam).values(), found.own.double(), strict=True):
            assert float(torch.cosine_similarity(g, own, dim=0)) == pytest.approx(-1, abs=1e-6)
            assert float(g.norm()) == pytest.approx(lam * float(own.norm()), rel=1e-5)


def test_the_same_value_has_no_spread_in_updates_or_in_weights() -> None:
    found = crowd()
    for g in uploads("same-value", found, value=0.25).values():
        torch.testing.assert_close(g, torch.full((D,), 0.25, dtype=torch.float64), rtol=0, atol=1e-6)
    made, own = attacks.create("same-value", {"space": "weights", "value": -2}), found.members[1]
    row = made.poison_upload(own, None, found, scene(BAD), {})
    assert (row[:D] == -2).all()
    assert torch.equal(row[D:], own.row[D:])


def test_a_free_rider_sends_nothing_and_later_the_last_change_of_its_reference() -> None:
    plain = everybody(crowd(), "zero-gradient")
    benign = crowd().benign.double()
    torch.testing.assert_close(plain.mean(0), benign.mean(0) * (N - len(BAD)) / N, rtol=0, atol=1e-7)
    made = attacks.create("zero-gradient", {"mode": "delta"})
    first = group(random(N, D), BAD, reference=random(D, seed=7))
    second = group(random(N, D, seed=1), BAD, reference=random(D, seed=8))
    none, memory = sent(made, first, scene(BAD))
    assert not any(g.any() for g in none.values())
    later, _ = sent(made, second, scene(BAD, round=1), memory)
    expected = random(D, seed=8).double() - random(D, seed=7).double()
    for g in later.values():
        torch.testing.assert_close(g, expected, rtol=0, atol=1e-6)


# Updates made from those of others


@pytest.mark.parametrize("kind", OMNISCIENT)
def test_colluders_send_one_vector_and_buffers_of_their_own(kind: str) -> None:
    found = uploads(kind, crowd())  # `sent` looks at the buffers
    first = found[BAD[0]]
    assert all(float((g - first).abs().max()) < 1e-6 for g in found.values())


@pytest.mark.parametrize("kind", [kind for kind in OMNISCIENT if kind != "fang-krum"])  # its length is of norms as well
def test_equal_benign_updates_leave_nothing_to_hide_in(kind: str) -> None:
    found = group(random(D).expand(N, -1), BAD)
    mu = mean_of(found.benign)
    expected = {"zero-sum": -2 * mu, "ipm": -0.1 * mu}.get(kind, mu)
    torch.testing.assert_close(forged(kind, found), expected, rtol=1e-6, atol=1e-7)


def test_the_sum_is_zero_under_zero_sum() -> None:
    assert float(everybody(crowd(), "zero-sum").sum(0).abs().max()) < 1e-5


@given(st.floats(0.01, 100))
def test_ipm_turns_the_mean_beyond_its_threshold(eps: float) -> None:
    found = crowd()
    mu, g, f = mean_of(found.benign), forged("ipm", found, eps=eps), len(BAD)
    assert float(g @ mu) == pytest.approx(-eps * float(mu @ mu))
    mean = ((N - f) * mu + f * g) / N
    torch.testing.assert_close(mean, (N - f - eps * f) / N * mu)
    assert (float(mean @ mu) < 0) == (eps > (N - f) / f)


# n, f -> h, z, computed from the paper's formula
@pytest.mark.parametrize(
    ("n", "f", "h", "z"),
    [
        (50, 12, 14, 0.336),
        (50, 24, 2, 1.426),
        (20, 4, 7, 0.157),
        (10, 2, 4, 0.0),
        (51, 24, 2, 1.446),
        (100, 20, 31, 0.286),
    ],
)
def test_alie_takes_the_published_number_of_deviations(n: int, f: int, h: int, z: float) -> None:
    assert supporters(n, f) == h
    assert z_max(n, f) == pytest.approx(z, abs=5e-4)
    assert z_max(n, f) == pytest.approx(max(0.0, NormalDist().inv_cdf((n - f - h) / (n - f))))


def test_alie_moves_every_coordinate_by_z_deviations() -> None:
    found = crowd()
    mu = mean_of(found.benign)
    s = deviation_of(found.benign, mu)
    torch.testing.assert_close((forged("alie", found, z=1.5) - mu).abs(), 1.5 * s)
    torch.testing.assert_close(forged("alie", found, z=0), mu)
    moved = everybody(found, "alie", z=1.5).mean(0) - mu
    torch.testing.assert_close(moved, -len(BAD) / N * 1.5 * s, rtol=0, atol=1e-6)
    own = mean_of(found.own)
    expected = own - 1.5 * deviation_of(found.own, own, sample=False)
    torch.testing.assert_close(forged("alie", found, z=1.5, stats="own"), expected)


def test_alie_says_when_it_cannot_be_and_when_it_is_the_mean() -> None:
    made = attacks.create("alie", {})
    with pytest.raises(UsageError, match="--malicious"):
        made.check((1, 4, 4), 4, 10, 6)
    assert made.check((1, 4, 4), 4, 10, 2)
    assert not made.check((1, 4, 4), 4, 20, 4)


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
@pytest.mark.parametrize("seed", range(5))
def test_the_longest_step_holds_and_a_longer_one_does_not(direction: str, seed: int) -> None:
    found = crowd(seed)
    line = Line.of(found.benign, direction)
    distances = torch.cdist(found.benign.double(), found.benign.double(), compute_mode="donot_use_mm_for_euclid_dist")
    largest, sums = float(distances.max()), distances.square().sum(1)
    steps = {
        "max": (gamma_min_max(line), lambda g: float(g.norm(dim=1).max()) <= largest * (1 + 1e-12)),
        "sum": (gamma_min_sum(line, "max"), lambda g: float(g.square().sum()) <= float(sums.max()) * (1 + 1e-12)),
        "least": (gamma_min_sum(line, "min"), lambda g: float(g.square().sum()) <= float(sums.min()) * (1 + 1e-12)),
    }
    for gamma, holds in steps.values():
        assert gamma > 0
        for step, expected in ((0.0, True), ((1 - 1e-9) * gamma, True), (1.001 * gamma, False)):
            away = line.mu + step * line.p - found.benign.double()
            assert holds(away) == expected, step


@pytest.mark.parametrize("kind", ["min-max", "min-sum"])
def test_closed_forms_are_what_a_search_finds(kind: str) -> None:
    found = crowd()
    exact, searched = forged(kind, found), forged(kind, found, search="notebook")
    torch.testing.assert_close(searched, exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["min-max", "min-sum"])
@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
def test_longer_updates_are_met_by_a_longer_one(kind: str, direction: str) -> None:
    small = group(random(N, D), BAD, reference=torch.zeros(D))
    large = group(8 * random(N, D), BAD, reference=torch.zeros(D))
    got = forged(kind, large, direction=direction)
    torch.testing.assert_close(got, 8 * forged(kind, small, direction=direction), rtol=1e-6, atol=1e-6)


def test_fang_trim_lies_beyond_the_benign_range_on_the_far_side() -> None:
    found = crowd()
    mu, low, high = mean_of(found.benign), found.benign.double().amin(0), found.benign.double().amax(0)
    drawn = uploads("fang-trim", found)
    assert not torch.equal(drawn[1], drawn[4])
    for g in drawn.values():
        assert (torch.where(mu < 0, g - high, low - g) >= -1e-6).all()
        reach = torch.where(mu < 0, torch.maximum(2 * high, high / 2), torch.minimum(2 * low, low / 2))
        assert (torch.where(mu < 0, reach - g, g - reach) >= -1e-6).all()


def test_fang_trim_with_partial_knowledge_stays_between_three_and_four_deviations() -> None:
    found = crowd()
    mu = mean_of(found.own)
    s = deviation_of(found.own, mu)
    for g in uploads("fang-trim", found, knowledge="partial").values():
        away = -mu.sign() * (g - mu) / s
        assert float(away.min()) > 3 - 1e-3
        assert float(away.max()) < 4 + 1e-3


def krum(updates: Tensor, f: int) -> int:
    """The index that Krum selects, as loops over the n - f - 2 nearest others."""
    n = len(updates)
    scores = []
    for i in range(n):
        others = sorted(float((updates[i] - updates[j]).square().sum()) for j in range(n) if j != i)
        scores.append(sum(others[: n - f - 2]))
    return scores.index(min(scores))


@pytest.mark.parametrize("seed", range(4))
def test_fang_krum_is_selected_at_the_length_that_it_finds(seed: int) -> None:
    found = crowd(seed)
    at = scene(BAD)
    g = attacks.create("fang-krum", {}).forge(found, at, {})
    assert g is not None
    mu, f = mean_of(found.benign), len(BAD)
    lam = float(g.abs().max())
    torch.testing.assert_close(g, -lam * mu.sign())
    halvings = math.log2(first_length(Gram(found.benign), N, f) / lam)
    assert halvings == pytest.approx(round(halvings), abs=1e-9)
    honest = iter(found.benign.double())
    all_ = torch.stack([g if k in BAD else next(honest) for k in range(N)])
    assert (krum(all_, f) in BAD) == (not at.notes)


def test_fang_krum_needs_room() -> None:
    with pytest.raises(UsageError, match="--malicious"):
        attacks.create("fang-krum", {}).check((1, 4, 4), 4, 7, 3)


# Copies


def test_mimics_send_a_benign_row_bit_for_bit() -> None:
    found = crowd()
    for params in ({}, {"mode": "rank", "client": 2}):
        made = attacks.create("mimic", params)
        memory = made.prepare(found, scene(BAD), {})
        rows = [made.poison_upload(found.members[k], None, found, scene(BAD), memory) for k in BAD]
        assert any(torch.equal(rows[0], s.row) for s in found.honest)
        assert all(torch.equal(row, rows[0]) for row in rows)
    assert torch.equal(rows[0], found.honest[2].row)


def test_a_mimics_direction_has_length_one_and_turns_to_the_variance() -> None:
    spread = torch.zeros(D)
    spread[3] = 1.0
    updates = random(N, D) * 0.01 + torch.linspace(-1, 1, N)[:, None] * spread
    made, memory = attacks.create("mimic", {}), {}
    for t in range(6):
        memory = made.prepare(group(updates, BAD), scene(BAD, round=t), memory)
        assert float(memory["z"].norm()) == pytest.approx(1)
    assert abs(float(memory["z"][3])) > 0.99
    assert int(memory["target"]) in (0, 8)  # the ends of the line


def test_a_mimic_keeps_its_target_after_the_warm_up_while_it_is_there() -> None:
    made, memory = attacks.create("mimic", {"warmup": 1}), {}
    memory = made.prepare(crowd(0), scene(BAD), memory)
    target = int(memory["target"])
    later = crowd(1)
    memory = made.prepare(later, scene(BAD, round=1), memory)
    assert int(memory["target"]) == target
    assert torch.equal(made.poison_upload(later.members[1], None, later, scene(BAD), memory), later.members[target].row)
    rest = Group(tuple(s for s in later.members if s.client != target), later.malicious, D, "all")
    row = made.poison_upload(rest.members[0], None, rest, scene(BAD), memory)
    assert any(torch.equal(row, s.row) for s in rest.honest)


# Model replacement


def test_scaling_replaces_the_average_where_the_others_cancel() -> None:
    updates = torch.zeros(N, D)
    for k in BAD:
        updates[k] = random(D, seed=3)
    found = group(updates, BAD)
    p = {k: (k + 1) / 45 for k in range(N)}
    made = attacks.create("scale", {"data": "none"})
    rows, _ = sent(made, found, scene(BAD, weights=p))
    mean = sum(p[k] * rows[k] for k in BAD)
    torch.testing.assert_close(mean, random(D, seed=3).double(), rtol=1e-5, atol=1e-6)


def test_scaling_without_known_weights_counts_the_group_and_a_bound_holds() -> None:
    found = crowd()
    own = found.own.double()
    rows, _ = sent(attacks.create("scale", {"data": "none"}), found, scene(BAD, kind="mixed"))
    torch.testing.assert_close(torch.stack([*rows.values()]), N * own, rtol=1e-5, atol=1e-5)
    rows, _ = sent(attacks.create("scale", {"data": "none", "bound": 0.5}), found, scene(BAD, kind="mixed"))
    assert all(float(g.norm()) <= 0.5 * (1 + 1e-6) for g in rows.values())
    made = attacks.create("scale", {"data": "none", "gamma": 1})
    member = found.members[1]
    assert torch.equal(made.poison_upload(member, None, found, scene(BAD), {}), member.row)
