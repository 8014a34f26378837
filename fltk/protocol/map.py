"""The effective collaboration map, and the pieces that methods make it from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fltk.models.layout import Layout
    from fltk.protocol.messages import Upload
    from fltk.protocol.task import Task
    from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class Map:
    """The effective collaboration map: row i holds the weights of the clients' last models in i's next start.

    kind: `exact` (map @ models is the start model), `direction` (up to a server step), `pull` (the client
    keeps its model and is drawn to the mix), `proxy` (a similarity; never used for numbers). A class head
    (`--head-mix classes`) has further weights per class, made from these; they are not shown. Rows sum to 1, or less
    under a defence that clips: what is missing stayed with the target's own model.
    """

    kind: str
    slices: Mapping[str, Tensor]  # part of the model -> (N, N), no entry below 0, rows that sum to 1 at most
    layout: Layout

    @staticmethod
    def of(kind: str, parts: Mapping[str, Tensor], layout: Layout) -> Map:
        """The map of these parts of a model, without those that have no column in it."""
        return Map(kind, {part: m for part, m in parts.items() if layout.width(part)}, layout)

    def whole(self) -> Tensor:
        """(N, N): the mean of the slices, weighted by their numbers of parameters."""
        total = sum(self.layout.width(part) for part in self.slices)
        rows = [m.double() * (self.layout.width(part) / total) for part, m in self.slices.items()]
        return torch.stack(rows).sum(0)


def spread(p: Tensor, uploads: Sequence[Upload], task: Task) -> Tensor:
    """Participants' weights (K,) as a row over all clients (N,) float64, zero for the absent."""
    row = torch.zeros(task.n_clients, dtype=torch.float64)
    row[[u.client for u in uploads]] = p
    return row


def pull_strength(trainer: Trainer, n: int, lam: float, epochs: float | None = None) -> Tensor:
    """s = 1 - (1 - min(1, eta lam))^steps: how far the pull alone moves a model to its target a round."""
    return torch.tensor(1 - (1 - min(1.0, trainer.lr * lam)) ** trainer.steps(n, epochs), dtype=torch.float64)


def pulled_map(strength: Tensor, target: Tensor) -> Tensor:
    """diag(1 - s) + diag(s) T: own models (N,), drawn to the rows of T (N, N)."""
    return torch.diag(1 - strength) + strength[:, None] * target
