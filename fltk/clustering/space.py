"""Coordinates of clients: the directions of their tokens, reduced to a few principal components."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fltk.memory.products import gram

TINY = 1e-12
DIMENSIONS = 8  # K cluster centres span K - 1 directions; more components only add noise, which BIC cannot bear


@dataclass(frozen=True)
class Basis:
    """Principal components of K unit tokens: z = (x - mean) axes^T."""

    scores: Tensor  # (K, r) float64, the coordinates of the tokens themselves
    mean: Tensor  # (P,)
    axes: Tensor  # (r, P), orthonormal

    @property
    def explained(self) -> Tensor:
        """Variance along each axis, (r,) float64, descending."""
        return self.scores.square().mean(0)


def directions(rows: Tensor) -> Tensor:
    """Rows brought to length 1, since magnitude is mostly data size; a row of zeros stays: (K, P) -> (K, P)."""
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(TINY)
    return unit


def principal(rows: Tensor, dimensions: int = DIMENSIONS) -> Basis:
    """The first principal components of the directions of `rows` (K, P), at most K - 1 of them (at least one).

    From the Gram matrix, so that P may be large. Each axis points to where the client farthest from the mean lies,
    so that neither the library nor the order of clients turns the picture.
    """
    unit = directions(rows)
    mean = unit.double().mean(0)
    values, vectors = torch.linalg.eigh(gram(unit, mean))
    r = max(1, min(dimensions, len(rows) - 1))
    values, vectors = values.flip(0)[:r].clamp_min(0), vectors.flip(1)[:, :r]
    far = vectors.abs().argmax(0)
    vectors = vectors * torch.sign(vectors[far, torch.arange(r)])
    length = values.sqrt()
    axes = torch.zeros(r, rows.shape[1], dtype=rows.dtype)
    for k, row in enumerate(unit):  # one row at a time: no copy of all rows in float64
        axes += (vectors[k] / length.clamp_min(TINY))[:, None].to(rows.dtype) * (row - mean.to(rows.dtype))
    return Basis(vectors * length, mean.to(rows.dtype), axes)


def project(rows: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """Coordinates of further tokens (K, P) in the space of a `Basis`: (K, r) float64."""
    return (directions(rows) - mean).double() @ axes.double().t()
