"""Controls of a collaboration map: is it the map that helps, or any mixing of models?

Before the map A of a round is applied, a control puts another one in its place, over the same clients K:

    identity   A_ii = 1                                  no collaboration
    uniform    A_ij = n_j / sum_{k in K} n_k             FedAvg's weights
    shuffle    row i keeps A_ii; its other weights go to other clients, by a permutation that stays for the run
    random     row i from a uniform distribution over the simplex, drawn once a run

A method that is no better than its shuffled map gains by how much it mixes, and not by with whom. Newcomers join by the
method's own rule, from the models that the control has left. fltk's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IDENTITY, UNIFORM, SHUFFLE, RANDOM = "identity", "uniform", "shuffle", "random"


@dataclass(frozen=True)
class MapControl:
    """One of the rules above. `generator` gives a client's lasting stream at its beginning."""

    kind: str
    generator: Callable[[int], torch.Generator]

    def controlled(self, a: Tensor, known: Tensor, samples: Tensor) -> Tensor:
        """What takes the place of a map (N, N) over the clients `known` (K,); other rows stay as they are.

        samples: (N,) what clients weigh.
        """
        out = a.clone()
        if self.kind == IDENTITY:
            out[known] = torch.eye(len(a), dtype=a.dtype)[known]
        elif self.kind == UNIFORM:
            weights = torch.zeros(len(a), dtype=a.dtype)
            weights[known] = samples[known].to(a.dtype)
            out[known] = weights / weights.sum()
        else:
            for i in known.tolist():
                out[i] = self._row(a[i], i, known)
        return out

    def _row(self, row: Tensor, i: int, known: Tensor) -> Tensor:
        """Client i's row (N,), drawn or shuffled over the clients `known`."""
        n, generator = len(row), self.generator(i)
        if self.kind == RANDOM:
            drawn = -torch.rand(n, generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
            out = torch.zeros_like(row)
            out[known] = drawn[known].to(row.dtype)
            return out / out.sum()

        # an order of all clients that stays for the run, of which those who are there are taken
        order = torch.randperm(n, generator=generator)
        there = torch.isin(order, known) & (order != i)
        others = known[known != i]
        out = row.clone()
        out[order[there]] = row[others]
        return out
