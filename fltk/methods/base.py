"""What a method is: a frozen dataclass of hyper-parameters with pure functions of state.

`Method` answers every question the way FedAvg does; a method overrides what differs. A round is

    downlink (server)  ->  local_update (each client, written for one)  ->  aggregate (server)

Clients are rows: a model is a flat vector (P,), a cohort a matrix (K, P). N is the number of clients of the
run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.data.federation import ClientData
from fltk.defences.base import ONE, weighted_sum
from fltk.defences.guard import PREFIX, Watch, grown
from fltk.hyper import hyper as hyper
from fltk.methods.class_head import ClassHead
from fltk.methods.rows import average, common_rows, enlarged, equal_weights, renewed
from fltk.models.layout import Layout
from fltk.train.trainer import Trainer
from fltk.undo import Undo


@dataclass(frozen=True)
class Task:
    """What a method knows of the federation before the first round."""

    layout: Layout
    w0: Tensor  # (P,) the common initial model
    n: Tensor  # (N,) int64, training samples
    n_val: Tensor  # (N,) int64, validation samples
    label_counts: Tensor  # (N, C) int64, training samples per class
    groups: Tensor | None  # (N,) int64, the true groups where the partition has them
    uniform: bool  # clients weigh equally instead of by samples
    fresh: Callable[[str, int], Tensor]  # (purpose, index) -> another independent initial model (P,)
    seed: Callable[[str], int]  # (purpose) -> seed of a stream that is no client's
    plain_sgd: bool = True  # local SGD has neither momentum nor weight decay
    class_head: ClassHead | None = None  # averages of the shared output layer have weights per class

    @property
    def n_clients(self) -> int:
        return len(self.n)

    def weights(self, ids: Sequence[int]) -> Tensor:
        """FedAvg's weights p of the clients `ids`, (K,) float64, summing to 1."""
        n = torch.ones(len(ids), dtype=torch.float64) if self.uniform else self.n[list(ids)].double()
        return n / n.sum()


@dataclass(frozen=True)
class State:
    """All that survives a round, and therefore the checkpoint: tensors only, never changed in place.

    server: what the server holds.  client: one row per client, (N, ...), kept by the client or about it.
    last: (N,) the last round in which a client took part, -1 for never.
    """

    server: Mapping[str, Tensor]
    client: Mapping[str, Tensor]
    last: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Flat names for storage."""
        named = {f"server.{k}": v for k, v in self.server.items()} | {f"client.{k}": v for k, v in self.client.items()}
        return named | {"last": self.last}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> State:
        """The inverse of `tensors`."""

        def group(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        return State(group("server."), group("client."), tensors["last"])


@dataclass(frozen=True)
class Down:
    """What one client trains from: `w` (P,), further tensors from the server, and what the client kept.

    Where clients keep columns of the model to themselves (`own["private"]`), `w` may come without them; when
    `local_update` is called they are in it.
    """

    w: Tensor
    server: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    first: bool = False  # this client has never taken part before

    def whole(self, layout: Layout, shared: str) -> Down:
        """The same with all columns in `w`, of which only the part `shared` came."""
        if self.w.shape[0] == layout.size:
            return self
        return replace(self, w=layout.join(shared, self.w, self.own["private"]))

    def sent(self, layout: Layout, shared: str) -> Tensor:
        """The columns of the part `shared`."""
        return layout.take(self.w, shared) if self.w.shape[0] == layout.size else self.w


@dataclass(frozen=True)
class Upload:
    """What one client's round produced: the trained row, tensors for the server, and what the client keeps.

    `local_update` returns the whole row (P,); the engine cuts it, so that `aggregate` sees the shared columns
    only and the private ones travel no further than `own`.
    """

    w: Tensor
    sent: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    client: int = -1
    ballot: Tensor | None = None  # (2, 8) the client's vote on the own step, where the round asked for one


@dataclass(frozen=True)
class Sums:
    """What has become of uploads that were added up as they came, for a method that wants no more of them."""

    totals: Mapping[str, Tensor]  # weighted sums of the models (`w`) and of what else was sent, by name
    kept: Mapping[str, Tensor]  # what clients keep, of all of them, with this round's rows in it


@dataclass(frozen=True)
class Context:
    """The round as the server sees it. Methods average models through it, never on their own.

    watch: the defence of this round, which judged the uploads before the method saw them; None without one.
    sums: of a round in which uploads were added up as they came, what is left of them.
    undo: what `Method.prepared` was given.
    """

    round: int
    task: Task
    watch: Watch | None = None
    sums: Sums | None = None
    undo: Undo | None = None

    def weights(self, ids: Sequence[int]) -> Tensor:
        """Weights p of the clients `ids` in one average, (K,) float64: FedAvg's, or equal ones for a rule of such."""
        if self.watch is not None and self.watch.guard.equal:
            return equal_weights(len(ids))
        return self.task.weights(ids)

    def trust(self, ids: Sequence[int]) -> Tensor:
        """How far the clients `ids` are trusted, (K,) float64 in [0, 1]."""
        return torch.ones(len(ids), dtype=torch.float64) if self.watch is None else self.watch.trust[list(ids)]

    def combine(
        self, rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int], origin: Tensor, target: str = "w"
    ) -> tuple[Tensor, Tensor]:
        """One target's model, and the weights (K,) with which clients really entered it.

        The shared columns `rows` (K, P) of the clients `ids`, weighted by `weights` (K,); `origin` (P,) is the model
        that the target has now, which stays where nobody is trusted (weights 0). `target` is a lasting name of the
        model. For models only, once per distinct target; what else clients send is summed by `weighted_sum`.
        """
        if self.sums is not None:
            return self.sums.totals["w"], weights
        if self.watch is None:
            return average(rows, weights, ids, self.task.class_head), weights
        return self.watch.combine(rows, weights, ids, origin, target, self._mean)

    def total(self, name: str, uploads: Sequence[Upload], weights: Tensor) -> Tensor:
        """The weighted sum of what all uploads have sent beside their models under a name."""
        return weighted_sum([u.sent[name] for u in uploads], weights) if self.sums is None else self.sums.totals[name]

    def _mean(self, rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int]) -> Tensor:
        return average(rows, weights, ids, self.task.class_head)


