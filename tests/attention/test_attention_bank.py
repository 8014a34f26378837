"""What happens to uploads before they are stored, and the further parts of a token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import job, random

from fltk.attention import Options, attend
from fltk.attention.bank import births, columns, followed, judged, layer_columns, width
from fltk.attention.scores import ceiling, off_diagonal
from fltk.attention.tokens import Part, countsketch, secant, similarities, similarity, tokens

K, P = 5, 40


@pytest.mark.parametrize("shared", ["all", "base", "head", "below:2"])
@pytest.mark.parametrize("model", ["mlp", "lenet5"])
def test_layers_lie_where_their_columns_are(model: str, shared: str) -> None:
    from toys import federation

    layout = job("attn", data=federation(shape=(1, 16, 16)), model=model, hidden="6,5").task().layout
    row = torch.arange(layout.size)
    cuts = layer_columns(layout, shared)
    kept = layout.take(row, shared)
    for layer, cut in cuts.items():
        assert torch.equal(columns(kept, cut), layout.take(row, layer))
        assert width(cut) == layout.width(layer)
    assert sum(map(width, cuts.values())) == layout.width(shared)
    assert list(cuts) == [layer for layer in layout.layers if layer in cuts]


def test_columns_in_several_runs() -> None:
    rows = random(K, P)
    cut = ((2, 5), (30, 34))
    assert torch.equal(columns(rows, cut), rows[:, [2, 3, 4, 30, 31, 32, 33]])
    assert width(cut) == 7


def test_the_secant_as_a_loop() -> None:
    u, before, h, h_before = (random(K, P, seed=s) for s in range(4))
    got = secant(u, before, h, h_before)
    for i in range(K):
        mean = sum((float(h[i, q]) - float(h_before[i, q])) ** 2 for q in range(P)) / P
        for q in range(P):
            d, step = float(u[i, q]) - float(before[i, q]), float(h[i, q]) - float(h_before[i, q])
            assert float(got[i, q]) == pytest.approx(-d * step / (step**2 + mean), abs=1e-5)


def test_the_secant_of_a_quadratic_has_the_direction_of_its_curvature() -> None:
    """One gradient step on 1/2 sum_q c_q w_q^2 is the update -eta c w: its change is -eta c times that of w."""
    curvature, eta = torch.rand(P, generator=torch.Generator().manual_seed(3)) + 0.5, 0.1
    h = torch.full((1, P), 0.7)  # a change of equal size everywhere: regularisation scales all columns alike
    w = random(1, P)
    got = secant(-eta * curvature * (w + h), -eta * curvature * w, w + h, w)
    torch.testing.assert_close(got, eta * curvature[None] / 2, rtol=1e-3, atol=1e-5)


def test_a_start_that_did_not_move_has_no_secant() -> None:
    assert not secant(random(1, P), random(1, P, seed=1), torch.ones(1, P), torch.ones(1, P)).any()


def test_what_is_followed() -> None:
    u, start = random(K, P), random(K, P, seed=1)
    before = {"update": random(K, P, seed=2), "begun": random(K, P, seed=3), "secant": random(K, P, seed=4)}
    again = torch.tensor([True, False, True, True, False])
    got = followed(before, again, u, start)
    assert got.keys() == before.keys()
    assert torch.equal(got["update"], u)
    assert torch.equal(got["begun"], start)
    assert not got["secant"][~again].any()
    assert torch.equal(got["secant"][again], secant(u, before["update"], start, before["begun"])[again])
    assert followed({}, again, u, start) == {}


def test_clipping_moves_only_what_is_too_long() -> None:
    start = random(K, P, seed=1)
    rows = start + random(K, P)
    rows[3] = start[3] + 50 * (rows[3] - start[3])
    got, trust = judged(rows, start, 2.0, trust=False)
    assert trust is None
    assert torch.equal(got[[0, 1, 2, 4]], rows[[0, 1, 2, 4]])
    norms = (rows - start).norm(dim=1)
    torch.testing.assert_close((got[3] - start[3]).norm(), 2 * norms.quantile(0.5))
    same, found = judged(rows, start, None, trust=True)
    assert same is rows
    assert found is not None
    assert float(found[3]) < 0


def three_parts() -> list[Part]:
    zero = torch.zeros(P)
    return [
        Part(random(K, P), random(P, seed=9), 0.5),
        Part(random(K, P, seed=1), zero, 0.3),
        Part(random(K, 7), zero[:7], 0.2),
    ]


def test_shares_of_parts_weigh_their_cosines() -> None:
    parts = three_parts()
    expected = sum(p.share * similarity(p.rows, p.origin) for p in parts)
    torch.testing.assert_close(similarities(parts), expected)
    z = tokens(parts, r=P)  # nothing is projected: the tokens have exactly these inner products
    torch.testing.assert_close(z @ z.t(), expected)


def test_parts_are_projected_apart() -> None:
    rows, zero = random(3, 5000), torch.zeros(5000)
    z = tokens([Part(rows, zero, 0.5), Part(rows, zero, 0.5)], r=64, seed=4)
    for k, seed in enumerate((4, 5)):
        sketch = countsketch(rows, zero, 64, seed)
        torch.testing.assert_close(z[:, 64 * k : 64 * (k + 1)] * 2**0.5, sketch / sketch.norm(dim=1, keepdim=True))


def test_a_birth_token_is_exact_where_it_fits() -> None:
    rows, start = random(K, P), random(P, seed=1)
    small, large = births(rows, start, [((0, 30),), ((30, 40),)], 12, [5, 6])
    assert small.shape == (K, 12)
    torch.testing.assert_close(small, countsketch(rows[:, :30], start[:30], 12, 5).float())
    torch.testing.assert_close(large, rows[:, 30:] - start[30:])


def test_curvature_is_a_part_of_the_token_once_there_is_one() -> None:
    rows, bent = random(K, P), random(K, P, seed=1)
    got = attend(rows, Options(curvature_weight=0.4), center="none", secants=bent).similarity
    zero = torch.zeros(P)
    torch.testing.assert_close(got, 0.6 * similarity(rows, zero) + 0.4 * similarity(bent, zero))
    assert torch.equal(attend(rows, Options(curvature_weight=0.4), center="none").similarity, similarity(rows, zero))


def test_a_row_with_fewer_peers_than_the_rank_takes_its_last_one() -> None:
    s: Tensor = random(4, 4).double()
    peer = off_diagonal(4)
    peer[0] = torch.tensor([False, True, False, False])
    peer[1] = False
    got = ceiling(s, peer, rank=3)
    assert got[0] == s[0, 1]
    assert got[1] == -torch.inf
    assert got[2] == min(s[2, 0], s[2, 1], s[2, 3])
