"""Label flip: malicious clients train on wrong labels.

V. Tolpegin, S. Truex, M. E. Gursoy, L. Liu. "Data Poisoning Attacks Against Federated Learning Systems." ESORICS 2020.
arXiv:2007.08432

    y <- C - 1 - y         (mode=reverse)       y <- (y + 1) mod C        (shift)
    y <- b where y = a     (pair, the paper's)  y <- another class, drawn once for every sample    (random)

Training is normal otherwise. With an odd number of classes `reverse` keeps the middle one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fltk.attacks.base import Attack, Samples, hyper
from fltk.errors import UsageError
from fltk.partition.federation import Split


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Labels changed once, before training."""

    title: ClassVar[str] = "trains on wrong labels"
    on_data: ClassVar[bool] = True
    labels: ClassVar[bool] = True

    mode: str = hyper("reverse", "which label becomes which", choices=("reverse", "pair", "random", "shift"))
    source: int = hyper(0, "pair: the class that is relabelled", low=0)
    target: int = hyper(1, "pair: the class that it is called", low=0)

    def check(self, shape: tuple[int, ...], n_classes: int, participants: int, malicious: int) -> tuple[str, ...]:
        for name in ("source", "target"):
            if self.mode == "pair" and getattr(self, name) >= n_classes:
                raise UsageError(f"--set-attack {name}={getattr(self, name)}: the classes are 0 to {n_classes - 1}")
        return ()

    def poison_data(self, data: Split, samples: Samples, generator: torch.Generator, rank: int) -> Split:
        y, c = data.y, samples.n_classes
        if self.mode == "reverse":
            return Split(data.x, c - 1 - y)
        if self.mode == "shift":
            return Split(data.x, (y + 1) % c)
        if self.mode == "pair":
            return Split(data.x, torch.where(y == self.source, self.target, y))
        step = torch.randint(1, max(2, c), y.shape, generator=generator)
        return Split(data.x, (y + step) % c)
