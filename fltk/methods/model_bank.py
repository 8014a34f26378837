"""What attention needs around it: a server that keeps everybody's last upload and mixes them by maps of its own.

    u_i = sum_j A_ij theta_j, part by part         theta_j the last upload of client j, absent ones included

The parts are the shared columns as a whole or the layers. A client starts from u_i; in the first round in which it
takes part, from theta^0, because mixing destroys the evidence that maps from models rest on. Uploads that are not
finite or far out of range are screened before any product touches them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fltk.attention import Attention
from fltk.attention.bank import followed, judged, layer_columns, of_clients, screen, shortened
from fltk.hyper import hyper
from fltk.memory.shared import MOST, renewed
from fltk.memory.undo import Undo
from fltk.methods.heads import trained_offset, with_offset
from fltk.methods.layerwise import defended, mix_parts
from fltk.models.layout import Ranges
from fltk.models.parts import BASE, HEAD, Columns
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import MIXED
from fltk.protocol.class_head import ClassHead
from fltk.protocol.map import Map, spread
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.mixing import TOGETHER
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.protocol.verdict import rows_left
from fltk.train.trainer import Trainer

UPDATES = ("update", "begun", "secant")  # followed only where a subclass keeps rows of these names
WRITTEN = ("bank", *UPDATES, "birth")  # rows about clients that the server writes


@dataclass(frozen=True)
class ModelBank(Method):
    """A subclass says who learns from whom (`attention`) and which further rows are kept (`kept`)."""

    averages: ClassVar[str] = MIXED

    scope: str = hyper("model", "one map for the whole model, or one per layer", choices=("model", "layer"))
    head: str = hyper(
        "shared",
        "the head is mixed like the rest, stays local, or both with summed logits",
        choices=("shared", "local", "both"),
    )
    step: float = hyper(1.0, "server step s: 0 is local training", low=0, high=1)
    mu: float = hyper(0.0, "pull of local training towards the start model", low=0)
    max_age: int = hyper(20, "bank entries older than this many rounds are not attended to", low=0)
    trust: str = hyper("off", "weigh clients by the company of their updates", choices=("off", "on"))
    clip: float | None = hyper(None, "shorten updates to this many median norms", low=0)

    def attention(self, state: State, known: Tensor, keys: Tensor, part: str, server: Server) -> Attention:
        """The map of one part over the clients `known` (K,), of whom `keys` (K,) bool may be attended to by others."""
        own = torch.eye(len(known), dtype=torch.float64)
        return Attention(own, own, torch.zeros(len(known)), torch.zeros(len(known), dtype=torch.bool))

    def kept(self, task: Task) -> dict[str, tuple[int, ...]]:
        """Further rows about every client, zero at first: name -> shape of one."""
        return {}

    def births(self, rows: Tensor, state: State, task: Task) -> Tensor:
        """What is kept of first uploads (K, P), trained from theta^0, where a subclass keeps `birth`: (K, r)."""
        return rows

    def is_fedavg(self, round: int) -> bool:
        """Whether this round is FedAvg's, by an explicit short cut: another formula would not give its bits."""
        return False

    @property
    def looks_back(self) -> bool:
        """Whether `aggregate` wants to know where uploads came from."""
        return self.trust == "on" or self.clip is not None

    @property
    def columns(self) -> Columns:
        return Columns(travels=BASE, private=HEAD) if self.head == "local" else Columns()

    def parts(self, task: Task) -> dict[str, Ranges]:
        """What has a map of its own, and its columns among the shared ones."""
        if self.scope == "layer":
            return layer_columns(task.layout, self.columns.travels)
        travels = self.columns.travels
        return {travels: ((0, task.layout.width(travels)),)}

    def maps(self, state: State) -> Tensor:
        """(G, N, N), one map for every part. Stored is (N, N) where there is one."""
        n = len(state.last)
        return state.server["map"].reshape(-1, n, n)

    def fresh(self, state: State, round: int) -> Tensor:
        """(N,) bool: clients whose model in the bank is young enough and whose last upload was not screened."""
        stored = state.server["stored"]
        return (stored >= 0) & (round - stored <= self.max_age) & ~state.server["screened"]

    def init(self, task: Task) -> State:
        state, n = super().init(task), task.n_clients
        start, maps = state.server["w"], len(self.parts(task))
        server = {
            "start": start,
            "map": torch.zeros(maps, n, n, dtype=torch.float64).squeeze(0),
            "lone": torch.zeros(maps, n, dtype=torch.bool).squeeze(0),
            "screened": torch.zeros(n, dtype=torch.bool),
            "stored": torch.full((n,), -1),
        }
        if self.trust == "on":
            server["trust"] = torch.zeros(n, dtype=torch.float64)
        rows = {name: torch.zeros(n, *shape) for name, shape in self.kept(task).items()}
        if self.head == "both":
            rows["offset"] = torch.zeros(n, task.layout.width("head"))
        return replace(state, server=server, client={**state.client, "bank": start.repeat(n, 1), **rows})

    def prepared(self, state: State, ids: Sequence[int], task: Task, undo: Undo) -> State:
        """In a large federation of which all take part their starts take the place of the bank."""
        bank, maps = state.client["bank"], self.maps(state)
        looks_back = self.looks_back or any(name in state.client for name in UPDATES)
        if looks_back or task.class_head is not None or not undo.keep(bank, len(ids)) or not bool(maps.any()):
            return state
        mixed = mix_parts(maps, bank, list(self.parts(task).values()), None, out=bank)
        return replace(state, client={**state.client, "mixed": mixed})

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        own = {k: state.client[k] for k in ("private", "offset") if k in state.client}
        return [
            Down(u, own={k: v[i] for k, v in own.items()}, first=bool(state.last[i] < 0))
            for i, u in zip(ids, self.starts(state, ids, task), strict=True)
        ]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        w = trainer.sgd(down.w, client.train, pull=(down.w, self.mu))
        if self.head != "both":
            return Upload(w)
        return Upload(w, own={"offset": trained_offset(w, down.own["offset"], client, trainer)})

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        before, task = state, server.task
        bad = screen([u.w for u in uploads], state.server["start"]).tolist()
        good = [u for u, screened_out in zip(uploads, bad, strict=True) if not screened_out]
        out = [u.client for u, screened_out in zip(uploads, bad, strict=True) if screened_out]
        if server.undo is not None and server.undo.kept is not None:
            state = self._left(state, out, server.undo)

        client, changed = self._entered(state, good, task)
        tables = {u.client: u.sent["table"] for u in uploads if "table" in u.sent}
        if tables:
            client["table"] = with_tables(client["table"], tables)
        stored, screened = state.server["stored"].clone(), torch.zeros_like(state.server["screened"])
        stored[[u.client for u in good]] = server.round
        screened[out] = True
        changed |= {"stored": stored, "screened": screened, "lone": torch.zeros_like(state.server["lone"])}
        state = self.next_state(replace(state, client=client), uploads, server, changed)
        if not good:
            return state

        if self.is_fedavg(server.round):
            p = spread(task.weights([u.client for u in good]), good, task)
            state = replace(state, server={**state.server, "map": p.expand_as(state.server["map"]).clone()})
        else:
            state = self._attend(state, server)
        return self._defended(state, before, good, server)

    def _defended(self, state: State, before: State, good: Sequence[Upload], server: Server) -> State:
        """The state with the maps, and where these are not all, the mixtures that the round's defence leaves."""
        if server.watch is None:
            return state
        server.watch.remember(
            [u.client for u in good], self._for_others(before, good, server.watch.clipped, server.task)
        )
        maps, cuts, everyone = self.maps(state), list(self.parts(server.task).values()), range(server.task.n_clients)
        got = defended(maps, state.client["bank"], cuts, server, lambda: self.starts(before, everyone, server.task))
        client = state.client if got.rows is None else {**state.client, "mixed": got.rows}
        return replace(state, server={**state.server, "map": got.maps.reshape_as(state.server["map"])}, client=client)

    def _left(self, state: State, bad: Sequence[int], undo: Undo) -> State:
        """The state behind `prepared`, whose bank has become the uploads, without those that are not stored."""
        for i in bad:
            undo.again(i)
        return replace(state, client={name: rows for name, rows in state.client.items() if name != "mixed"})

    def _entered(self, state: State, good: Sequence[Upload], task: Task) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The bank with a round's uploads in it, and the trust in their senders where it is asked for."""
        client: dict[str, Tensor] = {}
        for name, rows in state.client.items():
            client[name] = rows.clone() if name in WRITTEN and name != "bank" else rows
        changed: dict[str, Tensor] = {}
        ids, models, stored = [u.client for u in good], [u.w for u in good], state.server["stored"]

        judges = self.trust == "on" or self.clip is not None
        if good and ("update" in client or judges):
            models, changed = self._followed(state, client, ids, models, task)
        client["bank"] = renewed(state.client["bank"], dict(zip(ids, models, strict=True)))

        # whose bank entry is the first one, and no newcomer's that has joined with a row: it started from theta^0
        maps = self.maps(state)[0]
        new = torch.tensor([i for i in ids if stored[i] < 0 and not maps[i].any()], dtype=torch.int64)
        if "birth" in client and len(new):
            client["birth"][new] = self.births(of_clients(client["bank"], new), state, task)
        return client, changed

    def _followed(
        self, state: State, client: dict[str, Tensor], ids: Sequence[int], models: Sequence[Tensor], task: Task
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Models (P,) as they enter the bank, and trust; what is followed of clients is written to `client`."""
        starts = torch.stack(self.starts(state, ids, task))
        clipped, trust = judged(torch.stack(list(models)), starts, self.clip, self.trust == "on")
        changed: dict[str, Tensor] = {}
        if trust is not None:
            changed["trust"] = state.server["trust"].index_put((torch.tensor(ids),), trust)

        rows = list(ids)
        before = {name: client[name][rows] for name in UPDATES if name in client}
        known = state.server["stored"][rows] >= 0
        for name, values in followed(before, known, clipped - starts, starts).items():
            client[name][rows] = values
        return list(clipped), changed

    def _for_others(
        self, state: State, good: Sequence[Upload], changed: Mapping[int, Tensor], task: Task
    ) -> dict[int, Tensor]:
        """Rows (P,) that others use of uploads which a defence has `changed`: no longer than `clip` lets the bank's be.

        Of uploads that are not stored others use nothing.
        """
        left = {u.client: changed[u.client] for u in good if u.client in changed}
        if self.clip is None or not left:
            return left
        starts, sent = torch.stack(self.starts(state, [u.client for u in good], task)), torch.stack([u.w for u in good])
        at = [k for k, u in enumerate(good) if u.client in left]
        short = shortened(torch.stack(list(left.values())), starts[at], self.clip, (sent - starts).norm(dim=1))
        return dict(zip(left, short, strict=True))

    def _attend(self, state: State, server: Server) -> State:
        """Rows for every client that has a model in the bank; columns for those whose model is fresh."""
        stored, n, parts = state.server["stored"], server.task.n_clients, self.parts(server.task)
        known = torch.nonzero((stored >= 0) & ~state.server["screened"]).flatten()
        keys, own = self.fresh(state, server.round)[known], torch.eye(len(known), dtype=torch.float64)
        full = (torch.eye(n, dtype=torch.float64) * (stored >= 0)[:, None]).repeat(len(parts), 1, 1)
        alone, clusters = torch.zeros(len(parts), n, dtype=torch.bool), torch.full((len(parts), n), -1)
        found = [self.attention(state, known, keys, part, server) for part in parts]
        for g, got in enumerate(found):
            full[g][known[:, None], known] = (1 - self.step) * own + self.step * got.map
            full[g] = server.map_to_apply(full[g], known)
            alone[g, known] = got.lone
            if got.clusters is not None:
                clusters[g, known] = got.clusters
        held = {**state.server, "map": full.squeeze(0), "lone": alone.squeeze(0)}
        if any(got.clusters is not None for got in found):
            held["clusters"] = clusters
        return replace(state, server=held)

    def starts(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        """u_i, shared columns: the mix of the bank, or theta^0 for a client without a row."""
        maps = self.maps(state)
        if not bool(maps.any()):
            return [state.server["start"]] * len(ids)
        u, first = state.client.get("mixed"), 0
        if u is None:
            first, u = self._mixed(state, ids, task)
        return [u[i - first] if bool(maps[0, i].any()) else state.server["start"] for i in ids]

    def _mixed(self, state: State, ids: Sequence[int], task: Task) -> tuple[int, Tensor]:
        """Mixtures (K, P) of clients around `ids`, few of very many, and the first of these clients."""
        maps, bank, cuts = self.maps(state), state.client["bank"], list(self.parts(task).values())
        if bank.nbytes <= MOST or task.class_head is not None:
            return 0, _mixtures(maps, bank, cuts, task.class_head)
        first, last = min(ids) // TOGETHER * TOGETHER, max(ids) + 1
        return first, mix_parts(maps, bank, cuts, None, some=slice(first, -(-last // TOGETHER) * TOGETHER))

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        found = [self.start(u, state, i, task) for i, u in zip(ids, self.starts(state, ids, task), strict=True)]
        if self.head != "both":
            return found
        return [with_offset(w, state.client["offset"][i], task.layout) for i, w in zip(ids, found, strict=True)]

    def global_model(self, state: State, task: Task) -> Tensor | None:
        return None

    def mixing(self, state: State, task: Task) -> Map | None:
        maps = self.maps(state).clone()
        if not bool(maps.any()):
            return None
        empty = ~maps[0].any(1)
        maps[:, empty] = torch.eye(task.n_clients, dtype=maps.dtype)[empty]
        slices = dict(zip(self.parts(task), maps, strict=True))
        own = torch.eye(task.n_clients)
        return Map.of(self.map_kind, {**slices, self.columns.private: own}, task.layout)

    def diagnostics(self, state: State, task: Task) -> dict[str, float]:
        """Of the round's maps, means over parts and over rows with a model; row entropy in units of log N."""
        maps, n = self.maps(state), task.n_clients
        a = maps[:, maps[0].any(1)]
        found = {
            "lone": float(state.server["lone"].reshape(-1, n).double().mean(0).sum()),
            "screened": float(state.server["screened"].sum()),
        }
        if a.numel():
            found["self_weight"] = float(maps.diagonal(dim1=1, dim2=2).sum()) / a[..., 0].numel()
            found["row_entropy"] = -float(torch.xlogy(a, a).sum(-1).mean()) / math.log(max(2, n))
            found["density"] = float((a > 0).double().mean())
        if "clusters" in state.server:
            found["clusters"] = float((state.server["clusters"].amax(1) + 1).double().mean())
        if self.trust == "on":
            found["trust"] = float(state.server["trust"].exp().mean())
        return found

    def tokens(self, state: State, task: Task) -> Tensor:
        return state.client["bank"] - state.server["start"]

    def client_diagnostics(self, state: State, task: Task) -> dict[str, Tensor]:
        """The cluster that a client is in, where there is one map and clusters are part of it."""
        clusters = state.server.get("clusters")
        if clusters is None or len(clusters) > 1:
            return {}
        return {"cluster": torch.where(clusters[0] < 0, torch.nan, clusters[0].double())}

    def add_clients(self, state: State, joined: Sequence[Joined], task: Task) -> State:
        """Newcomers start from what they joined with, and their first upload, if they made one, is in the bank."""
        n, grown = len(state.last), super().add_clients(state, joined, task)
        maps, stored = self.maps(grown).clone(), grown.server["stored"].clone()
        for i, one in enumerate(joined, start=n):
            if "rows" in one.own:
                maps[:, i, :n] = one.own["rows"]
                maps[:, i, i] = one.self_weight
            if "bank" in one.own:
                stored[i] = state.server["stored"].max()
        client = dict(grown.client)
        if "mixed" in client:
            cuts = list(self.parts(task).values())
            client["mixed"] = client["mixed"].clone()
            others = rows_left(grown.server, client["bank"])
            client["mixed"][n:] = mix_parts(maps, others, cuts, task.class_head)[n:]
        server = {**grown.server, "map": maps.reshape_as(grown.server["map"]), "stored": stored}
        return replace(grown, server=server, client=client)


def with_tables(before: Tensor, tables: Mapping[int, Tensor]) -> Tensor:
    """The class tables (N, C, F + 1) with those that came in a round; one that is not finite is left out."""
    after = before.clone()
    for client, table in tables.items():
        if bool(torch.isfinite(table).all()):
            after[client] = table
    return after


_KNOWN: Any = WeakIdKeyDictionary()  # bank -> (maps, mixtures)


def _mixtures(maps: Tensor, bank: Tensor, cuts: Sequence[Ranges], head: ClassHead | None) -> Tensor:
    """`mix_parts` for a state's bank (N, P); what is evaluated is what the next round starts from, and mixed once."""
    known, mixtures = cast(tuple[Tensor | None, Tensor | None], _KNOWN.get(bank, (None, None)))
    if known is None or mixtures is None or not torch.equal(known, maps):
        mixtures = mix_parts(maps, bank, cuts, head)
        _KNOWN[bank] = maps, mixtures
    return mixtures
