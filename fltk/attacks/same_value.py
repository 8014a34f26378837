"""Same value: every number of an upload is the same.

A common baseline in the line of RSA (L. Li et al., AAAI 2019. arXiv:1811.03761).

    g <- c 1            (space=update)
    w <- c 1            (space=weights), buffers honest
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, Sent, hyper, sent_model, sent_update


@dataclass(frozen=True)
class SameValue(Attack):
    """One constant in all coordinates."""

    title: ClassVar[str] = "uploads one constant in all coordinates"
    on_upload: ClassVar[bool] = True
    colludes: ClassVar[bool] = True

    value: float = hyper(1.0, "the constant c")
    space: str = hyper("update", "what is constant: the update or the weights", choices=("update", "weights"))

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        same = torch.full((group.parameters,), self.value, dtype=torch.float64)
        return sent_update(own, same) if self.space == "update" else sent_model(own, same)
