"""What FedAMP and its heuristic variant share: personal models, each pulled towards a mixture of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attention.bank import of_clients
from fltk.hyper import hyper
from fltk.memory.shared import renewed
from fltk.memory.undo import Undo
from fltk.methods.layerwise import defended
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import MIXED, average, by_trust
from fltk.protocol.map import Map, pull_strength, pulled_map
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.mixing import mix
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.protocol.verdict import rows_left, trust_left
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class FedAMPFamily(Method):
    """Clients keep their own models w_i and are pulled towards u_i = sum_j xi_ij w_j.

    A subclass says what `attention` is. Row i of xi is one-hot for a client that has no model yet.
    """

    map_kind: ClassVar[str] = "pull"
    averages: ClassVar[str] = MIXED
    continues: ClassVar[bool] = True

    prox: float = hyper(1.0, "strength of the pull towards the mixture", low=0)

    def attention(self, rows: Tensor, task: Task) -> Tensor:
        """xi among clients with a model: (K, P) -> (K, K) float64, rows on the simplex. Here: self only."""
        return torch.eye(len(rows), dtype=torch.float64)

    def init(self, task: Task) -> State:
        eye = torch.eye(task.n_clients, dtype=torch.float64)
        rows = {
            "w": task.w0.repeat(task.n_clients, 1),
            "pulled": torch.zeros(task.n_clients, dtype=torch.float64),
        }
        return State(server={"xi": eye}, client=rows, last=torch.full((task.n_clients,), -1))

    def prepared(self, state: State, ids: Sequence[int], task: Task, undo: Undo) -> State:
        """In a large federation of which all take part uploads take the place of the models before."""
        undo.keep(state.client["w"], len(ids))
        return state

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        w = state.client["w"]
        u = self._targets(state, task)
        return [Down(w[i], server={"u": u[i]}, first=bool(state.last[i] < 0)) for i in ids]

    def _targets(self, state: State, task: Task) -> Tensor:
        """u_i of everybody, (N, P)."""
        found = state.client.get("mixed")
        return mix(state.server["xi"], state.client["w"], task.class_head) if found is None else found

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        pull = None if down.first else (down.server["u"], self.prox)
        pulled = pull_strength(trainer, len(client.train), self.prox)
        return Upload(trainer.sgd(down.w, client.train, pull=pull), own={"pulled": pulled})

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        w = renewed(state.client["w"], {u.client: u.w for u in uploads})
        before = state
        state = self.next_state(state, uploads, server, {})
        known = torch.nonzero(state.last >= 0).flatten()
        xi = torch.eye(server.task.n_clients, dtype=torch.float64)
        xi[known[:, None], known] = self.attention(of_clients(w, known), server.task)
        xi = server.map_to_apply(xi, known)
        if server.watch is not None:
            server.watch.remember([u.client for u in uploads], server.watch.clipped)
        whole = ((0, w.shape[1]),)
        got = defended(xi[None], w, (whole,), server, lambda: list(self._targets(before, server.task)))
        client = {**state.client, "w": w} | ({} if got.rows is None else {"mixed": got.rows})
        return State({**state.server, "xi": got.maps[0]}, client, state.last)

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        return [state.client["w"][i] for i in ids]

    def global_model(self, state: State, task: Task) -> Tensor | None:
        return None

    def mixing(self, state: State, task: Task) -> Map | None:
        if not bool((state.last >= 0).any()):
            return None
        return self.layered(pulled_map(state.client["pulled"], state.server["xi"]), task)

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer trains one round from theta^0, uploads w_*, and receives u_* by its own row of xi.

        On arrival: the mean of the models that there are, weighted as FedAvg weighs clients. Whom a defence did not
        trust is trusted as little by newcomers.
        """
        known = torch.nonzero(state.last >= 0).flatten()
        trust = trust_left(state.server, task.n_clients)[known]
        rows = rows_left(state.server, state.client["w"])[known]
        ids = [*known.tolist(), task.n_clients]
        head = None if task.class_head is None else task.class_head.with_client(client.train.y)
        w = trainer.sgd(task.w0, client.train)
        everyone = torch.cat([rows, w[None]])
        xi = by_trust(self.attention(everyone, task)[-1], torch.cat([trust, trust.new_ones(1)]))
        u = average(list(everyone), xi, ids, head)
        others = torch.zeros(task.n_clients, dtype=torch.float64)
        others[known] = xi[:-1]
        mass = float(others.sum())
        p = by_trust(task.weights(ids[:-1]), trust)
        return Joined(
            arrival=average(list(rows), p, ids[:-1], task.class_head) if bool(p.any()) else task.w0,
            model=u,
            own={"w": u, "mixed": u},
            row=others / mass if mass > 0 else None,
            self_weight=float(xi[-1]),
            down=4 * task.layout.size,
            up=4 * task.layout.size,
            note="" if mass > 0 else "no client is near: its own model",
        )
