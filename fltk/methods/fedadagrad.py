"""FedAdagrad: FedAvg whose server takes Adagrad steps.

S. J. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konecny, S. Kumar, H. B. McMahan. "Adaptive Federated
Optimization." ICLR 2021, algorithm 2. arXiv:2003.00295

    Delta = sum_{i in S} p_i w_i - w
    m     <- beta1 m + (1 - beta1) Delta
    v     <- v + Delta^2
    w     <- w + eta m / (sqrt(v) + tau)           m = 0 and v = tau^2 at first, no bias correction

The rule is that of `--server-opt adagrad`, under a name of its own.

Differs from the paper: clients weigh by samples, as in its experiments (its pseudo-code weighs them equally: `--agg-
weights uniform`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fltk.hyper import hyper
from fltk.protocol.method import Method
from fltk.protocol.server_optimiser import ADAGRAD, ServerOptimiser


@dataclass(frozen=True)
class FedAdagrad(Method):
    """FedAvg with an adaptive server."""

    title: ClassVar[str] = "FedAvg with Adagrad on the server"
    map_kind: ClassVar[str] = "direction"

    server_lr: float = hyper(0.01, "server learning rate eta", low=0)
    beta1: float = hyper(0.0, "decay of the first moment", low=0, high=0.999999)
    tau: float = hyper(1e-3, "degree of adaptivity: smaller is more adaptive", low=1e-12)

    @property
    def server_optimiser(self) -> ServerOptimiser:
        return ServerOptimiser(ADAGRAD, self.server_lr, self.beta1, tau=self.tau)
