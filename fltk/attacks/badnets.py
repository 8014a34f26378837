"""BadNets: a backdoor by a patch of bright pixels.

T. Gu, B. Dolan-Gavitt, S. Garg. "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain."
2017. arXiv:1708.06733

    x[patch] <- the brightest value,  y <- target      for floor(ratio n_k) training samples of a malicious client,
                                                       chosen once
    success: share of triggered test images, of other classes than the target, that are taken for the target

Differs from the paper: federated, and by default a square of 3 x 3 pixels one pixel off the lower right corner. With
`clean_label` only images of the target class are patched, and no label changes. `gamma` lengthens the update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.backdoor import Backdoor
from fltk.attacks.base import hyper
from fltk.errors import UsageError
from fltk.partition.federation import Split


@dataclass(frozen=True)
class BadNets(Backdoor):
    """A square in the lower right corner."""

    title: ClassVar[str] = "backdoor by a bright patch"
    on_data: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    size: int = hyper(3, "side of the square, in pixels", low=1)
    offset: int = hyper(1, "pixels between the square and the corner", low=0)
    clean_label: str = hyper("no", "patch images of the target class only, and change no label", choices=("no", "yes"))

    def pixels(self, shape: tuple[int, ...]) -> Tensor:
        out = super().pixels(shape)
        height, width = shape[-2:]
        if self.size + self.offset > min(height, width):
            raise UsageError(
                f"--set-attack size={self.size}: with offset={self.offset} the trigger is larger than an image of "
                f"{height} x {width} pixels"
            )
        bottom, right = height - self.offset, width - self.offset
        out[bottom - self.size : bottom, right - self.size : right] = True
        return out

    def chosen(self, data: Split, generator: torch.Generator) -> Tensor:
        if self.clean_label == "no":
            return super().chosen(data, generator)
        order = torch.randperm(len(data), generator=generator)
        own = order[data.y[order] == self.target]
        return own[: math.floor(self.ratio * len(own))].sort().values