@dataclass(frozen=True)
class Map:
    """The effective collaboration map: row i holds the weights of the clients' last models in i's next start.

    kind: `exact` (map @ models is the start model), `direction` (up to a server step), `pull` (the client
    keeps its model and is drawn to the mix), `proxy` (a similarity; never used for numbers). A class head
    (`--head-mix classes`) has further weights per class, made from these; they are not shown. Rows sum to 1, or less
    under a defence that clips: what is missing stayed with the target's own model.
    """

    kind: str
    slices: Mapping[str, Tensor]  # part of the model -> (N, N), no entry below 0, rows that sum to 1 at most
    layout: Layout

    def whole(self) -> Tensor:
        """(N, N): the mean of the slices, weighted by their numbers of parameters."""
        total = sum(self.layout.width(part) for part in self.slices)
        rows = [m.double() * (self.layout.width(part) / total) for part, m in self.slices.items()]
        return torch.stack(rows).sum(0)


@dataclass(frozen=True)
class Cost:
    """Bytes on the wire per participating client and round."""

    down: int
    up: int


@dataclass(frozen=True)
class Joined:
    """How a client that has never taken part comes to its first model.

    arrival: (P,) what it downloads before it has used any of its own data.  model: (P,) after the method's own
    joining step, the arrival model where a method has none.  own: what the client would keep, as in `Upload`.
    row: (N,) float64, weights of the trained clients' last models in the mix that `model` is, holds or was trained
    from; they sum to 1 but where a defence clips, see `Map`. None where there is no such mix.  self_weight: weight of
    the newcomer's own trained model beside it, u = self_weight w_* + (1 - self_weight) sum_j row_j w_j.  down, up:
    bytes on the wire.  note: one line where the rule had to fall back.
    """

    arrival: Tensor
    model: Tensor
    own: Mapping[str, Tensor] = field(default_factory=dict)
    row: Tensor | None = None
    self_weight: float = 0.0
    down: int = 0
    up: int = 0
    note: str = ""


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
    def shared(self) -> str:
        """The part of the model that travels (a part name of `Layout`); the rest stays on the client."""
        return "all"

    @classmethod
    def adds_up(cls) -> bool:
        """Whether `aggregate` wants nothing of the uploads but `Context.combine` and `total` over all of them.

        Both have to have the same weights: FedAvg's, or equal ones for a method that is `equal`.
        """
        owner = next(c for c in cls.__mro__ if "aggregate" in vars(c))
        return bool(vars(owner).get("additive", False))

    def check(self, task: Task) -> None:
        """Refuse, with the option's name, a federation or training set-up that this method cannot handle."""

    def init(self, task: Task) -> State:
        """The state before the first round: everybody holds the common initial model."""
        layout = task.layout
        private = layout.take(task.w0, layout.rest(self.shared))
        client = {"private": private.repeat(task.n_clients, 1)} if private.numel() else {}
        return State(
            server={"w": layout.take(task.w0, self.shared).clone()},
            client=client,
            last=torch.full((task.n_clients,), -1),
        )

    def prepared(self, state: State, ids: Sequence[int], task: Task, undo: Undo) -> State:
        """The state as a round of the clients `ids` begins with it, if nobody looks at what came before: no threats.

        Of a very large state a method may have `undo` keep the rows (N, P) that uploads will replace. Then their place
        is free for what is made of them to be sent down, and behind that for the uploads.
        """
        return state

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
        if "private" not in state.client:
            return shared
        return task.layout.join(self.shared, shared, state.client["private"][i])

    def references(self, state: State, downs: Sequence[Down], uploads: Sequence[Upload], task: Task) -> list[Tensor]:
        """The shared columns from which each upload's local training started, as the server knows it."""
        return [down.sent(task.layout, self.shared) for down in downs]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        """One client's round: pure in what came down, the client's data and its own random streams."""
        return Upload(trainer.sgd(down.w, client.train))

    def aggregate(self, state: State, uploads: Sequence[Upload], ctx: Context) -> State:
        """The next state from the uploads, which come in client-id order."""
        ids = [u.client for u in uploads]
        w, p = ctx.combine([u.w for u in uploads], ctx.weights(ids), ids, state.server["w"])
        return self.keep(state, uploads, ctx, server={"w": w, "p": spread(p, uploads, ctx.task)})

    def missed(self, state: State, round: int) -> State:
        """The next state after a round of which no upload is left; for a method that counts rounds."""
        return state

    def keep(self, state: State, uploads: Sequence[Upload], ctx: Context, server: Mapping[str, Tensor]) -> State:
        """The next state: `server` tensors replaced, and what the participants keep put into their rows."""
        client = dict(state.client)
        for name in {k for u in uploads for k in u.own}:
            client[name] = renewed(client[name], {u.client: u.own[name] for u in uploads if name in u.own})
        client |= {} if ctx.sums is None else ctx.sums.kept
        last = state.last.clone()
        last[[u.client for u in uploads]] = ctx.round
        return replace(state, server={**state.server, **server}, client=client, last=last)

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
        layout = task.layout
        arrival = layout.join(self.shared, state.server["w"], layout.take(task.w0, layout.rest(self.shared)))
        p = state.server.get("p")
        return Joined(
            arrival,
            self.personalise(arrival, client, trainer),
            row=p if p is not None and bool(p.any()) else None,
            down=4 * layout.width(self.shared),
        )

    def admit(self, state: State, joined: Sequence[Joined], task: Task) -> State:
        """The state of the larger federation `task` that the clients behind `joined` have entered, as its last rows.

        Every tensor keeps its values in its leading block; the rest is as `init` makes it, and what newcomers keep
        (`own`, and the private columns of their models) stands in their rows. Tensors that `init` does not know
        are filled with zeros, and each of their dimensions of N clients grows. A defence's grow by `guard.grown`.
        """
        n, new = len(state.last), self.init(task)
        own = {k: old for k, old in state.server.items() if not k.startswith(PREFIX)}
        server = {k: enlarged(old, new.server.get(k), n, task.n_clients) for k, old in own.items()}
        server |= grown(state.server, n, task.n_clients)
        client = {k: enlarged(old, new.client.get(k), n, task.n_clients).clone() for k, old in state.client.items()}
        for i, one in enumerate(joined, start=n):
            private = {"private": task.layout.take(one.model, task.layout.rest(self.shared))}
            for name, value in {**private, **one.own}.items():
                if name in client:
                    client[name][i] = value
        return State(server, client, enlarged(state.last, new.last, n, task.n_clients))

    def global_model(self, state: State, task: Task) -> Tensor | None:
        """The one server model (P,), where there is one."""
        return state.server["w"] if self.shared == "all" else None

    def mixing(self, state: State, task: Task) -> Map | None:
        """The effective collaboration map of the last round, or None before it."""
        return None if "p" not in state.server else self.layered(common_rows(state.server["p"]), task)

    def layered(self, shared: Tensor, task: Task) -> Map:
        """A map that is `shared` (N, N) on the shared part and the identity on the private one."""
        parts = {self.shared: shared, task.layout.rest(self.shared): torch.eye(task.n_clients)}
        return Map(self.map_kind, {k: v for k, v in parts.items() if task.layout.width(k)}, task.layout)

    def tokens(self, state: State, task: Task) -> Tensor:
        """What places clients among each other, (N, d): how far their models have come from theta^0, to look at."""
        return torch.stack(self.personal_model(state, range(task.n_clients), task)) - task.w0

    def diagnostics(self, state: State, task: Task) -> dict[str, float]:
        """Further numbers of the last round, for the registry."""
        return {}

    def client_diagnostics(self, state: State, task: Task) -> dict[str, Tensor]:
        """Further numbers of every client, (N,) each, NaN for no value. `cluster` says in which one a client is."""
        return {}

    def cost(self, layout: Layout) -> Cost:
        """Bytes per participant and round, float32."""
        size = 4 * layout.width(self.shared)
        return Cost(size, size)

    def first_cost(self, layout: Layout) -> Cost:
        """Bytes that a client's first round takes in addition."""
        return Cost(0, 0)


def spread(p: Tensor, uploads: Sequence[Upload], task: Task) -> Tensor:
    """Participants' weights (K,) as a row over all clients (N,) float64, zero for the absent."""
    row = torch.zeros(task.n_clients, dtype=torch.float64)
    row[[u.client for u in uploads]] = p
    return row


def pull_strength(trainer: Trainer, n: int, lam: float, epochs: float | None = None) -> Tensor:
    """s = 1 - (1 - min(1, eta lam))^steps: how far the pull alone moves a model to its target a round."""
    return torch.tensor(1 - (1 - min(1.0, trainer.lr * lam)) ** trainer.steps(n, epochs), dtype=torch.float64)


def pulled_map(strength: Tensor, target: Tensor) -> Tensor:
    """diag(1 - s) + diag(s) T: own models (N,), drawn to the rows of T (N, N)."""
    return torch.diag(1 - strength) + strength[:, None] * target
