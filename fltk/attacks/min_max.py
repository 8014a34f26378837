"""Min-Max: as far out as the farthest two benign updates are from each other.

V. Shejwalkar, A. Houmansadr. "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning." NDSS 2021. (No arXiv version; the equations are the paper's.)

    g <- mu + gamma p,  the largest gamma with  max_i |g - g_i| <= max_{i,j} |g_i - g_j|         i, j benign
    p = -s (direction=std), -mu/|mu| (unit), -sign(mu) (sign)

Differs from the released code: gamma is computed, not searched for (search=notebook does as they do, up to 20):

    gamma = min_i (-b_i + sqrt(b_i^2 + |p|^2 (D^2 - c_i))) / |p|^2,  c_i = |mu - g_i|^2, b_i = <mu - g_i, p>,
    D = the largest distance between two
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fltk.attacks.perturb import Along, Line


@dataclass(frozen=True)
class MinMax(Along):
    """The longest step that no distance gives away."""

    title: ClassVar[str] = "as far from the benign mean as the largest benign distance hides"

    def hides(self, line: Line, gamma: float) -> bool:
        return bool(line.distances(gamma).max() <= line.d2.max())

    def longest(self, line: Line) -> float:
        return gamma_min_max(line)


def gamma_min_max(line: Line) -> float:
    """The largest gamma that keeps every distance within the largest one between two."""
    if line.p2 <= 0:
        return 0.0
    room = (line.d2.max() - line.c).clamp_min(0)
    return float(((-line.b + torch.sqrt(line.b.square() + line.p2 * room)) / line.p2).min().clamp_min(0))
