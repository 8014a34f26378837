"""FedAvgM: FedAvg with momentum on the server.

T.-M. H. Hsu, H. Qi, M. Brown. "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification." 2019. arXiv:1909.06335

    Delta = sum_{i in S} p_i w_i - w
    m     <- beta m + Delta
    w     <- w + eta m

The rule is that of `--server-opt avgm`, under a name of its own.

Differs from the paper: plain momentum, where a public re-implementation takes the paper's to be Nesterov's; running
statistics are averaged without momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fltk.hyper import hyper
from fltk.protocol.method import Method
from fltk.protocol.server_optimiser import AVGM, ServerOptimiser


@dataclass(frozen=True)
class FedAvgM(Method):
    """FedAvg whose average is followed with momentum."""

    title: ClassVar[str] = "FedAvg with momentum on the server"
    map_kind: ClassVar[str] = "direction"

    server_lr: float = hyper(1.0, "server learning rate eta", low=0)
    beta: float = hyper(0.9, "momentum beta", low=0, high=0.999999)

    @property
    def server_optimiser(self) -> ServerOptimiser:
        return ServerOptimiser(AVGM, self.server_lr, self.beta)
