"""qsgd: every entry of an update is rounded at random to one of a few levels, so that the mean stays what it was.

D. Alistarh, D. Grubic, J. Li, R. Tomioka, M. Vojnovic. "QSGD: Communication-Efficient SGD via Gradient Quantization and
Encoding." NeurIPS 2017. arXiv:1610.02132

    a = s |u_i| / |u|,   s = 2^(bits - 1) - 1          |u|: length of the bucket, one bit is the sign
    Q(u_i) = |u| sign(u_i) / s (floor(a) + 1 with probability a - floor(a))

Buckets of 512 entries have a length each (section 4 of the paper): with one length for a whole model most entries would
be rounded to 0. The code has a fixed width of `bits` an entry; the paper's Elias code would be shorter for few levels.
qsgd:32 sends float32 as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fltk.channel.base import FLOAT_BITS, ChannelFilter, Packed, at_places, sent_values
from fltk.errors import UsageError

BUCKET = 512  # entries that share a length
LENGTH_BYTES = 4


@dataclass(frozen=True)
class QSGD(ChannelFilter):
    """Stochastic rounding to `bits` bits an entry, sign included."""

    bits: int = FLOAT_BITS

    @classmethod
    def parse(cls, value: str) -> QSGD:
        bits = int(value) if value.isascii() and value.isdecimal() and len(value) < 3 else 0
        if not (2 <= bits <= 16 or bits == FLOAT_BITS):
            raise UsageError(f"--channel qsgd:{value}: bits an entry must be 2 to 16, or 32, such as qsgd:8")
        return cls(bits)

    @property
    def lossless(self) -> bool:
        return self.bits == FLOAT_BITS

    def pack(self, update: Packed, generator: torch.Generator) -> Packed:
        values = sent_values(update)
        if self.lossless or not values.numel():
            return update
        buckets = -(-values.numel() // BUCKET)
        rounded = at_places(update, rounded_to(values, 2 ** (self.bits - 1) - 1, generator))
        return replace(rounded, bits=self.bits, extra=update.extra + LENGTH_BYTES * buckets)


def rounded_to(values: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    """Q (d,) of values (d,), with s = `levels`; zeros stay zeros."""
    padding = -len(values) % BUCKET
    rows = F.pad(values.double(), (0, padding)).view(-1, BUCKET)
    lengths = rows.norm(dim=1, keepdim=True)

    # a row of zeros has no length, and is divided by 1
    scale = torch.where(lengths > 0, lengths, 1.0) / levels
    level = rows.abs() / scale
    below = level.floor()
    up = torch.rand(rows.shape, generator=generator, dtype=torch.float64) < level - below
    rounded = rows.sign() * (below + up) * scale
    return rounded.view(-1)[: len(values)].to(values.dtype)
