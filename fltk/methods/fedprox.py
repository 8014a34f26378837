"""FedProx: FedAvg whose clients are held near the global model.

T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith. "Federated Optimization in Heterogeneous
Networks." MLSys 2020. arXiv:1812.06127

    w_i <- argmin_w  F_i(w) + mu/2 ||w - w^t||^2         so mu (w - w^t) is added to every gradient
    w   <- sum_{i in S} p_i w_i

Differs from the paper: clients are sampled uniformly and weighted by samples (`--agg-weights uniform` for the
paper's average); the argmin is the run's local SGD; the pull acts on trainable columns, never on running
statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fltk.hyper import hyper
from fltk.partition.federation import ClientData
from fltk.protocol.messages import Down, Upload
from fltk.protocol.method import Method
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class FedProx(Method):
    """FedAvg with a proximal term."""

    title: ClassVar[str] = "FedAvg with a pull towards the global model"

    mu: float = hyper(0.01, "strength of the pull towards the global model", low=0)

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        return Upload(trainer.sgd(down.w, client.train, pull=(down.w, self.mu)))
