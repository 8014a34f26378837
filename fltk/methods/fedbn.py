"""FedBN: FedAvg on everything but batch normalisation, which every client keeps to itself.

X. Li, M. Jiang, X. Zhang, M. Kamp, Q. Dou. "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization." ICLR 2021. arXiv:2102.07623

    (w_i, b_i) <- SGD(F_i, (w, b_i))        b_i: scales, shifts and running statistics of the batch norm layers
    w          <- sum_{i in S} p_i w_i      b_i stays

Differs from the paper: clients weigh by samples (the authors weigh them equally: `--agg-weights uniform`). A client is
scored with its own b_i and the averaged w, like theirs. The paper has no newcomers; here one trains b_i alone, from
that of theta^0. Without batch norm in the network nothing is private, and FedBN is FedAvg; group and layer norm travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fltk.methods.split import SplitMethod
from fltk.models.parts import ALL, BATCH_NORM, Columns


@dataclass(frozen=True)
class FedBN(SplitMethod):
    """FedAvg on the columns that are no batch norm's."""

    title: ClassVar[str] = "FedAvg with private batch normalisation"

    @property
    def columns(self) -> Columns:
        return Columns(travels=ALL - BATCH_NORM, private=BATCH_NORM)
