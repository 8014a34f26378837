"""What clustering by tokens shares: FedAvg for a while, clusters of the updates seen in it, FedAvg inside each.

    token     x_i = sum_{t <= T_w} Delta_i^t / |Delta_i^t|     all updates of a round start from one common model
    space     z_i = the first principal components of x_i / |x_i|
    clusters  r_ik in [0, 1], sum_k r_ik = 1                    a subclass says how; one-hot where they are hard
    server    theta_k <- sum_j r_jk p_j w_j / sum_j r_jk p_j
    client    starts from sum_k r_ik theta_k

A client that is seen first after the clustering spends that round on its token: it trains from the model of the last
warm-up round, is placed by it and counts from the next round on. Until then it has the mean of the cluster models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.clustering.agreement import matched
from fltk.clustering.fit import Clusters, respond
from fltk.clustering.space import directions, principal, project
from fltk.errors import UsageError
from fltk.hyper import hyper
from fltk.methods.clusters import cluster_map, cluster_means
from fltk.partition.federation import ClientData
from fltk.protocol.averaging import CLUSTERS, weighted_sum
from fltk.protocol.map import Map, spread
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.protocol.verdict import PREFIX
from fltk.train.trainer import Trainer

EMBEDDINGS = ("update", "params", "both", "label-hist-oracle")


@dataclass(frozen=True)
class WarmClusters(Method):
    """FedAvg first, then FedAvg in each cluster. A subclass says how points become clusters."""

    averages: ClassVar[str] = CLUSTERS
    also_sent: ClassVar[Mapping[str, str]] = {"probe": "probe"}

    k: int = hyper(0, "number of clusters (0: chosen from the data)", low=0)
    warmup: int = hyper(5, "rounds of FedAvg before clients are clustered", low=1)
    embed: str = hyper(
        "update",
        "what a client's token is made of: its updates, its displacement from the start, both, or its labels "
        "(private: an upper bound only)",
        choices=EMBEDDINGS,
    )
    dims: int = hyper(8, "principal components that clusters are searched in", low=1)
    recluster: int = hyper(0, "cluster again every N rounds, which costs one more model each way then (0: once)", low=0)

    def fit(self, z: Tensor, seed: int) -> Clusters:
        """Clusters of points z (K, r). Here: all in one."""
        one = z.new_ones(len(z), 1)
        return Clusters(one, z.mean(0, keepdim=True), z.new_zeros(0), z.new_zeros(0), math.nan)

    def check(self, task: Task) -> None:
        super().check(task)
        if self.embed == "label-hist-oracle" and not task.labels:
            raise UsageError("--set embed=label-hist-oracle counts classes, and the data have none; use another embed")

    def init(self, task: Task) -> State:
        if self.embed == "label-hist-oracle":
            token = directions(task.label_counts.float())
        else:
            token = torch.zeros(task.n_clients, task.layout.size * (2 if self.embed == "both" else 1))
        return replace(super().init(task), client={"token": token})

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        if "models" not in state.server:
            return [Down(state.server["w"]) for _ in ids]
        placed, own = placed_clients(state), self.personal_model(state, ids, task)
        probe = {"probe": everybody(state, task)} if self._due(coming(state)) else {}
        return [
            Down(w, server=probe) if placed[i] else Down(state.server["w"], first=True)
            for i, w in zip(ids, own, strict=True)
        ]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        sent = {"probe": trainer.sgd(down.server["probe"], client.train)} if "probe" in down.server else {}
        return Upload(trainer.sgd(down.w, client.train), sent=sent)

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        if "models" not in state.server:
            state = self._heard(super().aggregate(state, uploads, server), uploads, state.server["w"], server.task)
            return self._clustered(state, server) if server.round + 1 >= self.warmup else state
        placed = placed_clients(state)
        start = everybody(state, server.task)
        there = [u for u in uploads if placed[u.client]]
        state = self.next_state(state, uploads, server, {})
        state = self._heard(state, [u for u in uploads if not placed[u.client]], state.server["w"], server.task)
        if self._due(server.round):
            probes = [replace(u, w=u.sent["probe"]) for u in there if "probe" in u.sent]
            state = self._clustered(self._heard(state, probes, start, server.task), server, fallback=start)
        models, rows = shared_means(state.server, there, server)
        held = {**state.server, "models": models, "rows": rows}
        return replace(state, server=self._placed(held, state.client["token"]))

    def on_empty_round(self, state: State, round: int) -> State:
        """A lost round counts: else the next ones would be taken for those before, and probes sent in the wrong one."""
        return replace(state, server={**state.server, "missed": torch.tensor(round)}) if self.recluster else state

    def _due(self, round: int) -> bool:
        """Whether clients are clustered anew at the end of this round, counted from 0."""
        done = round + 1 - self.warmup
        return self.recluster > 0 and done > 0 and done % self.recluster == 0

    def _heard(self, state: State, uploads: Sequence[Upload], start: Tensor, task: Task) -> State:
        """Tokens that also hold these uploads, whose local work began at `start` (P,)."""
        if not uploads or self.embed == "label-hist-oracle":
            return state
        token = state.client["token"].clone()
        for u in uploads:
            token[u.client] = self._token(token[u.client], u.w, start, task.w0)
        return replace(state, client={**state.client, "token": token})

    def _token(self, before: Tensor, w: Tensor, start: Tensor, w0: Tensor) -> Tensor:
        """A client's token (d,) after it has trained `start` to `w`; updates add up, and of positions the last stays.

        One update is noisy: with 27 samples a client, the sum over five rounds finds groups that no single round shows.
        """
        if self.embed == "params":
            return directions((w - w0)[None])[0]
        update = before[: len(w)] + directions((w - start)[None])[0]
        return update if self.embed == "update" else torch.cat([update, directions((w - w0)[None])[0]])

    def _points(self, token: Tensor) -> Tensor:
        """Tokens as they are compared: of two parts, both get the same length. (K, d) -> (K, d)."""
        if self.embed != "both":
            return token
        half = token.shape[1] // 2
        return torch.cat([directions(token[:, :half]), directions(token[:, half:])], 1)

    def _clustered(self, state: State, server: Server, fallback: Tensor | None = None) -> State:
        """The state with clusters of all clients that have a token; clusters keep their number and model if they can.

        fallback: (P,) model of a cluster that is new; default the model of the last warm-up round.
        """
        points, held = self._points(state.client["token"]), dict(state.server)
        known = torch.nonzero(points.any(1)).flatten()
        basis = principal(points[known], self.dims)
        found = self.fit(basis.scores, server.task.seed(f"clusters/{server.round}"))
        old = held.get("name", torch.zeros(0, dtype=torch.int64))
        names = named(found.labels, known, held)
        keep = {int(name): at for at, name in enumerate(old.tolist())}
        new = held["w"] if fallback is None else fallback
        empty = held["p"] if fallback is None else mean_row(state, server.task)
        at = [keep.get(name) for name in names]
        models = [new if a is None else held["models"][a] for a in at]
        rows = [empty if a is None else held["rows"][a] for a in at]
        # With one cluster there is nothing to place: who was away belongs to it as well.
        responsibilities = torch.full((server.task.n_clients, len(names)), float(len(names) == 1), dtype=torch.float64)
        responsibilities[known] = self.responsibility(found.responsibilities)
        return replace(
            state,
            server={
                **held,
                "models": torch.stack(models),
                "rows": torch.stack(rows),
                "r": responsibilities,
                "name": torch.tensor(names),
                "mean": basis.mean,
                "axes": basis.axes,
                "centres": found.centres,
                "variances": found.variances,
                "shares": found.shares,
                "silhouette": torch.tensor(found.silhouette, dtype=torch.float64),
            },
        )

    def responsibility(self, r: Tensor) -> Tensor:
        """What counts of responsibilities (K, M): here the most probable cluster alone."""
        return torch.nn.functional.one_hot(r.argmax(1), r.shape[1]).double()

    def _placed(self, server: Mapping[str, Tensor], token: Tensor) -> Mapping[str, Tensor]:
        """The server's tensors with clients in their clusters that have a token by now."""
        wait = torch.nonzero(~server["r"].any(1) & token.any(1)).flatten()
        if not len(wait):
            return server
        r = server["r"].clone()
        r[wait] = self._place(server, token[wait])
        return {**server, "r": r}

    def _place(self, server: Mapping[str, Tensor], token: Tensor) -> Tensor:
        """Responsibilities (K, M) of further tokens (K, d)."""
        z = project(self._points(token), server["mean"], server["axes"])
        return self.responsibility(respond(z, server["centres"], server["variances"], server["shares"]))

    def personal_model(self, state: State, ids: Sequence[int], task: Task) -> list[Tensor]:
        if "models" not in state.server:
            return super().personal_model(state, ids, task)
        r, models = shares_of(state, task), state.server["models"]
        return [blend(models, r[i]) for i in ids]

    def global_model(self, state: State, task: Task) -> Tensor | None:
        # Not in the warm-up either: its score would stand beside those of later rounds as if it were of the same kind.
        if self.k != 1:
            return None
        return state.server["models"][0] if "models" in state.server else state.server["w"]

    def mixing(self, state: State, task: Task) -> Map | None:
        if "models" not in state.server:
            return super().mixing(state, task)
        rows = shares_of(state, task) @ state.server["rows"]
        return cluster_map(rows, torch.arange(task.n_clients), self.map_kind, task)

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer trains the model of the last warm-up round on its data once, and is placed by that token."""
        if "models" not in state.server:
            return super().join(state, client, trainer, task)
        warm, size = state.server["w"], 4 * task.layout.size
        token, up = self._newcomer(state, client, trainer, task)
        r = self._place(state.server, token[None])[0]
        return Joined(
            arrival=warm,
            model=blend(state.server["models"], r),
            own={"token": token},
            row=r @ state.server["rows"],
            down=2 * size if up else size,
            up=up,
        )

    def _newcomer(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> tuple[Tensor, int]:
        """The token (d,) of a client that nobody has seen, and the bytes that it costs."""
        if self.embed == "label-hist-oracle":
            counts = torch.bincount(client.train.y, minlength=task.label_counts.shape[1]).float()
            return directions(counts[None])[0], 4 * len(counts)
        warm = state.server["w"]
        trained = trainer.sgd(warm, client.train)
        return self._token(torch.zeros_like(state.client["token"][0]), trained, warm, task.w0), 4 * task.layout.size

    def add_clients(self, state: State, joined: Sequence[Joined], task: Task) -> State:
        n, new, server = len(state.last), task.n_clients - len(state.last), state.server
        plain = replace(state, server={k: v for k, v in server.items() if k in ("w", "p") or k.startswith(PREFIX)})
        grown = super().add_clients(plain, joined, task)
        if "models" not in server:
            return grown
        rows = torch.cat([server["rows"], server["rows"].new_zeros(len(server["rows"]), new)], 1)
        r = torch.cat([server["r"], server["r"].new_zeros(new, server["r"].shape[1])])
        grown_server = {**server, **grown.server, "rows": rows, "r": r}
        return replace(grown, server=self._placed(grown_server, grown.client["token"][: n + new]))

    def tokens(self, state: State, task: Task) -> Tensor:
        return self._points(state.client["token"])

    def diagnostics(self, state: State, task: Task) -> dict[str, float]:
        value = float(state.server.get("silhouette", torch.tensor(math.nan)))
        return {} if math.isnan(value) else {"silhouette": value}

    def client_diagnostics(self, state: State, task: Task) -> dict[str, Tensor]:
        label = torch.full((task.n_clients,), math.nan, dtype=torch.float64)
        if "models" in state.server:
            placed = placed_clients(state)
            label[placed] = state.server["name"][state.server["r"].argmax(1)[placed]].double()
        return {"cluster": label}


def placed_clients(state: State) -> Tensor:
    """(N,) bool: clients that belong to a cluster."""
    return state.server["r"].any(1)


def coming(state: State) -> int:
    """The round to come, counted from 0: behind the last in which somebody was heard, and the last that was lost."""
    return 1 + max(int(state.last.max()), int(state.server.get("missed", -1)))


def shares_of(state: State, task: Task) -> Tensor:
    """(N, M) float64: the responsibilities, and for clients without any those of all others together."""
    r = state.server["r"]
    placed = placed_clients(state)
    if bool(placed.all()):
        return r
    there = torch.nonzero(placed).flatten()
    return torch.where(placed[:, None], r, task.weights(there.tolist()) @ r[there])


def blend(models: Tensor, r: Tensor) -> Tensor:
    """sum_k r_k theta_k: (M, P), (M,) -> (P,); one of the models itself where r is one-hot."""
    chosen = torch.nonzero(r).flatten()
    return models[chosen[0]] if len(chosen) == 1 else weighted_sum(list(models[chosen]), r[chosen])


def everybody(state: State, task: Task) -> Tensor:
    """(P,) the mean of the cluster models, weighted by the samples of their clients."""
    there = torch.nonzero(placed_clients(state)).flatten()
    return blend(state.server["models"], task.weights(there.tolist()) @ state.server["r"][there])


def mean_row(state: State, task: Task) -> Tensor:
    """(N,) the row of the map that belongs to `everybody`."""
    there = torch.nonzero(placed_clients(state)).flatten()
    return task.weights(there.tolist()) @ state.server["r"][there] @ state.server["rows"]


def shared_means(held: Mapping[str, Tensor], uploads: Sequence[Upload], server: Server) -> tuple[Tensor, Tensor]:
    """Cluster models (M, P) and their rows (M, N) from uploads that count for each cluster by responsibility.

    A cluster without a participant keeps both. Hard clusters go through `cluster_means`, whose bits are FedAvg's.
    """
    if not uploads:
        return held["models"], held["rows"]
    ids = [u.client for u in uploads]
    r = held["r"][ids]
    if bool(((r == 0) | (r == 1)).all()):
        return cluster_means(held, r.argmax(1).tolist(), uploads, server)
    models, rows = held["models"].clone(), held["rows"].clone()
    mass = r * server.weights(ids)[:, None]
    for m, total in enumerate(mass.sum(0).tolist()):
        if total > 0:
            start = held["models"][m]
            model, p = server.average([u.w for u in uploads], mass[:, m] / total, ids, start, f"model{m}")
            if bool(p.any()):
                models[m], rows[m] = model, spread(p, uploads, server.task)
    return models, rows


def named(labels: Tensor, known: Tensor, server: Mapping[str, Tensor]) -> list[int]:
    """Lasting names of new clusters 0..M-1: that of the old cluster with the most common clients, or a fresh one.

    labels: (K,) clusters of the clients `known`. Names are one to one, so that plots and counts can follow a cluster.
    """
    total = int(labels.max()) + 1
    if "name" not in server:
        return list(range(total))
    placed = server["r"][known].any(1)
    old = server["name"][server["r"][known].argmax(1)]
    found = matched(labels[placed].numpy(), old[placed].numpy())
    fresh = int(server["name"].max()) + 1
    names = []
    for label in range(total):
        names.append(found.get(label, fresh))
        fresh += label not in found
    return names
