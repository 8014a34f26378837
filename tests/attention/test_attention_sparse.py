"""Who may attend to whom: hashing as the equation says, its union of buckets, exact neighbours."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import random

from fltk.attention import Options, attend, weigh
from fltk.attention.sparse import LARGEST, buckets_for, lsh, pairs, pieces, topk
from fltk.attention.tokens import similarity, unit


def clients(k: int, d: int = 20, seed: int = 0) -> Tensor:
    """Unit tokens (k, d) of four kinds."""
    kinds = random(4, d, seed=seed)
    return unit((kinds[torch.arange(k) % 4] + 0.7 * random(k, d, seed=seed + 1)).double())


def test_the_number_of_buckets() -> None:
    assert [buckets_for(k, 16) for k in (1, 32, 33, 64, 65, 1000, 10_000)] == [2, 2, 4, 4, 6, 64, 626]


@given(st.integers(1, 150), st.integers(0, 1000))
def test_a_mask_is_symmetric_holds_the_diagonal_and_is_the_union_of_its_buckets(k: int, seed: int) -> None:
    z = clients(k, seed=seed)
    mask, rounds = lsh(z, seed=seed), pieces(z, seed=seed)
    assert torch.equal(mask, mask.t())
    assert mask.diagonal().all()
    for members in rounds:
        assert torch.equal(torch.cat(members).sort().values, torch.arange(k))
        assert max(map(len, members)) <= LARGEST
    slow = {(int(i), int(j)) for members in rounds for m in members for i in m for j in m}
    assert {(int(i), int(j)) for i, j in mask.nonzero()} == slow
    found = pairs(rounds, k)
    assert {(int(q) // k, int(q) % k) for q in found} == slow
    assert torch.equal(found, found.sort().values)


def test_a_bucket_is_the_largest_of_the_turned_coordinates_and_their_opposites() -> None:
    z, b = clients(40), 6
    generator = torch.Generator().manual_seed(5)
    for members in pieces(z, hashes=3, seed=5, buckets=b):
        r = torch.randn(z.shape[1], b // 2, generator=generator, dtype=torch.float64)
        bucket = [max(range(b), key=lambda q, i=i: float((z[i] @ r)[q % 3] * (1 if q < 3 else -1))) for i in range(40)]
        expected = [[i for i in range(40) if bucket[i] == q] for q in range(b)]
        assert sorted(sorted(m.tolist()) for m in members) == sorted(m for m in expected if m)


def test_a_large_bucket_is_cut_by_margin() -> None:
    z = clients(250)
    turned = z @ torch.randn(z.shape[1], 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    margin = 2 * turned[:, 0].abs()  # of the larger of x and -x against the other
    [members] = pieces(z, hashes=1, buckets=2)
    for sign in (1, -1):
        side = [m for m in members if bool((turned[m, 0] * sign > 0).all())]
        sizes = [len(m) for m in side]
        assert len(side) == math.ceil(sum(sizes) / LARGEST) >= 2
        assert max(sizes) - min(sizes) <= 1
        assert all(margin[a].min() >= margin[b].max() for a, b in pairwise(side))


def test_one_bucket_is_the_dense_map() -> None:
    z = clients(50)
    assert lsh(z, buckets=1).all()
    s = z @ z.t()
    torch.testing.assert_close(weigh(s, mask=lsh(z, buckets=1)).map, weigh(s).map, rtol=0, atol=0)


@pytest.mark.parametrize("sparse", ["lsh", "topk"])
def test_weights_are_zero_where_the_mask_is(sparse: str) -> None:
    w = random(90, 30).float() + random(1, 30, seed=1)
    options = Options(sparse=sparse, neighbours=5, lone=0)
    got = attend(w, options, center="none")
    s = similarity(w, torch.zeros(30))
    mask = topk(s, 5) if sparse == "topk" else lsh(unit(w.double()), size=5)
    assert not got.map[~mask].any()
    assert (got.map[mask] > 0).all()
    torch.testing.assert_close(got.map.sum(1), torch.ones(90, dtype=torch.float64))
    best = s.masked_fill(~mask | torch.eye(90, dtype=torch.bool), -torch.inf).amax(1)
    torch.testing.assert_close(got.ceiling, best)


def test_a_map_is_dense_below_64_clients_and_hashed_from_there() -> None:
    w = random(64, 40)
    assert torch.equal(attend(w[:63]).map, attend(w[:63], Options(sparse="none")).map)
    assert torch.equal(attend(w).map, attend(w, Options(sparse="lsh")).map)
    assert not torch.equal(attend(w).map, attend(w, Options(sparse="none")).map)


def test_rotations_come_from_their_seed() -> None:
    z = clients(80)
    assert torch.equal(lsh(z, seed=3), lsh(z, seed=3))
    assert not torch.equal(lsh(z, seed=3), lsh(z, seed=4))


def test_relabelling_the_clients_relabels_the_mask() -> None:
    z, p = clients(80), torch.randperm(80, generator=torch.Generator().manual_seed(1))
    assert torch.equal(lsh(z[p], seed=2), lsh(z, seed=2)[p][:, p])


def test_clients_of_a_kind_meet_more_often_than_others() -> None:
    z = clients(200)
    kind = torch.arange(200) % 4
    same = kind[:, None] == kind
    mask = lsh(z)
    assert float(mask[same].double().mean()) > 2 * float(mask[~same].double().mean())


def test_exact_neighbours_as_a_loop() -> None:
    s = random(9, 9).double()
    peer = ~torch.eye(9, dtype=torch.bool)
    peer[:, 4] = False
    got = topk(s, 3, peer)
    for i in range(9):
        ranked = sorted((j for j in range(9) if j not in (i, 4)), key=lambda j: -float(s[i, j]))
        assert set(got[i].nonzero().flatten().tolist()) == {i, *ranked[:3]}
    assert topk(s, 100).all()


def test_equals_of_the_last_neighbour_are_neighbours() -> None:
    s = torch.tensor([[1.0, 0.5, 0.5, 0.2], [0.5, 1, 0.1, 0.1], [0.5, 0.1, 1, 0.1], [0.2, 0.1, 0.1, 1]])
    assert topk(s, 1).tolist() == [
        [True, True, True, False],
        [True, True, False, False],
        [True, False, True, False],
        [True, False, False, True],
    ]
