"""What a method is: a frozen dataclass of hyper-parameters with pure functions of state.

`Method` answers every question the way FedAvg does; a method overrides what differs. A round is

    downlink (server)  ->  local_update (each client, written for one)  ->  aggregate (server)

Clients are rows: a model is a flat vector (P,), a cohort a matrix (K, P). N is the number of clients of the
run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fltk.errors import FltkError
from fltk.memory.shared import renewed
from fltk.models.parts import Columns
from fltk.protocol.averaging import ONE, common_rows
from fltk.protocol.map import Map, spread
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.state import State, enlarged
from fltk.protocol.verdict import PREFIX, grown

if TYPE_CHECKING:
    from fltk.memory.undo import Undo
    from fltk.partition.federation import ClientData
    from fltk.protocol.server import Server
    from fltk.protocol.server_optimiser import ServerOptimiser
    from fltk.protocol.task import Task
    from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class Method:
    """FedAvg's answers. Fields of a subclass are its hyper-parameters."""

    title: ClassVar[str] = ""
    map_kind: ClassVar[str] = "exact"
    averages: ClassVar[str] = ONE  # what a defence has to do with: ONE global model, models of CLUSTERS, MIXED rows
    equal: ClassVar[bool] = False  # its averages weigh participants equally
    additive: ClassVar[bool] = True  # see `adds_up`; to be told again beside every `aggregate`
    server_step: ClassVar[float] = 1.0  # how far the server goes towards an average
    on_guard: ClassVar[Mapping[str, object]] = {}  # settings of its own where malicious clients are expected
    continues: ClassVar[bool] = False  # clients go on with their own model: what is sent down is what they sent up
    also_sent: ClassVar[Mapping[str, str]] = {}  # further models in `Upload.sent` -> the `Down.server` they start from
    beside: ClassVar[str] = ""  # what clients send beside models that depends on their data
    needs_groups: ClassVar[bool] = False
    printed: ClassVar[str] = "mixed"  # what a client uses: mixed by the server, tuned from that, or personal (its own)
    votes: ClassVar[bool] = False  # the own step is voted on unless --own-step says otherwise
    cannot: ClassVar[Mapping[str, str]] = {}  # ability (join) -> why the method does not have it

    @property
    def columns(self) -> Columns:
        """Which columns of the model travel, which stay on the client, and which are frozen."""
        return Columns()

    @classmethod
    def adds_up(cls) -> bool:
        """Whether `aggregate` wants nothing of the uploads but `Server.average` and `total` over all of them.

        Both have to have the same weights: FedAvg's, or equal ones for a method that is `equal`.
        """
        owner = next(c for c in cls.__mro__ if "aggregate" in vars(c))
        return bool(vars(owner).get("additive", False))

    @property
    def server_optimiser(self) -> ServerOptimiser | None:
        """The server optimiser that is part of the method; None where `--server-opt` decides."""
        return None

    def network(self, base: Callable[[], nn.Module]) -> nn.Module:
        """The network that clients train, without weights; `base` makes the one that the run asks for."""
        return base()

    def check(self, task: Task) -> None:
        """Refuse, with the option's name, a federation or training set-up that this method cannot handle."""

    def init(self, task: Task) -> State:
        """The state before the first round: everybody holds the common initial model."""
        layout = task.layout
        private = layout.take(task.w0, self.columns.private)
        client = {"private": private.repeat(task.n_clients, 1)} if private.numel() else {}
        if task.starts:  # networks differ, and nothing travels: a row is as long as the largest network
            client["private"] = torch.stack([padded(start, layout.size) for start in task.starts[: task.n_clients]])
        return State(
            server={"w": layout.take(task.w0, self.columns.travels).clone()},
            client=client,
            last=torch.full((task.n_clients,), -1),
        )

    def prepared(self, state: State, ids: Sequence[int], task: Task, undo: Undo) -> State:
        """The state as a round of the clients `ids` begins with it, if nobody looks at what came before: no threats.

        Of a very large state a method may have `undo` keep the rows (N, P) that uploads will replace. Then their place
        is free for what is made of them to be sent down, and behind that for the uploads.
        """
        return state

    def participants(self, state: State, sampled: Sequence[int], server: Server) -> Sequence[int] | None:
        """The clients of exchange number `server.step` of a round, ascending; None where the round has no more.

        sampled: the clients that were sampled in this round.  state: as the exchange before has left it.  Default: one
        exchange, with all that were sampled.
        """
        return sampled if server.step == 0 else None

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        """What each client of `ids` trains from."""
        return [
            Down(
                w=state.server["w"],
                own={k: rows[i] for k, rows in state.client.items()},
                first=bool(state.last[i] < 0),
            )
            for i in ids
        ]

    def start(self, shared: Tensor, state: State, i: int, task: Task) -> Tensor:
        """A whole model (P,) from shared columns and the private ones of client i."""
        private = state.client["private"][i] if "private" in state.client else shared[:0]
        if task.starts:
            return private[: len(task.starts[i])]
        return task.whole(self.columns, shared, private)

    def references(self, state: State, downs: Sequence[Down], uploads: Sequence[Upload], task: Task) -> list[Tensor]:
        """The shared columns from which each upload's local training started, as the server knows it."""
        return [down.sent(task.layout, self.columns) for down in downs]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        """One client's round: pure in what came down, the client's data and its own random streams."""
        return Upload(trainer.sgd(down.w, client.train))

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        """The next state from the uploads, which come in client-id order."""
        ids = [u.client for u in uploads]
        w, p = server.average([u.w for u in uploads], server.weights(ids), ids, state.server["w"])
        return self.next_state(state, uploads, server, {"w": w, "p": spread(p, uploads, server.task)})

    def finish(self, state: State, server: Server) -> State:
        """The state after the last round, for a method that has something left to do with it. Default: as it is."""
        return state

    def on_empty_round(self, state: State, round: int) -> State:
        """The next state after a round of which no upload is left; for a method that counts rounds."""
        return state

    def next_state(
        self, state: State, uploads: Sequence[Upload], server: Server, changed: Mapping[str, Tensor]
    ) -> State:
        """The next state: the `changed` tensors of the server, and what the participants keep put into their rows."""
        client = dict(state.client)
        for name in sorted({name for u in uploads for name in u.own}):
            if name not in client:
                own = type(self).__name__
                raise FltkError(f"{own}.local_update keeps {name!r}, which {own}.init has not made for the clients")
            client[name] = renewed(client[name], {u.client: u.own[name] for u in uploads if name in u.own})
        client |= {} if server.sums is None else server.sums.kept
        last = state.last.clone()
        last[[u.client for u in uploads]] = server.round
        return replace(state, server={**state.server, **changed}, client=client, last=last)

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        """The models (P,) that the clients `ids` would use now, before any further local step."""
        return [self.start(state.server["w"], state, i, task) for i in ids]

    def personalise(self, w: Tensor, client: ClientData, trainer: Trainer) -> Tensor:
        """A client's last step before it uses its model; never fed back. Default: none."""
        return w

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """The first model of a client that nobody has seen, from the state alone; the state is left alone.

        `trainer` stands at the client's id (behind the N trained ones) and at the first round, whose learning rate it
        has: a newcomer has not trained yet. Default: the shared part with a fresh private one, then the method's own
        last step.
        """
        columns = self.columns
        if task.starts:
            arrival = task.starts[client.id]
        else:
            arrival = task.whole(columns, state.server["w"], task.layout.take(task.w0, columns.private))
        p = state.server.get("p")
        return Joined(
            arrival,
            self.personalise(arrival, client, trainer),
            row=p if p is not None and bool(p.any()) else None,
            down=4 * task.layout.width(columns.travels),
        )

    def add_clients(self, state: State, joined: Sequence[Joined], task: Task) -> State:
        """The state of the larger federation `task` that the clients behind `joined` have entered, as its last rows.

        Every tensor keeps its values in its leading block; the rest is as `init` makes it, and what newcomers keep
        (`own`, and the private columns of their models) stands in their rows. Tensors that `init` does not know
        are filled with zeros, and each of their dimensions of N clients grows. A defence's grow by `verdict.grown`.
        """
        n, new = len(state.last), self.init(task)
        own = {k: old for k, old in state.server.items() if not k.startswith(PREFIX)}
        server = {k: enlarged(old, new.server.get(k), n, task.n_clients) for k, old in own.items()}
        server |= grown(state.server, n, task.n_clients)
        client = {k: enlarged(old, new.client.get(k), n, task.n_clients).clone() for k, old in state.client.items()}
        for i, one in enumerate(joined, start=n):
            model = padded(one.model, task.layout.size)
            private = {"private": task.layout.take(model, self.columns.private)}
            for name, value in {**private, **one.own}.items():
                if name in client:
                    client[name][i] = value
        return State(server, client, enlarged(state.last, new.last, n, task.n_clients))

    def global_model(self, state: State, task: Task) -> Tensor | None:
        """The one server model (P,), where there is one."""
        everything = task.layout.width(self.columns.travels) == task.layout.size
        return state.server["w"] if everything else None

    def mixing(self, state: State, task: Task) -> Map | None:
        """The effective collaboration map of the last round, or None before it."""
        return None if "p" not in state.server else self.layered(common_rows(state.server["p"]), task)

    def layered(self, shared: Tensor, task: Task) -> Map:
        """A map that is `shared` (N, N) on the columns that travel and the identity on all others."""
        own, columns = torch.eye(task.n_clients), self.columns
        parts: dict[str, Tensor] = {columns.travels: shared, columns.private: own, columns.frozen: own}
        return Map.of(self.map_kind, parts, task.layout)

    def tokens(self, state: State, task: Task) -> Tensor:
        """What places clients among each other, (N, d): how far their models have come from theta^0, to look at."""
        return torch.stack(self.personal_model(state, range(task.n_clients), task)) - task.w0

    def diagnostics(self, state: State, task: Task) -> dict[str, float]:
        """Further numbers of the last round, for the registry."""
        return {}

    def client_diagnostics(self, state: State, task: Task) -> dict[str, Tensor]:
        """Further numbers of every client, (N,) each, NaN for no value. `cluster` says in which one a client is."""
        return {}


def padded(row: Tensor, size: int) -> Tensor:
    """A model (P_i,) with zeros behind it, (size,): rows of networks that differ have one length."""
    return nn.functional.pad(row, (0, size - len(row)))
