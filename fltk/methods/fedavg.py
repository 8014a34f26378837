"""FedAvg: the clients' models are averaged into one global model.

B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Aguera y Arcas. "Communication-Efficient Learning of Deep
Networks from Decentralized Data." AISTATS 2017. arXiv:1602.05629

    w_i <- SGD(F_i, w)                      each participant i, E epochs
    w   <- sum_{i in S} p_i w_i,  p_i = n_i / sum_{j in S} n_j

Differs from the paper: nothing. Weights are normalised over the participants; running statistics are averaged
like weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fltk.protocol.method import Method


@dataclass(frozen=True)
class FedAvg(Method):
    """FedAvg is what `Method` does by default."""

    title: ClassVar[str] = "one global model, averaged"
