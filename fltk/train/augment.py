"""Augmentation of training batches: Mixup.

H. Zhang, M. Cisse, Y. N. Dauphin, D. Lopez-Paz. "mixup: Beyond Empirical Risk Minimization." ICLR 2018.
arXiv:1710.09412

    x~ = lambda x_i + (1 - lambda) x_j,   y~ = lambda y_i + (1 - lambda) y_j,   lambda ~ Beta(alpha, alpha)

One lambda a batch; the partners j are a permutation of the batch, as in the authors' code. Both come from the client's
own stream of the round, so that every engine mixes alike. Evaluation sees the data as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fltk.errors import UsageError


@dataclass(frozen=True)
class Mixup:
    """Mixes the samples of every batch in pairs."""

    alpha: float
    seed: int = 0

    def steps(self) -> Iterator[tuple[float, np.random.Generator]]:
        """Lambda of every step, and the numbers that its partners are drawn from."""
        rng = np.random.default_rng(self.seed)
        while True:
            yield float(rng.beta(self.alpha, self.alpha)), rng

    def mixed(
        self, x: Tensor, y: Tensor, classes: int, step: tuple[float, np.random.Generator]
    ) -> tuple[Tensor, Tensor]:
        """A mixed batch: inputs (n, ...), and targets (n, C) from labels (n,), or targets like those that are given."""
        share, rng = step
        partner = torch.from_numpy(rng.permutation(len(x)))
        targets = y if y.is_floating_point() else F.one_hot(y, classes).float()
        return torch.lerp(x[partner], x, share), torch.lerp(targets[partner], targets, share)


def parse(text: str) -> Mixup:
    """The augmentation that `--augment` names; UsageError where it names none."""
    name, _, value = text.partition(":")
    try:
        alpha = float(value)
    except ValueError:
        alpha = 0.0
    if name != "mixup" or not 0 < alpha <= 1e3:
        raise UsageError(f"--augment takes mixup:ALPHA with an ALPHA above 0, such as mixup:0.2, not {text!r}")
    return Mixup(alpha)
