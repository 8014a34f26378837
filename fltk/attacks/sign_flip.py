"""Sign flip: malicious clients go the other way.

L. Li, W. Xu, T. Chen, G. B. Giannakis, Q. Ling. "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed
Learning from Heterogeneous Datasets." AAAI 2019. arXiv:1811.03761

    g <- -lam g_k                                      (mode=update)
    every local step climbs the data loss              (mode=gradient)

In `gradient` mode pull and drift terms of the method and weight decay keep their sign. Over one plain step both modes
are the same for lam = 1; over several, ascending may leave the finite numbers, and such an upload is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Overrides, Scene, Sent, hyper, sent_update


@dataclass(frozen=True)
class SignFlip(Attack):
    """The honest update, turned round."""

    title: ClassVar[str] = "uploads its update with the opposite sign"
    on_upload: ClassVar[bool] = True

    mode: str = hyper("update", "turn the update or every local gradient", choices=("update", "gradient"))
    lam: float = hyper(1.0, "length of the flipped update in lengths of the honest one (mode=update)", low=0)

    def overrides(self) -> Overrides | None:
        return Overrides(ascend=True) if self.mode == "gradient" else None

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        if self.mode == "gradient":
            return own.row
        return sent_update(own, -self.lam * group.updates([own])[0].double())
