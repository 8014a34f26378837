"""What one local SGD is: a model, its batches, and the terms of every update.

Methods ask a trainer for it (`Trainer.sgd`); who computes it, and how many of them at once, is decided behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fltk.config import TrainConfig
from fltk.train.augment import Mixup
from fltk.train.losses import Loss

SGD, ADAM, ADAMW = "sgd", "adam", "adamw"


@dataclass(frozen=True)
class SgdRule:
    """How a step follows from a gradient. Equal rules may share a stack.

    The gradient of the data loss gets lam (w - target) + drift, is shortened to `clip` at most, and gets weight_decay w
    (with adamw the decay acts on w itself); `ascend` climbs the data loss while the other terms keep their direction.
    """

    only: str  # the part that is trained
    lr: float
    momentum: float
    weight_decay: float
    lam: float  # strength of the pull
    ascend: bool
    optimiser: str = SGD
    beta1: float = 0.9  # adam, adamw: decay of the first moment
    beta2: float = 0.999  # and of the second
    eps: float = 1e-8
    clip: float = math.inf  # largest norm of the gradient of one step

    @property
    def beta(self) -> float:
        """What a step multiplies w with, or with momentum the velocity."""
        return self.momentum if self.momentum else 1 - self.lr * self.weight_decay

    @property
    def alpha(self) -> float:
        """What a step adds of the gradient to w, or with momentum to the velocity; negative where that descends."""
        return (1.0 if self.momentum else -self.lr) * (-1 if self.ascend else 1)

    @property
    def reach(self) -> float:
        """How far w goes to the target of the pull before it is multiplied with beta; who is there stays, exactly."""
        return self.lr * self.lam / self.beta

    @property
    def fuses(self) -> bool:
        """Whether a step can be written so: SGD without clipping, and a decay that leaves a place for a pull."""
        return self.beta > 0 and self.optimiser == SGD and self.clip == math.inf


@dataclass(frozen=True)
class Batches:
    """Which samples every step sees: an epoch is a permutation (n,), dealt `size` at a time."""

    epochs: tuple[Tensor, ...]
    size: int  # samples in a full batch
    used: int  # samples dealt of an epoch: n, or what fills whole batches
    steps: int

    @staticmethod
    def deal(n: int, steps: int, config: TrainConfig, generator: torch.Generator) -> Batches:
        """`steps` batches of n samples; a longer deal begins with the shorter one."""
        size = min(config.batch_size, n)
        used = n - n % size if config.drop_last else n
        epochs = math.ceil(steps / math.ceil(used / size))
        return Batches(tuple(torch.randperm(n, generator=generator) for _ in range(epochs)), size, used, steps)

    def __iter__(self) -> Iterator[tuple[Tensor, list[slice]]]:
        """Epoch by epoch, the permutation and the cuts of its batches."""
        left = self.steps
        for order in self.epochs:
            cuts = [slice(i, min(i + self.size, self.used)) for i in range(0, self.used, self.size)][:left]
            left -= len(cuts)
            yield order, cuts

    def table(self) -> Tensor:
        """The samples of all steps (steps, size); a short batch is filled up with sample 0."""
        rows = [_filled(permutation[: self.used], self.size) for permutation in self.epochs]
        return (torch.cat(rows) if len(rows) > 1 else rows[0])[: self.steps]

    @property
    def even(self) -> bool:
        """Whether every batch is full."""
        return self.used % self.size == 0

    def weights(self) -> Tensor:
        """What a sample of `table` weighs in its batch (steps, size): 1 in a full one, size/n or 0 in one of n."""
        short, length = self.used % self.size, math.ceil(self.used / self.size)
        weight = torch.ones(length, self.size)
        if short:
            weight[-1, :short], weight[-1, short:] = self.size / short, 0.0
        return weight.repeat(len(self.epochs), 1)[: self.steps]


def _filled(permutation: Tensor, size: int) -> Tensor:
    """A permutation cut into rows of `size`, the last one filled with sample 0."""
    missing = -permutation.shape[0] % size
    filled = torch.cat([permutation, permutation.new_zeros(missing)]) if missing else permutation
    return filled.view(-1, size)


@dataclass(frozen=True)
class SgdJob:
    """One client's local SGD."""

    w: Tensor  # (P,), left alone
    x: Tensor  # (n, ...)
    y: Tensor  # (n,)
    batches: Batches
    rule: SgdRule
    target: Tensor | None = None  # (P,) of the pull, where lam is not 0
    drift: Tensor | None = None  # (P,) or its trainable columns
    loss: Loss | None = None  # None is cross-entropy
    given: Mapping[str, Tensor] = field(default_factory=dict)  # further tensors of the client that the loss sees
    mixup: Mixup | None = None


@dataclass(frozen=True)
class Trained:
    """What came of an order."""

    w: Tensor  # (P,)
    loss: float  # summed over the steps: the mean loss of each batch
    total: float  # sum of w, which carries NaN and infinity at a tenth of the price of a test


def finish(rule: SgdRule, w: Tensor, velocity: Tensor | None, target: Tensor | None, drift: Tensor | None) -> None:
    """What a fused step leaves out, on some columns of one model or of several, in place.

    The fused part has brought in the gradient; without momentum also decay and pull. Left are the drift, and with
    momentum all the other terms and the move itself.
    """
    if velocity is None:
        if drift is not None:
            w.add_(drift, alpha=-rule.lr)
        return
    if rule.weight_decay:
        velocity.add_(w, alpha=rule.weight_decay)
    if target is not None:
        velocity.add_(w - target, alpha=rule.lam)
    if drift is not None:
        velocity.add_(drift)
    w.add_(velocity, alpha=-rule.lr)
