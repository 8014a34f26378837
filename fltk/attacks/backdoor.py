"""What backdoors by a trigger share: pixels that are set, a class to aim at, and how much of the data is poisoned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Overrides, Samples, Scene, Sent, hyper
from fltk.attacks.replacement import replaced
from fltk.errors import UsageError
from fltk.partition.federation import Split


@dataclass(frozen=True)
class Backdoor(Attack):
    """A subclass says which pixels the trigger has, and which of them an attacker sets."""

    labels: ClassVar[bool] = True

    target: int = hyper(0, "the class that triggered images are to be taken for", low=0)
    ratio: float = hyper(0.5, "share of an attacker's training samples that are poisoned", low=0, high=1)
    gamma: float = hyper(1.0, "factor on the update, against being averaged away", low=0)
    epochs: float | None = hyper(None, "local epochs of attackers (default: the run's)", low=0)
    lr: float | None = hyper(None, "learning rate of attackers (default: the run's)", low=0)
    weight_decay: float | None = hyper(None, "weight decay of attackers (default: the run's)", low=0)

    def pixels(self, shape: tuple[int, ...]) -> Tensor:
        """(H, W) bool: the whole trigger. UsageError where it does not fit an image of `shape` (C, H, W)."""
        return torch.zeros(shape[-2:], dtype=torch.bool)

    def part(self, shape: tuple[int, ...], rank: int) -> Tensor:
        """(H, W) bool: what the attacker of this rank sets."""
        return self.pixels(shape)

    def check(self, shape: tuple[int, ...], n_classes: int, participants: int, malicious: int) -> tuple[str, ...]:
        if len(shape) != 3:
            raise UsageError("--kind: a trigger is a patch of pixels, and these data are no images")
        if self.target >= n_classes:
            raise UsageError(f"--set-attack target={self.target}: the classes are 0 to {n_classes - 1}")
        self.pixels(shape)
        return ()

    def overrides(self) -> Overrides | None:
        return Overrides(self.epochs, self.lr, weight_decay=self.weight_decay)

    def chosen(self, data: Split, generator: torch.Generator) -> Tensor:
        """Positions of the poisoned samples: floor(ratio n) of them, drawn once."""
        order = torch.randperm(len(data), generator=generator)
        return order[: math.floor(self.ratio * len(data))].sort().values

    def poison_data(self, data: Split, samples: Samples, generator: torch.Generator, rank: int) -> Split:
        at = self.chosen(data, generator)
        if not len(at):
            return data
        x, y = data.x.clone(), data.y.clone()
        x[at] = stamped(x[at], self.part(tuple(x.shape[1:]), rank), samples.brightest)
        y[at] = self.target
        return Split(x, y)

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        return replaced(own, group, self.gamma)

    def trigger(self, x: Tensor, samples: Samples) -> Tensor | None:
        return stamped(x, self.pixels(tuple(x.shape[1:])), samples.brightest)

    @property
    def goal(self) -> int | None:
        return self.target


def stamped(x: Tensor, pixels: Tensor, brightest: Tensor) -> Tensor:
    """Images (n, C, H, W) whose `pixels` (H, W) bool have the brightest value (C,) of their channel."""
    return torch.where(pixels, brightest[:, None, None], x)
