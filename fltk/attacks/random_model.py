"""Random model: a malicious client uploads a model that was never trained.

The simplest Byzantine client; no paper of its own.

    w_k <- theta_rand        freshly initialised, a new one every round (`resample=once`: one for the whole run)

Needs no knowledge and no training. With usual initialisers its norm is like that of a model that has trained for a
round, so that it looks harmless at first. Running statistics are fresh as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.attacks.base import Attack, Group, Memory, Scene, Sent, hyper, sent_model


@dataclass(frozen=True)
class RandomModel(Attack):
    """An untrained model in place of the trained one."""

    title: ClassVar[str] = "uploads a model that was never trained"
    on_upload: ClassVar[bool] = True

    resample: str = hyper("every", "draw the model in every round, or once", choices=("every", "once"))

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        generator = scene.of(own.client) if self.resample == "every" else scene.lasting(own.client)
        return sent_model(own, scene.fresh(generator))
