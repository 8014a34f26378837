"""attn: clients are the tokens of a set, and an attention map decides how their models are mixed.

fltk's own method. Nearest published work: FedAMP (arXiv:2007.03797), pFedGraph, pFedLA (arXiv:2205.03993).

    token    T_i = per class c: n_ic, mean P_ic and scatter Q_ic of the features under theta^0, sent once
    score    S_ij similarity of class means, freed of noise; b_ij belief, by the samples of classes that both have
             m_i = max(0, max_{j != i} S_ij b_ij),  g_ij = b_ij max(0, m_i - S_ij),  g_ii = 0
             e_ij = -g_ij^2 / (2 tau_i^2),  tau_i = tau max(1, (1 - m_i) / .25)
    map      A_ij = softmax_j(e_ij + gamma log n_j)           a lone client (unlike all others) keeps its model
    mix      u_i = (1 - s) theta_i + s sum_j A_ij theta_j     every client's own next start
    use      v_i = own step(u_i)                              personal model: voted on, never fed back

`fltk.attention.prototypes` has the equations of S and b, and the second layer, in which tables of near clients are
pooled; `fltk.train.own_step` those of the vote (--own-step none: v_i = u_i). Labels drop out of S, so that label skew
alone leaves FedAvg's map; clients that share no class are unknown to each other, which is not different.

The server keeps a bank of last uploads, so that absent clients are attended to and get models too. In the first round
in which a client takes part it starts from theta^0. Uploads that are not finite or far out of range are screened before
any product touches them. Tables tell the server label counts and class means of random features. A class with fewer
than `table_min` samples is not sent, because a mean of one is that sample. token=model sends no table.

Options, with their equations in the modules of `fltk.attention`:
token=model    z_i = direction of theta_i - theta^0, S_ij = <z_i, z_j>, b_ij = 1, tau_i = tau: displacements are
               compared, which hold labels as well as features. What follows needs it, but for head, trust and clip.
scope=layer    one map per layer.
sparse         lsh or topk: who may be attended to when clients are many.
hier           kmeans, gmm: attention within clusters, and over cluster models.
trust, clip    against malicious clients; cap limits the weight of any other client. Tables do not see the uploaded
               model: with trust, clients that move against their peers in the map lose weight (attention.trust.gate).
curvature      secant: how a client's update changes per change of its start, as a further part of the token. It
               counts once every client in the bank has taken part twice, and it quadruples the bank.
head=both      Fed-RoD's two heads (arXiv:2107.00778): after the shared model, an offset of the head is trained over
               frozen features. Logits of two linear heads add up to those of one, u + v; v never travels.
qk=learned     S_ij from projections of the tokens' sketches, none of them a client's own, which start as the free mode.
train          surrogate, valgrad: each round they take a step down the clients' loss, found from G_ij = <g_i, theta_j>
               with g_i = u_i - theta_i^+ (against the next update: nothing further is sent), or g_i = the gradient of
               the client's validation loss at u_i, sent beside the upload. Held-out clients do not teach, they judge;
               newcomers meet the scorer that did best before them. Teachers are believed: trust and clip do not weigh
               them. A server with labelled data of its own: `fltk.attention.learn.proxy`, from Python only.

A newcomer sends its table and gets sum_j A_j u_j = sum_k (A A)_k theta_k, by its row A_j of the same rule without an
entry of its own; FedAvg's row where nothing is known of it. With token=model it first trains from theta^0, and is
compared with the others' first uploads (birth tokens, kept as sketches of r floats a part). Then the weights of the
theta_k, and they alone, take `join_fit` steps down its training loss (`fltk.attention.newcomer.fitted`): it sends the
gradient, the server sends the next mixture, and no model is trained. The end is kept where the newcomer's validation
loss fell; so is the federation's own step after that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.attention import Attention, Options
from fltk.attention.bank import births, columns, of_clients, width
from fltk.attention.learn import Learner, draw_judges
from fltk.attention.newcomer import Others, mean_row, shares
from fltk.attention.prototypes import (
    LONE,
    TAU,
    attend_by_evidence,
    evidence,
    newcomer_by_evidence,
    sent_counts,
)
from fltk.attention.scorer import initial
from fltk.attention.tokens import center_of, cosines, unit
from fltk.attention.trust import FLOOR, gate
from fltk.errors import UsageError
from fltk.hyper import hyper
from fltk.memory.products import gram
from fltk.methods.heads import head_shape, trained_offset, with_offset
from fltk.methods.layerwise import blend
from fltk.methods.learned import Cohort, learned_shares, members, products, taught, teachers, told
from fltk.methods.model_bank import UPDATES, ModelBank
from fltk.methods.newcomer_placement import Placed, believed, evidence_of, fit, last_mean, table_of
from fltk.partition.federation import ClientData
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.protocol.verdict import rows_left
from fltk.train.trainer import Trainer

# Settings that rule out others: a value, why, and what the others may then be.
Admissible = dict[str, tuple[object, ...]]
UNTAUGHT: Admissible = {"qk": ("auto", "free"), "train": ("off",)}
UNMASKED: Admissible = {"sparse": ("auto", "none")}
CLASHES: tuple[tuple[str, object, str, Admissible], ...] = (
    (
        "tau",
        math.inf,
        "an infinite width is FedAvg",
        {"trust": ("off",), "hier": ("off",), "curvature": ("off",), "scope": ("model",)}
        | {"self_weight": (None,), "clip": (None,), "cap": (1,), "step": (1,), "gamma": (1,), "bias": (0,)}
        | UNTAUGHT,
    ),
    (
        "token",
        "prototypes",
        "class tables are compared, not models; add --set token=model",
        {"score": ("gap",), "ceiling": (1,), "scope": ("model",), "center": ("init",), "omega": (0,)}
        | {"curvature": ("off",), "hier": ("off",), "proj": ("auto", "none"), "join_token": ("birth",)}
        | UNMASKED
        | UNTAUGHT,
    ),
    ("hier", "kmeans", "its clusters are the mask, and have no derivative", UNMASKED | UNTAUGHT),
    ("hier", "gmm", "its clusters are the mask, and have no derivative", UNMASKED | UNTAUGHT),
    ("head", "local", "a newcomer has no head to take a loss with", {"join_token": ("birth", "update")}),
    ("qk", "free", "scores that are free have nothing to learn", {"train": ("off",)}),
)


@dataclass(frozen=True)
class Attn(ModelBank):
    """Attention over clients. Free mode by default: nothing is learned on the server."""

    title: ClassVar[str] = "attention over clients: one mixed model each"
    votes: ClassVar[bool] = True
    on_guard: ClassVar[Mapping[str, object]] = {"trust": "on"}

    score: str = hyper("gap", "score between clients", choices=("gap", "relgap", "raw", "zscore"))
    tau: float | None = hyper(
        None,
        "width of the score (default: .15; with token=model .135 gap, .5 relgap, .1 raw, .5 zscore; inf: FedAvg)",
        low=1e-12,
        infinite=True,
    )
    token: str = hyper(
        "prototypes",
        "what clients are compared by: tables of class prototypes, or models",
        choices=("prototypes", "model"),
    )
    table_min: int = hyper(2, "token=prototypes: samples of a class below which a client does not send it", low=1)
    center: str = hyper("init", "origin of displacements", choices=("init", "mean", "median", "none"))
    omega: float = hyper(0.0, "weight of the last update against the displacement in the token", low=0, high=1)
    curvature: str = hyper("off", "curvature as a further part of the token", choices=("off", "secant"))
    curvature_weight: float = hyper(0.25, "weight of the curvature part (curvature=secant)", low=0, high=1)
    lone: float | None = hyper(
        None,
        "a client whose best peer is below this share of the median is lone (default: .5, .4 with token=model; 0: off)",
        low=0,
    )
    ceiling: int = hyper(1, "the ceiling is the similarity of the k-th best peer", low=1)
    gamma: float = hyper(1.0, "exponent of the data-size prior", low=0)
    bias: float = hyper(0.0, "added to the score of the own model")
    self_weight: float | None = hyper(None, "fix the weight on the own model", low=0, high=1)
    cap: float = hyper(1.0, "largest weight of one other client; the rest goes to the own model", low=0, high=1)
    warmup: int = hyper(0, "rounds of FedAvg before attention starts", low=0)
    sparse: str = hyper(
        "auto", "who may be attended to (auto: lsh from 64 clients)", choices=("auto", "none", "lsh", "topk")
    )
    neighbours: int = hyper(16, "topk: peers of a client; lsh: clients in a bucket, on average", low=1)
    hashes: int = hyper(4, "lsh: hash rounds", low=1)
    hier: str = hyper("off", "two levels: within clusters, and over cluster models", choices=("off", "kmeans", "gmm"))
    hier_share: float = hyper(0.2, "weight of the upper level (hier)", low=0, high=1)
    proj: str = hyper(
        "auto",
        "token projection (auto: CountSketch from 1000 clients)",
        choices=("auto", "none", "countsketch", "gaussian"),
    )
    r: int = hyper(1024, "size of a projected token", low=1)
    qk: str = hyper(
        "auto",
        "scores of the tokens as they are, or of learned projections (auto: learned with train)",
        choices=("auto", "free", "learned"),
    )
    train: str = hyper(
        "off",
        "learn the projections from the clients' next updates, or from validation gradients (one model more up); "
        "r=256 saves time; from a labelled set of the server: Python only, fltk.attention.learn",
        choices=("off", "surrogate", "valgrad"),
    )
    heads: int = hyper(1, "qk=learned: heads, whose maps are averaged", low=1)
    mlp: int = hyper(0, "qk=learned: width of an MLP under the projections (0: none)", low=0)
    meta_rate: float = hyper(1e-3, "train: rate of Adam, which takes one step a round", low=0)
    meta_entropy: float = hyper(1e-3, "train: weight of the rows' negative entropy, against collapse", low=0)
    meta_holdout: float = hyper(0.2, "train: share of the clients that do not teach but judge", low=0, high=1)
    join_token: str = hyper(
        "birth",
        "how newcomers are placed: token of a first training from theta^0, update from the mean, or lowest loss",
        choices=("birth", "update", "loss"),
    )
    join_fit: int = hyper(10, "steps of a newcomer's row down its own loss (0: none)", low=0)

    def __post_init__(self) -> None:
        for name, value, why, others in CLASHES:
            for other, admissible in others.items():
                if getattr(self, name) == value and getattr(self, other) not in admissible:
                    raise UsageError(f"--set {other}={getattr(self, other)} does not go with {name}={value}: {why}")

    @property
    def learned(self) -> bool:
        """Whether there is a scorer."""
        return self.qk == "learned" or self.train != "off"

    @property
    def asks_for_tables(self) -> bool:
        """Whether clients send a table with their first upload; FedAvg's map needs none."""
        return self.token == "prototypes" and self.tau != math.inf

    @property
    def looks_back(self) -> bool:
        return super().looks_back or self.train != "off"

    def check(self, task: Task) -> None:
        if self.token == "prototypes" and not task.labels:
            raise UsageError(
                "--set token=prototypes compares class prototypes, and the data have no classes; use model"
            )
        if self.train == "valgrad" and not task.n_val.all():
            client = int((task.n_val == 0).nonzero()[0])
            raise UsageError(f"--set train=valgrad: client {client} has no validation data; raise --val-share")
        if self.train != "off" and task.class_head is not None:
            raise UsageError(
                f"--head-mix classes does not go with --set train={self.train}: its averages are not linear in the map"
            )

    def is_fedavg(self, round: int) -> bool:
        """Infinite width is FedAvg."""
        return round < self.warmup or self.tau == math.inf

    def init(self, task: Task) -> State:
        state, parts, n = super().init(task), self.parts(task), task.n_clients
        server = dict(state.server)
        if self.hier != "off":
            server["clusters"] = torch.full((len(parts), n), -1)
        if self.learned:
            d = max(self._birth_widths(task)) * ((self.omega < 1) + (self.omega > 0) + (self.curvature == "secant"))
            tau, layers = self._options("", 0, task).width, len(parts) if self.scope == "layer" else 0
            phi = initial(d, tau, heads=self.heads, width=self.mlp, layers=layers, seed=task.seed("scorer"))
            judges = draw_judges(n, self.meta_holdout, task.seed("judges"))
            server |= {**Learner.start(phi).tensors(), "judges": judges}
        return replace(state, server=server)

    def kept(self, task: Task) -> dict[str, tuple[int, ...]]:
        size = task.layout.width(self.columns.travels)
        rows: dict[str, tuple[int, ...]] = {name: (size,) for name in UPDATES if self.curvature == "secant"}
        if self.omega:
            rows["update"] = (size,)
        if self.token == "prototypes":
            classes, features = head_shape(task.layout)
            rows["table"] = (classes, features + 1)
        elif self.join_token == "birth":
            rows["birth"] = (sum(self._birth_widths(task)),)
        return rows

    def attention(self, state: State, known: Tensor, keys: Tensor, part: str, server: Server) -> Attention:
        task = server.task
        if self.token == "prototypes":
            return self._by_tables(state, known, keys, task)
        cohort = self._cohort(state, known, keys, part, server.round, task)
        if not self.learned:
            return cohort.free()
        with torch.no_grad():
            return cohort.maker(list(self.parts(task)).index(part))(Learner.from_tensors(state.server).scorer)

    def _by_tables(self, state: State, known: Tensor, keys: Tensor, task: Task) -> Attention:
        """The map from class tables; under trust it is made again without those who move against their peers."""
        found = evidence_of(state.client["table"], task.label_counts, known, self.table_min)
        samples, trust = self._standing(state, known, task)
        options = self._options("", 0, task)
        got = attend_by_evidence(found, options, samples=samples, keys=keys, trust=trust)
        if trust is None:
            return got
        doubt = gate(got.map, self._displacements(state, known))
        return attend_by_evidence(found, options, samples=samples, keys=keys, trust=(trust + doubt).clamp_min(FLOOR))

    def _displacements(self, state: State, known: Tensor) -> Tensor:
        """theta - theta^0 of the clients `known` (K,) in float64: (K, P)."""
        return (state.client["bank"][known] - state.server["start"]).double()

    def _standing(self, state: State, known: Tensor, task: Task) -> tuple[Tensor, Tensor | None]:
        """How much clients count, whoever looks at them: samples, and the log of trust where it is asked for."""
        samples = torch.ones(len(known)) if task.uniform else task.n[known]
        return samples, state.server["trust"][known] if self.trust == "on" else None

    def _cohort(self, state: State, known: Tensor, keys: Tensor, part: str, round: int, task: Task) -> Cohort:
        """What the map of one part is made from in a round."""
        client, cut = state.client, self.parts(task)[part]
        rows = of_clients(columns(client["bank"], cut), known)
        samples, trust = self._standing(state, known, task)
        # within a row similarities must be comparable: the part counts for all pairs or for none
        bent = self.curvature == "secant" and bool(client["secant"][known].any(1).all())
        return Cohort(
            rows,
            center_of(rows, self.center, columns(state.server["start"], cut)),
            self._options(part, round, task),
            samples=samples,
            keys=keys,
            trust=trust,
            updates=of_clients(columns(client["update"], cut), known) if self.omega else None,
            secants=of_clients(columns(client["secant"], cut), known) if bent else None,
        )

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        if self.train != "off":
            state = self._taught(state, uploads, server)
        return super().aggregate(state, uploads, server)

    def _taught(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        """With the scorer one step further, by what became of the models that it mixed in the round before."""
        made, task, parts = server.round - 1, server.task, self.parts(server.task)
        known = members(state, made)
        sent = teachers(uploads, known, state.server["start"])
        if self.is_fedavg(made) or not sent:
            return state
        ids, keys, theta = [u.client for u in sent], self.fresh(state, made)[known], state.client["bank"][known]
        learned = taught(
            state.server,
            [self._cohort(state, known, keys, part, made, task).maker(g) for g, part in enumerate(parts)],
            self.step * products(sent, self.starts(state, ids, task), theta, list(parts.values())),
            torch.searchsorted(known, torch.tensor(ids)),
            held_out=state.server["judges"][ids] if self.meta_holdout else None,
            rate=self.meta_rate,
            entropy=self.meta_entropy,
        )
        return replace(state, server=learned)

    def _options(self, part: str, round: int, task: Task) -> Options:
        own = {f.name: getattr(self, f.name) for f in fields(Options) if f.name not in ("seed", "round_seed")}
        tables = self.token == "prototypes"
        if self.tau is None and tables:
            own["tau"] = TAU
        if self.lone is None:
            own["lone"] = LONE if tables else Options.lone
        return Options(**own, seed=self._seed(part, task), round_seed=task.seed(f"attention/{part}/{round}"))

    def _seed(self, part: str, task: Task) -> int:
        """Of the projection, which stays for the whole run."""
        return task.seed("projection" if self.scope == "model" else f"projection/{part}")

    def _birth_widths(self, task: Task) -> list[int]:
        return [min(self.r, width(cut)) for cut in self.parts(task).values()]

    def births(self, rows: Tensor, state: State, task: Task) -> Tensor:
        """Sketched displacements from theta^0, part beside part."""
        return torch.cat(self._sketches(rows, state.server["start"], task), 1)

    def _sketches(self, rows: Tensor, origin: Tensor, task: Task) -> list[Tensor]:
        parts = self.parts(task)
        return births(rows, origin, list(parts.values()), self.r, [self._seed(part, task) for part in parts])

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        downs = super().downlink(state, ids, task)
        if not self.asks_for_tables:
            return downs

        # a table is made under theta^0, from which most clients start their first round anyway
        start = state.server["start"]
        elsewhere = [d.first and not torch.equal(d.w, start) for d in downs]
        return [replace(d, server={"start": task.w0}) if e else d for d, e in zip(downs, elsewhere, strict=True)]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        upload, sent = super().local_update(down, client, trainer), {}
        if down.first and self.asks_for_tables:
            sent["table"] = table_of(down.server.get("start", down.w), client, trainer, self.table_min)
            sent["counts"] = torch.bincount(client.train.y, minlength=len(sent["table"])).int()
        if self.train == "valgrad" and not down.first:  # the common start is no mix
            sent["slope"] = trainer.layout.take(trainer.gradient(down.w, client.val), self.columns.travels)
        return replace(upload, sent=sent)

    def diagnostics(self, state: State, task: Task) -> dict[str, float]:
        return super().diagnostics(state, task) | (told(state.server) if self.learned else {})

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A first training from theta^0 as for everybody, one row of attention, and what that row makes of the bank."""
        maps, round = self.maps(state), int(state.last.max())
        samples = torch.ones(task.n_clients) if task.uniform else task.n
        others = believed(Others(samples, self.fresh(state, round), state.server.get("trust")), state.server)
        fedavg = self.is_fedavg(round) and bool(maps.any())
        mean = last_mean(maps, state, task) if fedavg else mean_row(others, self.gamma).expand(len(maps), -1)
        if "mixed" in state.client:  # under a defence that clips, rows of a map may sum to less than 1
            mean = mean / mean.sum(1, keepdim=True).clamp_min(1e-300)
        if not bool(mean.any()):
            return Joined(task.w0, task.w0, down=4 * task.layout.size, note="nobody has a model yet: takes theta^0")
        arrival = self._blended(mean, task.w0, state, task)
        if fedavg:
            got = Placed(mean, task.w0, down=4 * task.layout.width(self.columns.travels), up=0)
        elif self.join_token == "loss":
            got = self._by_loss(state, client, trainer, task)
        else:
            got = self._by_token(state, client, trainer, task, others, arrival)
            got = replace(got, rows=torch.where(got.rows.any(1, keepdim=True), got.rows, mean))
        if not fedavg:
            got = fit(
                got,
                lambda rows: self._blended(rows, got.trained, state, task),
                rows_left(state.server, state.client["bank"]),
                list(self.parts(task).values()),
                self.columns.travels,
                client,
                trainer,
                self.join_fit,
            )
        model, own = self._blended(got.rows, got.trained, state, task), {**got.own, "rows": got.rows}
        if self.head == "both":
            own["offset"] = trained_offset(model, torch.zeros(task.layout.width("head")), client, trainer)
            model = with_offset(model, own["offset"], task.layout)
        share = torch.tensor([width(cut) for cut in self.parts(task).values()], dtype=torch.float64)
        row = (share / share.sum()) @ got.rows
        return Joined(arrival, model, own, row, down=got.down, up=got.up, note=got.note)

    def _blended(self, rows: Tensor, private: Tensor, state: State, task: Task) -> Tensor:
        """A whole model (P,): the bank by the weights (G, N) of every part, and the private columns of `private`."""
        cuts = list(self.parts(task).values())
        inside = blend(rows, rows_left(state.server, state.client["bank"]), cuts, task.class_head)
        return task.whole(self.columns, inside, task.layout.take(private, self.columns.private))

    def _by_token(
        self, state: State, client: ClientData, trainer: Trainer, task: Task, others: Others, arrival: Tensor
    ) -> Placed:
        """The newcomer's similarities to the others, from a token of the kind that the server has of them."""
        layout, parts, kept = task.layout, self.parts(task), state.client
        shared = 4 * layout.width(self.columns.travels)
        if self.token == "prototypes":
            return self._by_table(state, client, trainer, task, others)
        if self.join_token == "update":
            trained, start, own, up = self._first(arrival, client, trainer), shared, {}, shared
            rows = torch.cat([kept["bank"], layout.take(trained, self.columns.travels)[None]])
            mean = layout.take(arrival, self.columns.travels)
            tables = [cosines(gram(columns(rows, cut), columns(mean, cut))) for cut in parts.values()]
            tokens = [unit(z.double()) for z in self._sketches(rows, mean, task)] if self.learned else []
        else:
            trained, start, up = self._first(task.w0, client, trainer), 4 * layout.size, shared
            row = layout.take(trained, self.columns.travels)
            own = {"bank": row, "birth": self.births(row[None], state, task)[0]}
            rows = torch.cat([kept["birth"], own["birth"][None]]).double()
            tokens = [unit(z) for z in torch.split(rows, self._birth_widths(task), 1)]
            tables = [z @ z.t() for z in tokens]
            others = replace(others, keys=others.keys & kept["birth"].any(1))
        options = [self._options(part, int(state.last.max()), task) for part in parts]
        if self.learned:
            scorer = Learner.from_tensors(state.server).best
            rows, alone = learned_shares(scorer, tokens, tables, self.maps(state), others, options)
        else:
            rows, alone = shares(tables, self.maps(state), others, options)
        where = f" in {', '.join(part for g, part in enumerate(parts) if g in alone)}" if len(parts) > 1 else ""
        note = f"lone{where}: takes the mean" if alone else ""
        return Placed(rows, trained, start + shared, up, own, note)

    def _by_table(self, state: State, client: ClientData, trainer: Trainer, task: Task, others: Others) -> Placed:
        """The newcomer's place by its class table; it trains nothing before it has a row."""
        table = table_of(task.w0, client, trainer, self.table_min)
        counts = client.train.y.bincount(minlength=len(table))
        able = torch.nonzero(others.keys & state.client["table"].flatten(1).any(1)).flatten()

        found = evidence(
            torch.cat([state.client["table"][able], table[None]]),
            sent_counts(torch.cat([task.label_counts[able], counts[None]]), self.table_min),
        )
        trust = None if others.trust is None else others.trust[able]
        if self.trust == "on":
            assert trust is not None
            maps = self.maps(state)[0][able][:, able]
            trust = (trust + gate(maps, self._displacements(state, able))).clamp_min(FLOOR)
        some = Others(others.samples[able], torch.ones(len(able), dtype=torch.bool), trust)
        row = newcomer_by_evidence(found, some, self._options("", 0, task))

        weights = torch.zeros(task.n_clients, dtype=torch.float64)
        weights[able] = row.weights
        if not row.lone:
            weights = weights @ self.maps(state)[0]
        note = "lone: takes the mean" if row.lone else ""
        sent = 4 * (table.numel() + len(counts))
        return Placed(weights[None], task.w0, 4 * task.layout.size, sent, {"table": table}, note)

    def _first(self, start: Tensor, client: ClientData, trainer: Trainer) -> Tensor:
        """A newcomer's first training, the same as that of a client in its first round."""
        return trainer.sgd(start, client.train, pull=(start, self.mu))

    def _by_loss(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Placed:
        """IFCA's rule: it downloads every distinct model there is and takes the one that fits its data best."""
        maps = self.maps(state)
        rows = torch.unique(maps[:, maps[0].any(1)].transpose(0, 1), dim=0)  # (models, G, N)
        losses = [trainer.score(self._blended(row, task.w0, state, task), client.train).loss for row in rows]
        best = min(range(len(losses)), key=losses.__getitem__)
        return Placed(rows[best], task.w0, down=4 * task.layout.width(self.columns.travels) * len(rows), up=0)
