"""FedSoft: several cluster centres, and personal models that are pulled to all of them by how well they fit.

Y. Ruan, C. Joe-Wong. "FedSoft: Soft Clustered Federated Learning with Proximal Local Updating." AAAI 2022.
arXiv:2112.06053

    (estimate)  u_ks = max(share of k's samples of which centre s has the lowest loss, sigma)      every `every` rounds
    (select)    for each centre K clients, without replacement, with probabilities v_ks ~ u_ks n_k
    (client)    w_k <- SGD(F_k + lam/2 sum_s u_ks |w - c_s|^2)                                     from its own w_k
    (server)    c_s <- 1/K sum_{k selected for s} w_k

A round has two exchanges where importances are estimated: with all clients, and then with those that were selected. K
is the number of clients that the run samples in a round.

Differs from the paper: the run's local SGD, where theirs is Adam; sigma = 1e-4 takes the place of zeros, as in the
authors' code. A client that is selected for several centres trains once. The pull to all centres is one pull to their
mean by u.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.hyper import hyper
from fltk.partition.federation import ClientData, Split
from fltk.protocol.averaging import CLUSTERS, equal_weights
from fltk.protocol.map import Map, pull_strength, pulled_map
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer

SIGMA = 1e-4


@dataclass(frozen=True)
class FedSoft(Method):
    """Soft clusters of personal models."""

    title: ClassVar[str] = "personal models pulled to several centres by how well these fit"
    printed: ClassVar[str] = "personal"
    map_kind: ClassVar[str] = "pull"
    averages: ClassVar[str] = CLUSTERS

    clusters: int = hyper(2, "number of centres", low=1)
    lam: float = hyper(0.1, "strength of the pull to the centres", low=0)
    every: int = hyper(1, "rounds from one estimate of the importances to the next", low=1)

    def check(self, task: Task) -> None:
        task.need_labels("fedsoft")

    def init(self, task: Task) -> State:
        n, size = task.n_clients, len(task.w0)
        centres = [task.fresh("fedsoft", s) for s in range(self.clusters)]  # equal centres would never part
        return State(
            server={
                "centres": torch.stack(centres),
                "rows": torch.zeros(self.clusters, n, dtype=torch.float64),
                "estimating": torch.tensor(True),
            },
            client={
                "w": task.w0.expand(n, size).clone(),
                "u": torch.full((n, self.clusters), 1 / self.clusters, dtype=torch.float64),
                "pulled": torch.zeros(n, dtype=torch.float64),
            },
            last=torch.full((n,), -1),
        )

    def participants(self, state: State, sampled: Sequence[int], server: Server) -> Sequence[int] | None:
        """All clients where importances are due; then those that some centre has selected."""
        due = server.round % self.every == 0
        if due and server.step == 0:
            return range(server.task.n_clients)
        if server.step > int(due):
            return None
        chosen = self._selected(state, server)
        return sorted({client for clients in chosen for client in clients})

    def _selected(self, state: State, server: Server) -> list[list[int]]:
        """The clients that each centre has selected in this round, ascending."""
        n = server.task.n_clients
        count = min(n, max(1, math.floor(server.trainer.config.participation * n + 0.5)))
        mass = state.client["u"] * server.task.n[:, None]
        chosen = []
        for s in range(self.clusters):
            generator = server.trainer.streams.generator("fedsoft", server.round, s)
            drawn = torch.multinomial(mass[:, s], count, generator=generator)
            chosen.append(sorted(drawn.tolist()))
        return chosen

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        centres = {name: state.server[name] for name in ("centres", "estimating")}
        downs = super().downlink(replace(state, server={"w": state.server["centres"][0, :0]}), ids, task)
        return [replace(down, server=centres) for down in downs]

    def references(self, state: State, downs: Sequence[Down], uploads: Sequence[Upload], task: Task) -> list[Tensor]:
        return [state.client["w"][u.client] for u in uploads]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        centres = down.server["centres"]
        if bool(down.server["estimating"]):
            u = importances(centres, client.train, trainer)
            return Upload(centres[0, :0], sent={"u": u}, own={"u": u})
        own = self._personal(down.own["w"], centres, down.own["u"], client, trainer)
        return Upload(own["w"], own=own)

    def _personal(
        self, w: Tensor, centres: Tensor, u: Tensor, client: ClientData, trainer: Trainer
    ) -> dict[str, Tensor]:
        """What a client keeps after its training: w_k, and how strongly it was pulled."""
        lam = self.lam * float(u.sum())
        target = mixed(u, centres)
        return {
            "w": trainer.sgd(w, client.train, pull=(target, lam)),
            "pulled": pull_strength(trainer, len(client.train), lam),
        }

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        if bool(state.server["estimating"]):
            heard = self.next_state(state, uploads, server, {"estimating": torch.tensor(False)})
            return replace(heard, last=state.last)  # no client has trained yet

        centres, rows = state.server["centres"].clone(), state.server["rows"].clone()
        for s, clients in enumerate(self._selected(state, server)):
            members = [u for u in uploads if u.client in clients]
            ids = [u.client for u in members]
            if not ids:
                continue
            model, p = server.average([u.w for u in members], equal_weights(len(ids)), ids, centres[s], f"model{s}")
            if bool(p.any()):
                centres[s], rows[s] = model, 0.0
                rows[s, ids] = p
        due = (server.round + 1) % self.every == 0
        changed = {"centres": centres, "rows": rows, "estimating": torch.tensor(due)}
        return self.next_state(state, uploads, server, changed)

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        return [state.client["w"][i] for i in ids]

    def global_model(self, state: State, task: Task) -> Tensor | None:
        return None

    def mixing(self, state: State, task: Task) -> Map | None:
        """Own models, drawn to the centres by u; a centre that was never averaged holds no client's model."""
        if not bool(state.server["rows"].any()):
            return None
        u = state.client["u"]
        target = (u / u.sum(1, keepdim=True)) @ state.server["rows"]
        missing = 1 - target.sum(1)
        target = target + torch.diag(missing.clamp_min(0))
        return self.layered(pulled_map(state.client["pulled"], target), task)

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer estimates its importances, starts from the centres' mean by these, and trains like the others."""
        centres = state.server["centres"]
        u = importances(centres, client.train, trainer)
        start = mixed(u, centres)
        own = {**self._personal(start, centres, u, client, trainer), "u": u}
        row = (u / u.sum()) @ state.server["rows"]
        return Joined(
            arrival=centres.double().mean(0).float(),
            model=own["w"],
            own=own,
            row=row / row.sum() if bool(row.any()) else None,
            down=4 * centres.numel(),
        )


def importances(centres: Tensor, data: Split, trainer: Trainer) -> Tensor:
    """u (S,) float64: the share of samples of which each centre (S, P) has the lowest loss, at least sigma."""
    losses = []
    for w in centres:
        log_p = trainer.outputs(w, data.x).log_softmax(1)
        losses.append(-log_p[torch.arange(len(data)), data.y])
    best = torch.stack(losses).argmin(0)
    shares = torch.bincount(best, minlength=len(centres)).double() / len(data)
    return shares.clamp_min(SIGMA)


def mixed(u: Tensor, centres: Tensor) -> Tensor:
    """The centres' mean by u: (S,), (S, P) -> (P,)."""
    return ((u / u.sum()) @ centres.double()).float()
