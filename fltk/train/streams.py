"""Named random streams: every generator is derived from (root seed, purpose, round, client).

Nothing reads or sets global random state, so that adding a metric, changing the number of workers or resuming
a run changes no bit of another stream.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

VERSION = 1  # of the derivation; stored with every run


@dataclass(frozen=True)
class Streams:
    """The random streams of one run."""

    root: int

    def seed(self, purpose: str, round: int = 0, client: int = 0) -> int:
        """63-bit seed of one stream."""
        name = f"{VERSION}/{self.root}/{purpose}/{round}/{client}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1

    def generator(self, purpose: str, round: int = 0, client: int = 0) -> torch.Generator:
        """A fresh CPU generator at the start of one stream."""
        return torch.Generator().manual_seed(self.seed(purpose, round, client))
