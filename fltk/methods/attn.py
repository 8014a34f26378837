"""attn: clients are the tokens of a set, and an attention map decides how their models are mixed.

fltk's own method. Nearest published work: FedAMP (arXiv:2007.03797), pFedGraph, pFedLA (arXiv:2205.03993).

    token    z_i = direction of theta_i - theta^0             displacement from the common initial model
    score    S_ij = <z_i, z_j>,  m_i = max_{j != i} S_ij      m_i estimates the noise ceiling of the cosine
             e_ij = -max(0, m_i - S_ij)^2 / (2 tau^2),  e_ii = 0
    map      A_ij = softmax_j(e_ij + gamma log n_j);          a lone client (m_i far below the median) keeps its model
    mix      u_i = (1 - s) theta_i + s sum_j A_ij theta_j     every client's own next start and personal model

The server keeps a bank of last uploads, so that absent clients are attended to and get models too. In the
first round in which a client takes part it starts from theta^0, because mixing destroys the evidence that the
map rests on. Uploads that are not finite or far out of range are screened before any product touches them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attention import Attention, attend
from fltk.attention.tokens import center_of
from fltk.data.federation import ClientData
from fltk.methods.base import Context, Down, Map, Method, State, Task, Upload, hyper, mix, spread
from fltk.train.trainer import Trainer

SCREEN = 10.0  # an upload this many times farther from theta^0 than the median one is not stored


@dataclass(frozen=True)
class Attn(Method):
    """Attention over clients, free mode: nothing is learned on the server."""

    title: ClassVar[str] = "attention over clients: one mixed model each"

    score: str = hyper("gap", "score between clients", choices=("gap", "relgap", "raw", "zscore"))
    tau: float | None = hyper(
        None, "width of the score (default: .135 gap, .5 relgap, .1 raw, .5 zscore; inf: FedAvg)", low=1e-12
    )
    center: str = hyper("init", "origin of displacements", choices=("init", "mean", "median", "none"))
    omega: float = hyper(0.0, "weight of the last update against the displacement in the token", low=0, high=1)
    lone: float = hyper(0.4, "a client whose best peer is below this share of the median is lone (0: off)", low=0)
    ceiling: int = hyper(1, "the ceiling is the similarity of the k-th best peer", low=1)
    gamma: float = hyper(1.0, "exponent of the data-size prior", low=0)
    bias: float = hyper(0.0, "added to the score of the own model")
    step: float = hyper(1.0, "server step s: 0 is local training", low=0, high=1)
    self_weight: float | None = hyper(None, "fix the weight on the own model", low=0, high=1)
    warmup: int = hyper(0, "rounds of FedAvg before attention starts", low=0)
    head: str = hyper("shared", "the head is mixed like the rest, or stays local", choices=("shared", "local"))
    mu: float = hyper(0.0, "pull of local training towards the start model", low=0)
    max_age: int = hyper(20, "bank entries older than this many rounds are not attended to", low=0)
    proj: str = hyper(
        "auto",
        "token projection (auto: CountSketch from 1000 clients)",
        choices=("auto", "none", "countsketch", "gaussian"),
    )
    r: int = hyper(1024, "size of a projected token", low=1)

    @property
    def shared(self) -> str:
        return "base" if self.head == "local" else "all"

    def init(self, task: Task) -> State:
        state = super().init(task)
        n = task.n_clients
        bank = {"bank": state.server["w"].repeat(n, 1)}
        if self.omega:
            bank["update"] = torch.zeros_like(bank["bank"])
        server = {
            "start": state.server["w"],
            "map": torch.zeros(n, n, dtype=torch.float64),
            "lone": torch.zeros(n, dtype=torch.bool),
            "screened": torch.zeros(n, dtype=torch.bool),
            "stored": torch.full((n,), -1),
        }
        return replace(state, server=server, client={**state.client, **bank})

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        private = state.client.get("private")
        return [
            Down(w, own={} if private is None else {"private": private[i]}, first=bool(state.last[i] < 0))
            for i, w in zip(ids, self.personal_model(state, ids, task), strict=True)
        ]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        return Upload(trainer.sgd(down.w, client.train, pull=(down.w, self.mu)))

    def aggregate(self, state: State, uploads: Sequence[Upload], ctx: Context) -> State:
        bad = screen(uploads, state.server["start"])
        good = [u for u, b in zip(uploads, bad.tolist(), strict=True) if not b]
        client = self._store(state, good, ctx.task)
        stored, screened = state.server["stored"].clone(), torch.zeros_like(state.server["screened"])
        stored[[u.client for u in good]] = ctx.round
        screened[[u.client for u, b in zip(uploads, bad.tolist(), strict=True) if b]] = True
        server = {"stored": stored, "screened": screened, "lone": torch.zeros_like(screened)}
        state = self.keep(replace(state, client=client), uploads, ctx, server=server)
        if not good:
            return state
        if self._is_fedavg(ctx.round):
            p = spread(ctx.task.weights([u.client for u in good]), good, ctx.task)
            return replace(state, server={**state.server, "map": p.expand(ctx.task.n_clients, -1).clone()})
        return self._attend(state, ctx)

    def _is_fedavg(self, round: int) -> bool:
        """Infinite width is FedAvg by an explicit short cut: another formula would not give its bits."""
        return round < self.warmup or (self.tau is not None and math.isinf(self.tau))

    def _store(self, state: State, good: Sequence[Upload], task: Task) -> dict[str, Tensor]:
        """The bank with the round's uploads in it (and their updates, where the token has an update part)."""
        client = {k: (v.clone() if k in ("bank", "update") else v) for k, v in state.client.items()}
        if self.omega:
            ids = [u.client for u in good]
            for u, start in zip(good, self._starts(state, ids), strict=True):
                client["update"][u.client] = u.w - start
        for u in good:
            client["bank"][u.client] = u.w
        return client

    def _attend(self, state: State, ctx: Context) -> State:
        """Rows for every client that has a model in the bank; columns for those whose model is fresh."""
        stored, n = state.server["stored"], ctx.task.n_clients
        fresh = (stored >= 0) & (ctx.round - stored <= self.max_age) & ~state.server["screened"]
        known = torch.nonzero((stored >= 0) & ~state.server["screened"]).flatten()
        got = self._attention(state, known, fresh[known], ctx.task)
        full = torch.eye(n, dtype=torch.float64) * (stored >= 0)[:, None]
        own = torch.eye(len(known), dtype=torch.float64)
        full[known[:, None], known] = (1 - self.step) * own + self.step * got.map
        alone = torch.zeros(n, dtype=torch.bool)
        alone[known] = got.lone
        return replace(state, server={**state.server, "map": full, "lone": alone})

    def _attention(self, state: State, known: Tensor, fresh: Tensor, task: Task) -> Attention:
        rows = state.client["bank"][known]
        return attend(
            rows,
            center=center_of(rows, self.center, state.server["start"]),
            samples=torch.ones(len(known)) if task.uniform else task.n[known],
            updates=state.client["update"][known] if self.omega else None,
            omega=self.omega,
            score=self.score,
            tau=self.tau,
            rank=self.ceiling,
            lone_share=self.lone,
            gamma=self.gamma,
            bias=self.bias,
            self_weight=self.self_weight,
            keys=fresh,
            projection=("countsketch" if len(known) >= 1000 else "none") if self.proj == "auto" else self.proj,
            r=self.r,
            seed=task.seed("projection"),
        )

    def _starts(self, state: State, ids: Sequence[int]) -> list[Tensor]:
        """u_i, shared columns: the mix of the bank, or theta^0 for a client without a row."""
        a = state.server["map"]
        if not bool(a.any()):
            return [state.server["start"]] * len(ids)
        u = mix(a, state.client["bank"])
        return [u[i] if bool(a[i].any()) else state.server["start"] for i in ids]

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        return [self.start(u, state, i, task) for i, u in zip(ids, self._starts(state, ids), strict=True)]

    def global_model(self, state: State, task: Task) -> Tensor | None:
        return None

    def mixing(self, state: State, task: Task) -> Map | None:
        a = state.server["map"].clone()
        if not bool(a.any()):
            return None
        empty = ~a.any(1)
        a[empty] = torch.eye(task.n_clients, dtype=a.dtype)[empty]
        return self.layered(a, task)

    def diagnostics(self, state: State, task: Task) -> dict[str, float]:
        return {"lone": float(state.server["lone"].sum()), "screened": float(state.server["screened"].sum())}


def screen(uploads: Sequence[Upload], start: Tensor) -> Tensor:
    """(K,) bool: uploads not finite, or farther from theta^0 than 10 times the median of the finite ones."""
    norms = torch.tensor([float((u.w - start).norm()) for u in uploads], dtype=torch.float64)
    finite = norms[torch.isfinite(norms)]
    limit = SCREEN * float(finite.quantile(0.5)) if len(finite) else 0.0
    return ~(norms <= max(limit, 0.0))
