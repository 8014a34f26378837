"""Server optimisers: how far, and where, the server goes from its model when the clients' average says "there".

With Delta = average - w, the difference to the model that the server has now:

    avgm      m <- beta1 m + Delta;                          w <- w + eta m
    adagrad   m <- beta1 m + (1 - beta1) Delta;              w <- w + eta m / (sqrt(v) + tau)
              v <- v + Delta^2
    adam      v <- beta2 v + (1 - beta2) Delta^2             m and w as above
    yogi      v <- v - (1 - beta2) Delta^2 sign(v - Delta^2)

At first m = 0 and v = tau^2; there is no bias correction. Momentum: T.-M. H. Hsu, H. Qi, M. Brown. "Measuring the
Effects of Non-Identical Data Distribution for Federated Visual Classification." arXiv:1909.06335. The adaptive ones:
S. J. Reddi et al. "Adaptive Federated Optimization." ICLR 2021, algorithm 2. arXiv:2003.00295.

Running statistics of normalisation layers are no parameters: they are those of the average. A round without uploads
leaves m, v and the model as they are. With clusters each cluster model has an m and v of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

AVGM, ADAGRAD, ADAM, YOGI = "avgm", "adagrad", "adam", "yogi"
PREFIX = "server-opt."  # of the tensors of the run's state that belong to the optimiser


@dataclass(frozen=True)
class ServerOptimiser:
    """One of the rules above, with its constants."""

    kind: str
    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def step(self, w: Tensor, average: Tensor, memory: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The next parameters (d,) and what the optimiser remembers, from the present ones and their average."""
        old = w.double()
        delta = average.double() - old
        m = memory["m"].double() if memory else torch.zeros_like(old)

        if self.kind == AVGM:
            m = self.beta1 * m + delta
            return (old + self.lr * m).to(w.dtype), {"m": m.float()}

        m = self.beta1 * m + (1 - self.beta1) * delta
        v = memory["v"].double() if memory else torch.full_like(old, self.tau**2)
        v = self._second_moment(v, delta.square())
        moved = old + self.lr * m / (v.sqrt() + self.tau)
        return moved.to(w.dtype), {"m": m.float(), "v": v.float()}

    def _second_moment(self, v: Tensor, squares: Tensor) -> Tensor:
        """The next v (d,) from the squares of Delta (d,)."""
        if self.kind == ADAGRAD:
            return v + squares
        if self.kind == ADAM:
            return self.beta2 * v + (1 - self.beta2) * squares
        return v - (1 - self.beta2) * squares * torch.sign(v - squares)


@dataclass
class OptimiserRound:
    """The server optimiser in one round; `memory` is what it remembers of every model that it moves."""

    optimiser: ServerOptimiser
    parameters: int  # trainable columns among those that travel; they come first
    memory: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(optimiser: ServerOptimiser, parameters: int, server: Mapping[str, Tensor]) -> OptimiserRound:
        """The optimiser as the last round left it in the server's tensors."""
        known = {name: tensor for name, tensor in server.items() if name.startswith(PREFIX)}
        return OptimiserRound(optimiser, parameters, known)

    def moved(self, w: Tensor, average: Tensor, target: str) -> Tensor:
        """The next model (P,) of a target from its present one and the average; buffers are the average's."""
        d, start = self.parameters, f"{PREFIX}{target}."
        known = {name.removeprefix(start): t for name, t in self.memory.items() if name.startswith(start)}

        stepped, remembered = self.optimiser.step(w[:d], average[:d], known)
        for name, tensor in remembered.items():
            self.memory[f"{start}{name}"] = tensor
        return torch.cat([stepped, average[d:]])
