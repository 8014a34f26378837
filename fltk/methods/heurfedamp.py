"""HeurFedAMP: FedAMP with a fixed self-attention and a softmax over cosines, for deep networks.

Y. Huang, L. Chu, Z. Zhou, L. Wang, J. Liu, J. Pei, Y. Zhang. "Personalized Cross-Silo Federated Learning on
Non-IID Data." AAAI 2021. arXiv:2007.03797 (its section on the heuristic variant)

    (server)  xi_ij = (1 - xi_ii) exp(sigma cos(w_i, w_j)) / sum_{h != i} exp(sigma cos(w_i, w_h))
    (client)  as in FedAMP

Differs from the paper: cosines are of displacements from the common initial model by default, because raw
weights of young models all point the same way (`cos_of=raw` for the paper's form).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attention.tokens import similarity
from fltk.hyper import hyper
from fltk.methods.fedamp_family import FedAMPFamily
from fltk.protocol.task import Task


@dataclass(frozen=True)
class HeurFedAMP(FedAMPFamily):
    """Attention by cosine between models."""

    title: ClassVar[str] = "FedAMP with fixed self-weight and softmax over cosines"

    sigma: float = hyper(10.0, "sharpness of the softmax over cosines", low=0)
    self_weight: float = hyper(0.3, "weight xi_ii on the own model", low=0, high=1)
    cos_of: str = hyper("displacement", "cosines of displacements or of raw weights", choices=("displacement", "raw"))
    prox: float = hyper(1.0, "strength of the pull towards the mixture", low=0)

    def attention(self, rows: Tensor, task: Task) -> Tensor:
        """xi of the clients that have a model, (K, P) -> (K, K)."""
        if len(rows) == 1:
            return torch.ones(1, 1, dtype=torch.float64)
        origin = task.w0 if self.cos_of == "displacement" else torch.zeros_like(task.w0)
        e = self.sigma * similarity(rows, origin)
        others = torch.softmax(e.fill_diagonal_(-torch.inf), dim=1) * (1 - self.self_weight)
        return others.fill_diagonal_(self.self_weight)
