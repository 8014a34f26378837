"""DP-FedAvg: clipped updates, equal weights, and noise that hides any one client.

H. B. McMahan, D. Ramage, K. Talwar, L. Zhang. "Learning Differentially Private Recurrent Language Models." ICLR 2018.
arXiv:1710.06963. Adaptive clipping: G. Andrew, O. Thakkar, H. B. McMahan, S. Ramaswamy. "Differentially Private
Learning with Adaptive Clipping." NeurIPS 2021. arXiv:1905.03871

    g_k   <- g_k min(1, S / |g_k|)
    theta <- theta + 1/(q N) (sum_k g_k + N(0, z^2 S^2 I))                q: share of the clients in a round

    adaptive:  b = 1/(q N) (number of |g_k| <= S  +  N(0, sigma_b^2)),  sigma_b = q N / 20
               S <- S exp(-0.2 (b - 1/2));   z_D = (z^-2 - (2 sigma_b)^-2)^(-1/2) takes the place of z in the noise,
               so that both releases together cost what z alone would

User-level (epsilon, delta)-differential privacy against whoever sees the models; the server is trusted. The fixed
denominator and the equal weights are part of the guarantee, which holds for Poisson sampling: a run that samples a
fixed number of clients is refused, unless `approximate=on` takes its epsilon for an approximation. Running statistics
would leak, so that those of the last model stay. A defence only as far as clipping and noise blunt an attack.

Only for one global model, or shared layers of one: the mechanism guarantees nothing for the choice of a cluster or for
rows of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.defences.accountant import KINDS, available, epsilon
from fltk.defences.base import Combined, Defence, Facts, hyper
from fltk.errors import UsageError
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE

QUANTILE, RATE = 0.5, 0.2  # gamma and eta_C of adaptive clipping
WHY = "it guarantees nothing for the choice of a cluster or for weights between clients"


@dataclass(frozen=True)
class DPFedAvg(Defence):
    """The Gaussian mechanism on the sum of clipped updates."""

    title: ClassVar[str] = "clip, average equally and add noise: differential privacy for clients"
    forms: ClassVar[Mapping[str, frozenset[str]]] = {ONE: frozenset({"combine"})}
    refusals: ClassVar[Mapping[str, str]] = {CLUSTERS: WHY, MIXED: WHY}
    rejects: ClassVar[bool] = False
    private: ClassVar[bool] = True

    noise: float = hyper(1.0, "noise multiplier z", low=0)
    clip: float = hyper(1.0, "largest norm S of an update (adaptive=on: the first one)", low=0, infinite=True)
    adaptive: str = hyper("off", "let S follow the median norm, privately", choices=("off", "on"))
    delta: float | None = hyper(None, "delta of the guarantee (default: 1/N^1.1)", low=1e-12, high=1)
    accountant: str = hyper("rdp", "how epsilon is counted", choices=KINDS)
    approximate: str = hyper(
        "off", "count epsilon as if a fixed number of clients were a Poisson sample", choices=("off", "on")
    )

    def most(self, n: int) -> int:
        return n

    def check(self, kind: str, participation: float, clients: int) -> None:
        if participation < 1 and self.approximate == "off":
            raise UsageError(
                f"--participation: {round(participation * clients)} of {clients} clients are a sample of fixed size, "
                "and the guarantee of dp-fedavg is for Poisson sampling: use --participation 1, or --set-defence "
                "approximate=on"
            )
        if self.noise and self.clip == math.inf:
            raise UsageError("--set-defence clip=inf: noise in proportion to it has no end; use noise=0")
        count_noise = participation * clients / 20
        if self.adaptive == "on" and self.noise >= 2 * count_noise:
            raise UsageError(
                f"--set-defence noise={self.noise:g}: adaptive clipping needs less than {2 * count_noise:g} with "
                f"{participation * clients:g} clients a round"
            )

    def combine(self, rows: Sequence[Tensor], weights: Tensor, facts: Facts, state: Mapping[str, Tensor]) -> Combined:
        assert facts.origin is not None
        d, expected = facts.parameters, facts.participation * facts.n_clients
        bound = float(state["clip"]) if state else self.clip
        norms = facts.gram.norms
        factors = (bound / norms.clamp_min(1e-300)).clamp_max(1)
        z = self.update_noise(expected)
        total = noise_of(d, z * bound if z else 0.0, facts.generator)
        for row, factor in zip(rows, factors.tolist(), strict=True):
            total.add_(row[:d].double() - facts.origin[:d], alpha=factor)
        out = facts.origin.clone()
        out[:d] = facts.origin[:d].double() + total / expected
        after = bound
        if self.adaptive == "on":
            short = float((norms <= bound).sum()) + float(noise_of(1, expected / 20, facts.generator))
            after = bound * math.exp(-RATE * (short / expected - QUANTILE))
        numbers, notes = self._told(facts)
        numbers |= {"clip_norm": bound, "clipped": float((factors < 1).sum())}
        return Combined(out, factors / expected, {"clip": torch.tensor(after, dtype=torch.float64)}, notes, numbers)

    def update_noise(self, expected: float) -> float:
        """z of the updates: a little more than z where a noisy count is released as well; expected: q N clients."""
        if self.adaptive == "off" or self.noise == 0:
            return self.noise
        return 1 / math.sqrt(self.noise**-2 - (expected / 10) ** -2)

    def _told(self, facts: Facts) -> tuple[dict[str, float], tuple[str, ...]]:
        """Epsilon so far, or why there is none."""
        delta = facts.n_clients**-1.1 if self.delta is None else self.delta
        if not available():
            return {}, ("dp-fedavg: epsilon is not counted without opacus: pip install 'fltk[privacy]'",)
        if self.noise == 0 or delta >= 1:
            return {}, ("dp-fedavg: without noise there is no privacy",) if self.noise == 0 else ()
        spent = epsilon(self.noise, facts.participation, facts.round + 1, delta, self.accountant)
        return {"epsilon": spent, "delta": delta}, ()


def noise_of(size: int, deviation: float, generator: torch.Generator) -> Tensor:
    """Normal noise (size,) float64."""
    return deviation * torch.randn(size, generator=generator, dtype=torch.float64)
