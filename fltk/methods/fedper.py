"""FedPer: a shared base, and the last layers private to each client.

M. G. Arivazhagan, V. Aggarwal, A. K. Singh, S. Choudhary. "Federated Learning with Personalization Layers."
2019. arXiv:1912.00818

    (b_i, h_i) <- SGD(F_i, (b, h_i))        base and head together, from the shared base and the own head
    b          <- sum_{i in S} p_i b_i      h_i stays

Differs from the paper: nothing; one personal layer by default. The head of an absent client is left alone,
and normalisation statistics of the base are shared like its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fltk.hyper import hyper
from fltk.methods.split import SplitMethod
from fltk.models.parts import ALL, Columns, Part


@dataclass(frozen=True)
class FedPer(SplitMethod):
    """FedAvg on the layers below the head."""

    title: ClassVar[str] = "shared base, private head"

    head_layers: int = hyper(1, "number of last layers that stay private", low=0)

    @property
    def columns(self) -> Columns:
        base = Part(f"below:{self.head_layers}") if self.head_layers else ALL
        return Columns(travels=base, private=~base)
