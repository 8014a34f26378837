"""The channel between client and server: what is left of an update when filters have made it smaller, and its bytes.

A client sends its update g = w - r, r being the row that its training started from. Each filter makes a smaller update
from it, in the order in which they were named; the server adds what arrives to r. Filters see trainable columns alone:
running statistics of normalisation layers travel as they are. Filters act where the client sends, after an attack and
before the server's defence, so that attackers keep to the format of the wire and a defence sees what the server sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

FLOAT_BITS, INDEX_BYTES = 32, 4


@dataclass(frozen=True)
class Packed:
    """An update as it is sent: `values` (d,) as the server decodes them, and what the encoded form takes.

    places: (k,) int64, the entries that are sent, ascending; None where all are.  bits: of each value.  extra: bytes
    beside values and places, such as a scale.
    """

    values: Tensor
    places: Tensor | None = None
    bits: int = FLOAT_BITS
    extra: int = 0

    @property
    def count(self) -> int:
        """Number of values that are sent."""
        return self.values.numel() if self.places is None else self.places.numel()

    @property
    def nbytes(self) -> int:
        """Bytes on the wire, a place being an int32."""
        places = 0 if self.places is None else INDEX_BYTES * self.count
        return math.ceil(self.count * self.bits / 8) + places + self.extra


@dataclass(frozen=True)
class ChannelFilter:
    """Makes a packed update smaller. Fields of a subclass are its values."""

    remembers: ClassVar[bool] = False  # keeps what it did not send, for the client's next update

    @classmethod
    def parse(cls, value: str) -> ChannelFilter:
        """The filter from the text after its name; UsageError, with the option's name, where it is not one."""
        return cls()

    @property
    def lossless(self) -> bool:
        """Whether the filter leaves every update as it is."""
        return False

    def pack(self, update: Packed, generator: torch.Generator) -> Packed:
        """The update with less to send. `generator` is the client's own stream of this round and filter."""
        return update


@dataclass(frozen=True)
class Channel:
    """All filters of a run, in order."""

    filters: tuple[ChannelFilter, ...]

    @property
    def lossless(self) -> bool:
        """Whether every update arrives bit for bit."""
        return all(one.lossless for one in self.filters)

    @property
    def remembers(self) -> bool:
        """Whether clients keep what they did not send."""
        return any(one.remembers for one in self.filters)

    def send(self, update: Tensor, residual: Tensor | None, generator: torch.Generator) -> tuple[Packed, Tensor | None]:
        """What of an update (d,) is sent, and what the client keeps of it for the next time, (d,).

        residual: what it kept of its last one, which is added first; None where nothing is kept.
        """
        whole = update if residual is None else update + residual
        packed = Packed(whole)
        for one in self.filters:
            packed = one.pack(packed, generator)
        left = None if residual is None else whole - packed.values
        return packed, left


def at_places(packed: Packed, values: Tensor) -> Packed:
    """The same places with other values (k,) there, and zeros elsewhere."""
    if packed.places is None:
        return replace(packed, values=values)
    full = torch.zeros_like(packed.values)
    full[packed.places] = values
    return replace(packed, values=full)


def sent_values(packed: Packed) -> Tensor:
    """The values (k,) that are sent."""
    return packed.values if packed.places is None else packed.values[packed.places]
