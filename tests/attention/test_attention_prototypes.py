"""Similarity from class tables: the equations as loops, what they must not see, and what they make of a map."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import random

from fltk.attention import Options
from fltk.attention.newcomer import Others, mean_row
from fltk.attention.prototypes import (
    LONE,
    TAU,
    Evidence,
    attend_by_evidence,
    class_table,
    evidence,
    newcomer_by_evidence,
    sent_counts,
)
from fltk.attention.trust import gate

K, C, F = 6, 4, 7
DEFAULTS = Options(tau=TAU, lone=LONE)


def tables_of(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class tables (K, C, F + 1) and counts (K, C); a client without a class has a zero row."""
    n = torch.randint(0, 9, (K, C), generator=torch.Generator().manual_seed(seed))
    n[:, 0] += 1
    means = random(1, C, F, seed=seed) + 0.5 * random(K, C, F, seed=seed + 1)
    scatter = random(K, C, 1, seed=seed + 2).abs() * (n[..., None] - 1).clamp_min(0)
    return torch.cat([means, scatter], 2) * (n > 0)[..., None], n


def samples_of(n: Tensor, centres: Tensor, noise: float, seed: int) -> Tensor:
    """The table (C, F + 1) of a client with n (C,) samples around class centres (C, F)."""
    labels = torch.repeat_interleave(torch.arange(len(n)), n)
    features = centres[labels] + noise * random(len(labels), centres.shape[1], seed=seed)
    return class_table(features, labels, len(n), least=1)


def slow_layer(tables: Tensor, n: Tensor, pools: list[list[int]]) -> tuple[Tensor, Tensor]:
    """S and b between pools of clients and single clients, as the equations stand."""
    k = len(n)
    means, q = tables[..., :-1].double(), tables[..., -1].double()
    count = n.double()
    total = float(count.sum())
    mu = sum(count[i, c] * means[i, c] for i in range(k) for c in range(C)) / total
    p = {(i, c): means[i, c] - mu for i in range(k) for c in range(C) if n[i, c]}

    b = []
    for c in range(C):
        degrees = sum(max(0, int(n[i, c]) - 1) for i in range(k))
        s_c = float(q[:, c].sum()) / max(1, degrees)
        there = [i for i in range(k) if n[i, c]]
        power = sum(float(count[i, c]) * (float(p[i, c].square().sum()) - s_c / float(count[i, c])) for i in there)
        b.append(power / max(1.0, float(count[:, c].sum())))
    least = 0.1 * max(1e-12, sum(b) / C)
    b = [max(least, value) for value in b]

    above = torch.zeros(k, k, dtype=torch.float64)
    below, w = torch.zeros_like(above), torch.zeros_like(above)
    for i in range(k):
        for j in range(k):
            for c in range(C):
                members = [a for a in pools[i] if a != j and n[a, c]]
                if not members or not n[j, c]:
                    continue
                pooled = sum(float(count[a, c]) for a in members)
                mean = sum(count[a, c] * p[a, c] for a in members) / pooled
                h = pooled * float(count[j, c]) / (pooled + float(count[j, c]))
                above[i, j] += h * float(mean @ p[j, c])
                below[i, j] += h * b[c]
                w[i, j] += h
    s = ((above + above.t()) / (below + below.t()).clamp_min(1e-12)).clamp(-1, 1)
    s.fill_diagonal_(1)
    w = (w + w.t()) / 2
    return s, w / (w + 4)


@pytest.mark.parametrize("seed", range(4))
def test_evidence_as_loops(seed: int) -> None:
    tables, n = tables_of(seed)
    s, b = slow_layer(tables, n, [[i] for i in range(K)])
    one = evidence(tables, n, layers=1)
    torch.testing.assert_close(one.similarity, s, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.belief, b, rtol=0, atol=1e-6)

    pools = [[j for j in range(K) if j == i or float(s[i, j] * b[i, j]) > 0.6] for i in range(K)]
    two = evidence(tables, n)
    s, b = slow_layer(tables, n, pools)
    torch.testing.assert_close(two.similarity, s, rtol=0, atol=1e-6)
    torch.testing.assert_close(two.belief, b, rtol=0, atol=1e-6)
    assert torch.equal(two.similarity.diagonal(), torch.ones(K, dtype=torch.float64))


