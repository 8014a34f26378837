"""Similarity from class prototypes: the equation as loops and what it must not see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import random

from fltk.attention.prototypes import class_means, prototype_similarity, through_a_third

K, C, F = 6, 4, 7


def prototypes(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class means (K, C, F) and counts (K, C); a client without a class has a zero mean."""
    n = torch.randint(0, 9, (K, C), generator=torch.Generator().manual_seed(seed))
    n[:, 0] += 1
    means = random(1, C, F, seed=seed) + 0.5 * random(K, C, F, seed=seed + 1)
    return means * (n > 0)[..., None], n


def slow(means: Tensor, n: Tensor) -> Tensor:
    m, counts = means.double(), n.double()
    mu = sum(counts[i, c] * m[i, c] for i in range(K) for c in range(C)) / counts.sum()
    s = torch.full((K, K), -1.0, dtype=torch.float64)
    for i in range(K):
        for j in range(K):
            if sum(min(int(n[i, c]), int(n[j, c])) for c in range(C)) >= 5:
                w = [math.sqrt(int(n[i, c]) * int(n[j, c])) for c in range(C)]
                cos = [torch.cosine_similarity(m[i, c] - mu, m[j, c] - mu, dim=0) for c in range(C)]
                s[i, j] = sum(a * float(b) for a, b in zip(w, cos, strict=True)) / sum(w)
        s[i, i] = 1
    return torch.stack(
        [torch.stack([max(min(s[i, k], s[k, j]) for k in range(K)) for j in range(K)]) for i in range(K)]
    )


@pytest.mark.parametrize("seed", range(4))
def test_similarity_as_loops(seed: int) -> None:
    means, n = prototypes(seed)
    got = prototype_similarity(means, n)
    torch.testing.assert_close(got, slow(means, n), rtol=0, atol=1e-6)
    torch.testing.assert_close(got, got.t(), rtol=0, atol=1e-12)
    assert float(got.abs().max()) <= 1
    assert torch.equal(got.diagonal(), torch.ones(K, dtype=torch.float64))


def test_the_names_of_classes_do_not_matter() -> None:
    means, n = prototypes()
    p = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(prototype_similarity(means[:, p], n[:, p]), prototype_similarity(means, n))


def test_proportions_of_classes_drop_out() -> None:
    means, n = prototypes()
    n[:2] = torch.tensor([[9, 1, 1, 0], [1, 3, 30, 2]])
    means[1] = means[0] = random(C, F, seed=5)
    n[1, 2], n[0, 1] = 5, 4
    assert float(prototype_similarity(means, n)[0, 1]) == pytest.approx(1, abs=1e-6)


def test_clients_without_common_classes_are_joined_through_a_third() -> None:
    base = random(1, C, F).expand(3, -1, -1)
    n = torch.tensor([[6, 6, 0, 0], [0, 0, 6, 6], [6, 6, 6, 6]])
    both, without = prototype_similarity(base, n), prototype_similarity(base[:2], n[:2])
    assert float(both[0, 1]) == pytest.approx(1, abs=1e-6)
    assert float(without[0, 1]) == -1
    chain = torch.eye(4, dtype=torch.float64) * 2 - 1
    for i in range(3):
        chain[i, i + 1] = chain[i + 1, i] = 0.5
    assert through_a_third(chain)[0].tolist() == [1, 0.5, 0.5, -1]  # once: two steps, not three


def test_class_means_as_a_loop() -> None:
    x, y = random(10, F), torch.tensor([0, 2, 2, 0, 3, 3, 3, 0, 2, 2])
    got = class_means(x, y, C)
    for c in range(C):
        rows = [x[i] for i in range(10) if y[i] == c]
        expected = torch.stack(rows).mean(0) if rows else torch.zeros(F)
        torch.testing.assert_close(got[c], expected)
