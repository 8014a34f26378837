"""grad-drop: only the largest entries of an update are sent; the others wait, in a residual, for the next one.

A. F. Aji, K. Heafield. "Sparse Communication for Distributed Gradient Descent." EMNLP 2017. arXiv:1704.05021

    u = g + r                             r: what the client has not sent yet, zero at first
    send (i, u_i) for the k = max(1, floor(rate d)) largest |u_i|
    r = u where nothing was sent, else 0

Differs from the paper: updates of whole rounds and not gradients of batches; the largest entries of the whole model
exactly, where the paper estimates a threshold. Ties go to the lower index. An entry that a client does not send counts
as 0 in the average. Residuals are kept over rounds in which the client is not sampled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fltk.channel.base import ChannelFilter, Packed, at_places, sent_values
from fltk.errors import UsageError


@dataclass(frozen=True)
class GradDrop(ChannelFilter):
    """Sends the share `rate` of the entries."""

    remembers: ClassVar[bool] = True

    rate: float = 1.0

    @classmethod
    def parse(cls, value: str) -> GradDrop:
        try:
            rate = float(value)
        except ValueError:
            rate = 0.0
        if not 0 < rate <= 1:
            raise UsageError(
                f"--channel grad-drop:{value}: the share of entries that are sent must lie in (0, 1], such as "
                "grad-drop:0.02"
            )
        return cls(rate)

    @property
    def lossless(self) -> bool:
        return self.rate == 1

    def pack(self, update: Packed, generator: torch.Generator) -> Packed:
        values = sent_values(update)
        if self.lossless or not values.numel():
            return update

        # 1e-9: a float such as 0.29 times 100 is a little less than 29
        count = max(1, int(self.rate * values.numel() + 1e-9))
        order = torch.argsort(values.abs(), descending=True, stable=True)
        chosen = order[:count].sort().values

        places = chosen if update.places is None else update.places[chosen]
        return at_places(replace(update, places=places), values[chosen])
