"""DBA, distributed backdoor: every attacker plants a part of the trigger, and the whole of it opens the door.

C. Xie, K. Huang, P.-Y. Chen, B. Li. "DBA: Distributed Backdoor Attacks against Federated Learning." ICLR 2020.

    trigger = part_0 + ... + part_{m-1}          disjoint; attacker of rank i plants part i mod m
    success is measured with the whole trigger

The trigger is four bars, two beside two, in the upper left corner: 1 x 4 pixels with gaps of 2 on 28 x 28 images, 1 x 6
with gaps of 3 on 32 x 32, as in the authors' code, and shorter ones on smaller images. `parts` cuts its pixels, bar
after bar, into m equal pieces. The paper's single shot is `gamma=100` with a server rate of 0.1; here gamma is 1, as in
its multi-shot form. (No arXiv version.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fltk.attacks.backdoor import Backdoor
from fltk.attacks.base import hyper
from fltk.errors import UsageError


@dataclass(frozen=True)
class DBA(Backdoor):
    """Four bars, shared out among the attackers."""

    title: ClassVar[str] = "backdoor whose trigger is split among the attackers"
    on_data: ClassVar[bool] = True
    on_upload: ClassVar[bool] = True

    target: int = hyper(2, "the class that triggered images are to be taken for", low=0)
    parts: int = hyper(4, "parts m of the trigger", low=1)
    width: int = hyper(0, "length of a bar in pixels (0: by the size of the image)", low=0)

    def pixels(self, shape: tuple[int, ...]) -> Tensor:
        out = super().pixels(shape)
        for row, column in self._cells(shape):
            out[row, column] = True
        return out

    def part(self, shape: tuple[int, ...], rank: int) -> Tensor:
        out = super().pixels(shape) & False
        cells = self._cells(shape)
        which = rank % self.parts
        for row, column in cells[which * len(cells) // self.parts : (which + 1) * len(cells) // self.parts]:
            out[row, column] = True
        return out

    def _cells(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """The trigger's pixels, bar after bar."""
        height, width = shape[-2:]
        long = self.width or (6 if width >= 32 else max(1, width // 7))
        gap = max(1, long // 2)
        if 2 * long + gap > width or gap + 2 > height:
            raise UsageError(
                f"--set-attack width={long}: the trigger is larger than an image of {height} x {width} pixels"
            )
        if self.parts > 4 * long:
            raise UsageError(f"--set-attack parts={self.parts}: the trigger has {4 * long} pixels")
        corners = [(row, column) for row in (0, gap + 1) for column in (0, long + gap)]
        return [(row, column + k) for row, column in corners for k in range(long)]
