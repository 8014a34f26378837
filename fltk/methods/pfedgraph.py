"""pFedGraph: the server infers which clients learn from which, from how models moved and data sizes.

R. Ye, Z. Ni, F. Wu, S. Chen, Y. Wang. "Personalized Federated Learning with Inferred Collaboration Graphs." ICML 2023,
PMLR 202:39801-39817.

    Delta_i = w_i - w^0,   d_ij = -cos(Delta_i, Delta_j), -1 where it is below -.9,   d_ii = -1
    A_i     = argmin_a <d_i, a> + alpha |a - p|^2,  a >= 0, sum a = 1        the projection of p - d_i / (2 alpha)
    start_i = sum_j A_ij w_j
    (client)  w_i <- SGD(F_i(w) - lam <w, c_i> / |w|),   c_i = sum_j A_ij w_j / |w_j|        from the second round on

p are FedAvg's weights. alpha -> inf with lam = 0 is FedAvg; alpha -> 0 leaves the clients whose cosine is above .9.

Differs from the paper: clients that were not sampled are attended to by their last uploads, up to `max_age` rounds old,
where the authors' code takes participants only. The published code adds the last term with the other sign, which
repels; the text's objective attracts. Similarity is over all shared columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fltk.attention import Attention
from fltk.attention.bank import of_clients
from fltk.attention.tokens import cosines
from fltk.hyper import hyper
from fltk.memory.products import gram
from fltk.methods.model_bank import ModelBank
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import by_trust
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.protocol.verdict import rows_left, trust_left
from fltk.train.losses import Batch, Given, Net
from fltk.train.trainer import Trainer

ALIKE = 0.9  # cosines above it count as 1


@dataclass(frozen=True)
class PFedGraph(ModelBank):
    """A collaboration graph by projection onto the simplex."""

    title: ClassVar[str] = "each client gets a mixture by an inferred collaboration graph"

    alpha: float = hyper(0.8, "weight of the data sizes against similarity", low=1e-6)
    lam: float = hyper(0.01, "strength of the pull of directions in local training", low=0)

    def check(self, task: Task) -> None:
        task.need_labels("pfedgraph")

    def attention(self, state: State, known: Tensor, keys: Tensor, part: str, server: Server) -> Attention:
        rows = of_clients(state.client["bank"], known)
        similar = cosines(gram(rows, state.server["start"]))
        samples = torch.ones(len(known)) if server.task.uniform else server.task.n[known]
        found = graph(similar, samples, keys, self.alpha)
        return Attention(found, similar, torch.zeros(len(known)), torch.zeros(len(known), dtype=torch.bool))

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        downs = super().downlink(state, ids, task)
        maps = self.maps(state)[0]
        if not self.lam or not bool(maps.any()):
            return downs
        bank = rows_left(state.server, state.client["bank"])[:, : task.layout.trainable].double()
        unit = bank / bank.norm(dim=1, keepdim=True).clamp_min(1e-300)
        directed = []
        for client, down in zip(ids, downs, strict=True):
            c = (maps[client] @ unit).float()
            directed.append(replace(down, server={"direction": c}) if bool(c.any()) else down)
        return directed

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        if "direction" not in down.server:
            return super().local_update(down, client, trainer)
        given = {"direction": down.server["direction"], "lam": torch.tensor(self.lam)}
        return Upload(trainer.sgd(down.w, client.train, pull=(down.w, self.mu), loss=directed_loss, given=given))

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer trains from w^0, uploads, and gets the mixture of its row; on arrival it has FedAvg's."""
        known = torch.nonzero(state.server["stored"] >= 0).flatten()
        if not len(known):
            return Joined(task.w0, task.w0, down=4 * task.layout.size)
        bank = rows_left(state.server, state.client["bank"])[known]
        samples = torch.ones(len(known)) if task.uniform else task.n[known]
        mean = (samples.double() / samples.sum()) @ bank.double()

        shared = task.layout.take(trainer.sgd(task.w0, client.train), self.columns.travels)
        rows = torch.cat([bank, shared[None]])
        counts = torch.cat([samples, samples.new_tensor([1 if task.uniform else len(client.train)])])
        similar = cosines(gram(rows, state.server["start"]))
        everyone = torch.ones(len(rows), dtype=torch.bool)
        trust = torch.cat([trust_left(state.server, task.n_clients)[known], torch.ones(1, dtype=torch.float64)])
        row = by_trust(graph(similar, counts, everyone, self.alpha)[-1], trust)

        private = task.layout.take(task.w0, self.columns.private)
        weights = torch.zeros(task.n_clients, dtype=torch.float64)
        weights[known] = row[:-1]
        mass = float(weights.sum())
        return Joined(
            arrival=task.whole(self.columns, mean.float(), private),
            model=task.whole(self.columns, (row @ rows.double()).float(), private),
            own={"bank": shared, "rows": weights[None]},
            row=weights / mass if mass > 0 else None,
            self_weight=float(row[-1]),
            down=8 * task.layout.width(self.columns.travels),
            up=4 * task.layout.width(self.columns.travels),
        )


def graph(similar: Tensor, samples: Tensor, keys: Tensor, alpha: float) -> Tensor:
    """A (K, K) float64 from cosines (K, K), samples (K,) and keys (K,) bool: who may be attended to by others."""
    d = -similar.double()
    d = torch.where(d < -ALIKE, -1.0, d).fill_diagonal_(-1.0)
    rows = []
    for i in range(len(d)):
        there = keys.clone()
        there[i] = True
        p = samples[there].double()
        row = torch.zeros(len(d), dtype=torch.float64)
        row[there] = onto_simplex(p / p.sum() - d[i, there] / (2 * alpha))
        rows.append(row)
    return torch.stack(rows)


def onto_simplex(v: Tensor) -> Tensor:
    """The nearest point (n,) of the simplex to v (n,), in the Euclidean sense."""
    ordered, _ = v.sort(descending=True)
    above = ordered.cumsum(0) - 1
    count = torch.arange(1, len(v) + 1, dtype=v.dtype)
    last = int(torch.nonzero(ordered * count > above).max())
    shift = above[last] / (last + 1)
    nearest: Tensor = (v - shift).clamp_min(0)
    return nearest


def directed_loss(net: Net, w: Tensor, batch: Batch, given: Given) -> Tensor:
    """(n,): cross-entropy, less lam <w, c> / |w| over the parameters."""
    direction = given["direction"]
    parameters = w[: len(direction)]
    along: Tensor = (parameters @ direction) / parameters.norm()
    losses = F.cross_entropy(net(w, batch.x), batch.y, reduction="none")
    return losses - given["lam"] * along