@pytest.mark.parametrize("size", [2, 5, 40])
def test_clients_of_one_distribution_have_similarity_one_whatever_their_size(size: int) -> None:
    """One is the median, because similarities above one are clipped to it: half of the pairs stand at one.

    100 pairs without a common client are independent but for the centre, so that their share at one has a standard
    error of .05; four of these are allowed. A cosine depends on the size.
    """
    clients, features = 200, 40
    centres = random(C, features, seed=1)
    n = torch.full((clients, C), size)
    tables = torch.stack([samples_of(n[i], centres, 2.0, seed=10 + i) for i in range(clients)])
    s = evidence(tables, n, layers=1).similarity
    pairs = s[torch.arange(0, clients, 2), torch.arange(1, clients, 2)]
    assert abs(float((pairs == 1).double().mean()) - 0.5) < 4 * 0.05

    directions = torch.nn.functional.normalize(tables[..., :-1].flatten(1), dim=1)
    cosine = float((directions[::2] * directions[1::2]).sum(1).mean())
    expected = 1 / (1 + 2.0**2 / size)  # signal and noise of unit features in the squared length of a mean
    assert cosine == pytest.approx(expected, abs=0.1)


def test_clients_of_two_distributions_are_told_apart() -> None:
    features = 40
    centres = [random(C, features, seed=1), random(C, features, seed=99)]
    n = torch.full((K, C), 50)
    tables = torch.stack([samples_of(n[i], centres[i % 2], 0.5, seed=i) for i in range(K)])
    s = evidence(tables, n).similarity
    same = torch.arange(K) % 2 == (torch.arange(K) % 2)[:, None]
    assert float(s[same].min()) > 0.8
    assert float(s[~same].max()) < 0


def test_the_names_of_classes_do_not_matter() -> None:
    tables, n = tables_of()
    p = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(evidence(tables[:, p], n[:, p]).similarity, evidence(tables, n).similarity)


def test_relabelling_clients_permutes_the_map() -> None:
    tables, n = tables_of()
    p = torch.tensor([3, 1, 5, 0, 2, 4])
    a = attend_by_evidence(evidence(tables, n), DEFAULTS, samples=n.sum(1)).map
    permuted = attend_by_evidence(evidence(tables[p], n[p]), DEFAULTS, samples=n[p].sum(1)).map
    torch.testing.assert_close(permuted, a[p][:, p])


def test_unknown_pairs_are_not_cut_off() -> None:
    """Clients without a common class: belief 0, gap 0, and the weights of the data sizes alone."""
    n = torch.tensor([[6, 6, 0, 0], [0, 0, 6, 6], [9, 9, 0, 0], [0, 0, 9, 9]])
    tables = torch.stack([samples_of(n[i], random(C, F, seed=7), 0.1, seed=i) for i in range(4)])
    found = evidence(tables, n)
    assert float(found.belief[0, 1]) == 0
    samples = n.sum(1)
    got = attend_by_evidence(found, DEFAULTS, samples=samples)
    torch.testing.assert_close(got.map[0], samples.double() / samples.sum())
    assert not got.lone.any()


