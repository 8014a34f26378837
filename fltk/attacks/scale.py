"""Scaling, also called model replacement: an update so long that the average becomes the attacker's model.

E. Bagdasaryan, A. Veit, Y. Hua, D. Estrin, V. Shmatikov. "How To Backdoor Federated Learning." AISTATS 2020.
arXiv:1807.00459

    g <- gamma (X - theta),  gamma = 1 / (eta_g sum_{k in M} p_k)     X: the attacker's model, of poisoned data
    gamma <- min(gamma, S / |X - theta|)                                 with `bound` S, to pass below a clipping rule

p_k are the weights among the round's participants. With soft clusters and mixed models they are not known before the
upload, and gamma is the number of clients in the group. Benign updates are assumed to cancel, which they do late in
training: see --attack-start. Differs from the released code: running statistics are not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attacks.badnets import BadNets
from fltk.attacks.base import Attack, Group, Memory, Samples, Scene, Sent, hyper
from fltk.attacks.dba import DBA
from fltk.attacks.label_flip import LabelFlip
from fltk.attacks.replacement import factor, replaced
from fltk.partition.federation import Split

DATA: dict[str, Attack] = {"none": Attack(), "label-flip": LabelFlip(), "badnets": BadNets(), "dba": DBA()}


@dataclass(frozen=True)
class Scale(Attack):
    """A lengthened update, after an attack on the data with that attack's defaults."""

    title: ClassVar[str] = "model replacement: a poisoned update, lengthened to outweigh all others"
    on_data: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True
    labels: ClassVar[bool] = True

    data: str = hyper("badnets", "the attack on the data whose result is scaled", choices=tuple(DATA))
    gamma: float | None = hyper(None, "factor on the update (default: what replaces the average)", low=0)
    bound: float | None = hyper(None, "largest length of the update", low=0, infinite=True)

    @property
    def _inner(self) -> Attack:
        return DATA[self.data]

    def check(self, shape: tuple[int, ...], n_classes: int, participants: int, malicious: int) -> tuple[str, ...]:
        return self._inner.check(shape, n_classes, participants, malicious)

    def poison_data(self, data: Split, samples: Samples, generator: torch.Generator, rank: int) -> Split:
        return self._inner.poison_data(data, samples, generator, rank)

    def poison_upload(self, own: Sent, forged: Tensor | None, group: Group, scene: Scene, memory: Memory) -> Tensor:
        return replaced(own, group, factor(group, scene) if self.gamma is None else self.gamma, self.bound)

    def trigger(self, x: Tensor, samples: Samples) -> Tensor | None:
        return self._inner.trigger(x, samples)

    @property
    def goal(self) -> int | None:
        return self._inner.goal
