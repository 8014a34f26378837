"""attn: the invariants of its description, on models made by hand and on toy runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import SIZES, aggregated, federation, final, job, made_up, model_attn, models, play, random, rows, uploads

from fltk.attention import attend
from fltk.attention.bank import screen
from fltk.methods import model_bank
from fltk.methods.layerwise import mix_parts
from fltk.protocol.averaging import weighted_sum
from fltk.protocol.mixing import mix
from fltk.protocol.state import State

N = len(SIZES)
TASK = model_attn().task()
P = TASK.layout.size


def cohort(k: int = N, seed: int = 0, spread: float = 0.5) -> Tensor:
    """Trained models: a common direction, and one of their own each, (k, P)."""
    return TASK.w0 + 0.1 * (random(1, P, seed=seed) + spread * random(k, P, seed=seed + 1))


def after(params: dict[str, object], w: Tensor, **settings: object) -> tuple[Tensor, State]:
    """Personal models and state once `w` (K, P) has been uploaded by the first K clients."""
    made = model_attn(params, **settings)
    state = aggregated(made, made_up(made, w))
    return models(made, state), state


@pytest.mark.parametrize("score", ["gap", "relgap", "raw", "zscore"])
def test_rows_lie_on_the_simplex(score: str) -> None:
    for spread in (0.1, 1.0, 10.0):
        for k in (1, 2, 3, N):
            a = after({"score": score}, cohort(k, spread=spread))[1].server["map"]
            assert (a >= 0).all()
            torch.testing.assert_close(a[:k].sum(1), torch.ones(k, dtype=torch.float64), rtol=0, atol=1e-12)
            assert not a[k:].any()


@pytest.mark.parametrize("settings", [{}, {"participation": 0.5}, {"agg_weights": "uniform"}])
def test_an_infinite_width_is_fedavg_bit_for_bit(settings: dict[str, object]) -> None:
    ours, theirs = final("attn", {"tau": "inf"}, rounds=4, **settings), final("fedavg", rounds=4, **settings)
    assert torch.equal(ours, theirs)


def test_warm_up_is_fedavg_bit_for_bit_and_ends() -> None:
    ours, theirs = play(model_attn({"warmup": 2}, rounds=3)), play(job("fedavg", rounds=3))
    made = model_attn({"warmup": 2}, rounds=3)
    for t in range(2):
        assert torch.equal(models(made, ours[t].state), theirs[t].state.server["w"].expand(N, -1))
    assert not torch.equal(models(made, ours[2].state), theirs[2].state.server["w"].expand(N, -1))


@pytest.mark.parametrize("params", [{"step": 0}, {"self_weight": 1}])
@pytest.mark.parametrize("settings", [{}, {"participation": 0.5}])
def test_no_step_or_all_weight_on_oneself_is_local_bit_for_bit(
    params: dict[str, object], settings: dict[str, object]
) -> None:
    assert torch.equal(final("attn", params, rounds=4, **settings), final("local", rounds=4, **settings))


def test_a_relabelling_relabels_map_and_models() -> None:
    w, p = cohort(), torch.tensor([2, 0, 3, 1])
    made = model_attn()
    state = aggregated(made, made_up(made, w))
    moved = aggregated(made, made_up(made, w[p]), n=TASK.n[p])
    torch.testing.assert_close(moved.server["map"], state.server["map"][p][:, p], rtol=0, atol=1e-12)
    torch.testing.assert_close(models(made, moved), models(made, state)[p], rtol=0, atol=1e-6)


def test_identical_participants_get_their_model() -> None:
    w = cohort(1).expand(N, -1)
    torch.testing.assert_close(after({}, w)[0], w, rtol=0, atol=1e-6)


def test_one_participant_and_an_empty_bank_keep_the_model_bit_for_bit() -> None:
    w = cohort(1)
    u, state = after({}, w)
    assert torch.equal(u[:1], w)
    assert torch.equal(u[1:], TASK.w0.expand(N - 1, -1))
    assert not state.server["lone"].any()


def test_a_local_head_is_not_touched_by_aggregation() -> None:
    made = model_attn({"head": "local"})
    state = made.method.init(TASK)
    sent = uploads(made, state)
    trained = rows(made, sent)
    got = models(made, aggregated(made, sent))
    assert torch.equal(TASK.layout.take(got, "head"), TASK.layout.take(trained, "head"))
    assert not torch.equal(TASK.layout.take(got, "base"), TASK.layout.take(trained, "base"))


def test_a_longer_displacement_leaves_cosines_alone() -> None:
    w = cohort(5)
    longer = w.clone()
    longer[2] = TASK.w0 + 5 * (w[2] - TASK.w0)
    a, b = (attend(x, center=TASK.w0).similarity for x in (w, longer))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def grouped(sizes: tuple[int, ...] = (3, 3), noise: float = 0.2) -> Tensor:
    """Models of groups that moved in orthogonal directions, (sum(sizes), P)."""
    axes = torch.linalg.qr(random(P, len(sizes), seed=7).double()).Q.T.float()
    centres = axes.repeat_interleave(torch.tensor(sizes), 0)
    return TASK.w0 + centres + noise * random(sum(sizes), P, seed=8) / math.sqrt(P)


def test_groups_attend_to_themselves_with_fedavg_weights() -> None:
    n = torch.tensor([10.0, 20, 30, 5, 6, 7])
    got = attend(grouped(), center=TASK.w0, samples=n)
    for block in (slice(0, 3), slice(3, 6)):
        p = (n[block] / n[block].sum()).double().expand(3, -1)
        torch.testing.assert_close(got.map[block, block], p, rtol=0, atol=0.01)
    assert float(got.map[:3, 3:].max()) < 1e-6
    assert not got.lone.any()


def test_a_lone_client_keeps_its_model_bit_for_bit() -> None:
    w = grouped((3, 1))
    u, state = after({}, w)
    assert state.server["lone"].tolist() == [False, False, False, True]
    assert torch.equal(u[3], w[3])
    u, state = after({"lone": 0}, w)
    assert not state.server["lone"].any()
    assert not torch.equal(u[3], w[3])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("center", ["init", "mean", "median", "none"])
def test_a_broken_upload_changes_nothing_for_the_others(bad: float, center: str) -> None:
    made = model_attn({"center": center})
    w = cohort()
    w[2, 5] = bad
    sent = made_up(made, w)
    with_it, without = aggregated(made, sent), aggregated(made, [u for u in sent if u.client != 2])
    others = [0, 1, 3]
    assert with_it.server["screened"].tolist() == [False, False, True, False]
    assert torch.isfinite(models(made, with_it)).all()
    assert torch.equal(models(made, with_it)[others], models(made, without)[others])
    assert torch.equal(with_it.server["map"][others], without.server["map"][others])


def test_a_far_upload_is_screened_and_its_client_keeps_its_last_good_model() -> None:
    made = model_attn()
    good = cohort()
    state = aggregated(made, made_up(made, good))
    wild = cohort(seed=4)
    wild[1] = TASK.w0 + 100 * (wild[1] - TASK.w0)
    state = aggregated(made, made_up(made, wild), round=1, state=state)
    assert state.server["screened"].tolist() == [False, True, False, False]
    assert torch.equal(models(made, state)[1], good[1])
    assert float(state.server["map"][[0, 2, 3]][:, 1].abs().max()) == 0
    assert made.method.diagnostics(state, TASK)["screened"] == 1
    again = aggregated(made, made_up(made, cohort(seed=6)), round=2, state=state)
    assert not again.server["screened"].any()
    assert float(again.server["map"][0, 1]) > 0


def test_nobody_sound_leaves_the_state_as_it_was() -> None:
    made = model_attn()
    before = aggregated(made, made_up(made, cohort()))
    state = aggregated(made, made_up(made, torch.full((N, P), math.nan)), round=1, state=before)
    assert torch.equal(models(made, state), models(made, before))


def test_the_screen_is_ten_medians_of_the_finite_ones() -> None:
    start = torch.zeros(2)
    norms = [1.0, 1.0, 9.99, 10.01, math.nan, math.inf]
    sent = list(torch.tensor([[x, 0.0] for x in norms]))
    finite = sorted(norms[:4])
    limit = 10 * (finite[1] + finite[2]) / 2
    assert screen(sent, start).tolist() == [not x <= limit for x in norms]
    sent = list(torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.9, 0.0], [10.1, 0.0], [0.0, 1.0]]))
    assert screen(sent, start).tolist() == [False, False, False, True, False]


def test_the_first_start_of_a_client_is_the_common_model() -> None:
    made = model_attn(participation=0.5, rounds=6)
    seen: set[int] = set()
    state = made.method.init(TASK)
    for done in play(made):
        firsts = [d for d in made.method.downlink(state, range(N), TASK) if d.first]
        assert len(firsts) == N - len(seen)
        assert all(torch.equal(d.w, TASK.w0) for d in firsts)
        seen |= set((done.state.last == done.round - 1).nonzero().flatten().tolist())
        state = done.state
    assert len(seen) == N


def test_absent_clients_are_attended_to_and_get_a_model() -> None:
    made = model_attn()
    first = cohort()
    state = aggregated(made, made_up(made, first))
    second = cohort(2, seed=0) + 0.01 * random(2, P, seed=9)
    state = aggregated(made, made_up(made, second), round=1, state=state)
    bank = torch.cat([second, first[2:]])
    assert torch.equal(state.client["bank"], bank)
    assert float(state.server["map"][0, 3]) > 0
    torch.testing.assert_close(models(made, state), mix(state.server["map"], bank), rtol=0, atol=0)


def test_old_entries_are_not_attended_to_but_keep_a_row() -> None:
    made = model_attn({"max_age": 2})
    state = aggregated(made, made_up(made, cohort()))
    for t in (1, 2, 3):
        state = aggregated(made, made_up(made, cohort(3, seed=0)), round=t, state=state)
        fresh = t <= 2
        assert bool((state.server["map"][:3, 3] > 0).all()) is fresh
        assert float(state.server["map"][3, :3].sum()) > 0


def test_the_server_step_moves_that_far() -> None:
    w = cohort()
    full, part = after({}, w)[0], after({"step": 0.3}, w)[0]
    torch.testing.assert_close(part, 0.7 * w + 0.3 * full, rtol=0, atol=1e-6)


def test_a_fixed_self_weight_stands_on_the_diagonal() -> None:
    a = after({"self_weight": 0.35, "lone": 0}, cohort())[1].server["map"]
    torch.testing.assert_close(a.diagonal(), torch.full((N,), 0.35, dtype=torch.float64))
    free = after({"lone": 0}, cohort())[1].server["map"]
    ratio = free[0, 1] / free[0, 2]
    torch.testing.assert_close(a[0, 1] / a[0, 2], ratio)


def test_the_update_is_a_second_token() -> None:
    """With all weight on it, similarity is that of theta_i - u_i; u_i = theta^0 in the first round."""
    w = cohort()
    only_updates, free = after({"omega": 1}, w)[1].server["map"], after({}, w)[1].server["map"]
    torch.testing.assert_close(only_updates, free, rtol=0, atol=1e-6)  # updates are float32 differences
    made = model_attn({"omega": 1})
    state = aggregated(made, made_up(made, w))
    starts = models(made, state)
    later = cohort(seed=20)
    state = aggregated(made, made_up(made, later), round=1, state=state)
    torch.testing.assert_close(state.client["update"], later - starts, rtol=0, atol=0)
    expected = attend(later - starts, center="none", samples=TASK.n).map
    torch.testing.assert_close(state.server["map"], expected, rtol=0, atol=1e-9)


def test_clients_are_held_near_their_start_by_mu() -> None:
    made = model_attn({"mu": 3.0}, rounds=1)
    prox = job("fedprox", {"mu": 3.0}, rounds=1)
    for a, b in zip(uploads(made, made.method.init(TASK)), uploads(prox, prox.method.init(TASK)), strict=True):
        assert torch.equal(a.w, b.w)


def test_a_projection_gives_nearly_the_same_map() -> None:
    w = grouped((2, 2), noise=0.5)
    exact = after({}, w)[1].server["map"]
    for proj in ("countsketch", "gaussian"):
        got = after({"proj": proj, "r": 4096}, w)[1].server["map"]
        torch.testing.assert_close(got, exact, rtol=0, atol=0.1)
        assert torch.equal(got, after({"proj": proj, "r": 4096}, w)[1].server["map"])


def test_equal_sizes_or_uniform_weights_drop_the_prior() -> None:
    w = cohort()
    a = after({"gamma": 0}, w)[1].server["map"]
    b = after({}, w, agg_weights="uniform")[1].server["map"]
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_fedavg_map_leaves_absent_clients_out() -> None:
    made = model_attn({"tau": math.inf})
    sent = made_up(made, cohort(3))
    state = aggregated(made, sent)
    expected = weighted_sum([u.w for u in sent], TASK.weights([0, 1, 2]))
    assert torch.equal(models(made, state), expected.expand(N, -1))
    assert not state.server["map"][:, 3].any()


def test_its_parameters_have_no_dimension_of_clients() -> None:
    """The same method object serves federations of any size."""
    made = model_attn()
    larger = replace(made, federation=federation((9, 9, 9, 9, 9, 9)))
    assert len(models(larger, play(larger)[-1].state)) == 6


def test_what_is_evaluated_and_started_from_is_mixed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Tensor] = []

    def counted(maps: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        calls.append(maps)
        return mix_parts(maps, *given, **more)

    monkeypatch.setattr(model_bank, "mix_parts", counted)
    played = play(model_attn(rounds=4, eval_every=1))
    assert len(calls) == 4
    monkeypatch.setattr(model_bank, "MOST", 0)  # nothing is kept
    again = play(model_attn(rounds=4, eval_every=1))
    assert len(calls) == 4 + 7
    assert [done.digest for done in again] == [done.digest for done in played]
    assert [done.scalars["personal_val_acc"] for done in again] == [done.scalars["personal_val_acc"] for done in played]