def test_the_map_as_loops_with_keys_and_trust() -> None:
    tables, n = tables_of(3)
    found, samples = evidence(tables, n), n.sum(1)
    s, b = found.similarity, found.belief
    keys = torch.tensor([True, True, False, True, True, True])
    trust = -torch.rand(K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = attend_by_evidence(found, Options(tau=TAU, lone=0), samples=samples, keys=keys, trust=trust)
    for i in range(K):
        peers = [j for j in range(K) if j != i and keys[j]]
        m = max(0.0, *(float(s[i, j] * b[i, j]) for j in peers))
        tau = TAU * max(1.0, (1 - m) / 0.25)
        row = torch.zeros(K, dtype=torch.float64)
        row[i] = float(samples[i])
        for j in peers:
            g = float(b[i, j]) * max(0.0, m - float(s[i, j]))
            row[j] = float(samples[j]) * math.exp(-(g**2) / (2 * tau**2)) * math.exp(float(trust[j]))
        torch.testing.assert_close(got.map[i], row / row.sum())


def test_a_client_that_is_known_to_be_unlike_all_is_lone_and_one_that_is_unknown_is_not() -> None:
    s = torch.full((4, 4), 0.9, dtype=torch.float64).fill_diagonal_(1)
    s[3, :3] = s[:3, 3] = 0.1
    sure = torch.full((4, 4), 0.95, dtype=torch.float64)
    got = attend_by_evidence(Evidence(s, sure), DEFAULTS)
    assert got.lone.tolist() == [False, False, False, True]
    assert got.map[3].tolist() == [0, 0, 0, 1]

    sure[3, :3] = sure[:3, 3] = 0.2
    assert not attend_by_evidence(Evidence(s, sure), DEFAULTS).lone.any()
    two = attend_by_evidence(Evidence(s[2:, 2:], torch.full((2, 2), 0.95, dtype=torch.float64)), DEFAULTS)
    assert not two.lone.any()


def test_one_client_attends_to_itself() -> None:
    tables, n = tables_of()
    assert attend_by_evidence(evidence(tables[:1], n[:1]), DEFAULTS).map.tolist() == [[1]]


def test_a_newcomers_row_is_that_of_the_map_without_its_own_column() -> None:
    tables, n = tables_of(2)
    found, samples = evidence(tables, n), n.sum(1)
    others = Others(samples[:-1], torch.ones(K - 1, dtype=torch.bool))
    row = newcomer_by_evidence(found, others, DEFAULTS)
    keys = torch.tensor([True] * (K - 1) + [False])
    whole = attend_by_evidence(found, DEFAULTS, samples=samples, keys=keys)
    assert not row.lone
    torch.testing.assert_close(row.weights, whole.map[-1, :-1] / whole.map[-1, :-1].sum())


def test_a_newcomer_of_whom_nothing_is_known_takes_the_mean() -> None:
    n = torch.tensor([[6, 6, 0, 0], [9, 3, 0, 0], [0, 0, 6, 6]])
    tables = torch.stack([samples_of(n[i], random(C, F, seed=7), 0.1, seed=i) for i in range(3)])
    others = Others(n[:2].sum(1), torch.ones(2, dtype=torch.bool))
    row = newcomer_by_evidence(evidence(tables, n), others, DEFAULTS)
    assert row.lone
    assert torch.equal(row.weights, mean_row(others))


def test_a_table_as_a_loop_leaves_out_small_classes() -> None:
    x, y = random(10, F), torch.tensor([0, 2, 2, 0, 3, 0, 0, 0, 2, 2])
    for least in (1, 2, 5):
        got = class_table(x, y, C, least)
        for c in range(C):
            rows = [x[i] for i in range(10) if y[i] == c]
            expected = torch.zeros(F + 1)
            if len(rows) >= least:
                mean = torch.stack(rows).mean(0)
                expected[:F] = mean
                expected[F] = sum(float((row - mean).square().sum()) for row in rows)
            torch.testing.assert_close(got[c], expected)
    assert sent_counts(torch.tensor([0, 1, 2, 9])).tolist() == [0, 0, 2, 9]


def test_the_gate_distrusts_only_a_client_that_moves_against_its_peers() -> None:
    together = random(1, 50, seed=1).double()
    x = together + 0.3 * random(8, 50, seed=2).double()
    a = torch.full((8, 8), 1 / 8, dtype=torch.float64)
    assert float(gate(a, x)[:8].min()) > -2
    x[5] = -4 * together
    trust = gate(a, x)
    assert float(trust[5]) < -10
    assert float(trust[[0, 1, 2, 3, 4, 6, 7]].min()) > -2
    assert not gate(a[:3, :3], x[:3]).any()
    assert not gate(torch.eye(8, dtype=torch.float64), x).any()
