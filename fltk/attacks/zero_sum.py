"""Zero sum: the attackers together undo what the benign clients did.

    g <- -1/f sum_{benign j} g_j         so that the plain sum of all updates of the group is zero

A common baseline, also called zero gradient; no paper of its own. Omniscient: it sees the benign updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, mean_of


@dataclass(frozen=True)
class ZeroSum(Attack):
    """Minus the sum of the benign updates, in f equal parts."""

    title: ClassVar[str] = "cancels the sum of the benign updates"
    knows: ClassVar[frozenset[str]] = frozenset({"benign"})
    colludes: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    def forge(self, group: Group, scene: Scene, memory: Memory) -> Tensor:
        return -mean_of(group.benign) * (len(group.benign) / group.f)
