"""Coordinates of clients: principal components of directions, whatever the order and the scale of rows."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from toys import random

from fltk.clustering.space import directions, principal, project


def test_components_are_those_of_scikit_learn() -> None:
    rows = random(12, 40, seed=1)
    basis, theirs = principal(rows, 5), PCA(5).fit(directions(rows).double().numpy())
    scores = torch.as_tensor(theirs.transform(directions(rows).double().numpy()))
    torch.testing.assert_close(basis.scores.abs(), scores.abs(), rtol=1e-5, atol=1e-6)
    axes = torch.as_tensor(theirs.components_)
    torch.testing.assert_close(basis.axes.double().abs(), axes.abs(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(basis.axes @ basis.axes.t(), torch.eye(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis.explained, scores.square().mean(0), rtol=1e-5, atol=1e-9)


def test_projected_tokens_are_where_the_basis_has_them() -> None:
    rows = random(9, 50, seed=2)
    basis = principal(rows, 4)
    torch.testing.assert_close(project(rows, basis.mean, basis.axes), basis.scores, rtol=1e-4, atol=1e-5)


def test_lengths_do_not_count() -> None:
    rows = random(8, 30, seed=3)
    scaled = rows * torch.arange(1, 9)[:, None]
    torch.testing.assert_close(principal(rows, 3).scores, principal(scaled, 3).scores, rtol=1e-5, atol=1e-6)
    assert torch.equal(directions(torch.zeros(2, 5)), torch.zeros(2, 5))


def test_relabelling_the_clients_relabels_their_coordinates() -> None:
    rows, order = random(10, 30, seed=4), torch.tensor([3, 1, 9, 0, 2, 8, 7, 5, 6, 4])
    there, here = principal(rows[order], 6), principal(rows, 6)
    torch.testing.assert_close(there.scores, here.scores[order], rtol=1e-6, atol=1e-7)


def test_the_axes_do_not_depend_on_which_way_round_the_library_gives_them() -> None:
    basis = principal(random(10, 30, seed=5), 6)
    far = basis.scores.abs().argmax(0)
    assert (basis.scores[far, torch.arange(6)] > 0).all()


@pytest.mark.parametrize("clients", [1, 2, 3])
def test_few_clients_have_few_dimensions(clients: int) -> None:
    basis = principal(random(clients, 20, seed=6), 8)
    assert basis.scores.shape == (clients, max(1, clients - 1))
    assert torch.isfinite(basis.scores).all() and torch.isfinite(basis.axes).all()


def test_equal_clients_stand_at_one_point() -> None:
    basis = principal(random(1, 20, seed=7).expand(6, -1))
    assert float(basis.scores.abs().max()) < 1e-6
    assert torch.isfinite(basis.axes).all()
