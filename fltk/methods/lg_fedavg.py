"""LG-FedAvg: private lower layers, and FedAvg on the last ones.

P. P. Liang, T. Liu, L. Ziyin, N. B. Allen, R. P. Auerbach, D. Brent, R. Salakhutdinov, L.-P. Morency. "Think Locally,
Act Globally: Federated Learning with Local and Global Representations." 2020. arXiv:2001.01523

    (l_i, g_i) <- SGD(F_i, (l_i, g))        own representation and global head, trained together
    g          <- sum_{i in S} p_i g_i      l_i stays

FedPer the other way round. Every client's l_i begins at that of theta^0.

Differs from the paper: training begins at theta^0; the authors begin with a model that FedAvg has trained, and report
lower figures without it. One layer is global (theirs: the last two of five, the last three of four). The model after
the last round is scored; their code takes, client by client, the one with the best test accuracy. A newcomer trains its
own l_i under g; theirs averages the outputs of all clients' models, which here never leave the clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fltk.hyper import hyper
from fltk.methods.split import SplitMethod
from fltk.models.parts import NONE, Columns, Part


@dataclass(frozen=True)
class LGFedAvg(SplitMethod):
    """FedAvg on the head and the layers next to it."""

    title: ClassVar[str] = "private base, shared head"

    shared_layers: int = hyper(1, "number of last layers that are shared", low=0)

    @property
    def columns(self) -> Columns:
        head = Part(f"top:{self.shared_layers}") if self.shared_layers else NONE
        return Columns(travels=head, private=~head)
