"""FedMD: clients with networks of their own teach each other by what they say of public samples.

D. Li, J. Wang. "FedMD: Heterogenous Federated Learning via Model Distillation." NeurIPS 2019 workshop. arXiv:1910.03581

    (first)   w_i <- SGD on the public samples with their labels, `warmup` epochs, then on the client's own data
    (client)  z_i(x) for the public samples x of this round             logits, before the softmax
    (server)  z~(x) = 1/|S| sum_i z_i(x)
    (digest)  w_i <- SGD(mean |z(x; w_i) - z~(x)|)                      `digest_epochs`
    (revisit) w_i <- SGD(F_i, w_i)                                      the run's local work

A round has two exchanges: logits up, the consensus down. No weight ever travels, so that `--models` may give clients
different networks. Needs `--public N` samples, whose labels clients use for their warm-up.

Differs from the paper: SGD with the run's settings, where theirs is Adam with a stop on validation data; the public
samples of a round are drawn once and named by their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fltk.errors import UsageError
from fltk.hyper import hyper
from fltk.models.parts import ALL, NONE, Columns
from fltk.partition.federation import ClientData, Split
from fltk.protocol.averaging import common_rows
from fltk.protocol.map import Map
from fltk.protocol.messages import Down, Joined, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.losses import absolute_error
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class FedMD(Method):
    """Distillation between clients through public samples."""

    title: ClassVar[str] = "own networks that learn from a consensus on public data"
    printed: ClassVar[str] = "personal"
    cannot: ClassVar[Mapping[str, str]] = {"defence": "no model is sent that it could judge"}

    public_batch: int = hyper(500, "public samples of a round", low=1)
    warmup: float = hyper(5.0, "epochs on the labelled public samples before a client's first round", low=0)
    digest_epochs: float = hyper(1.0, "epochs on the consensus", low=0)

    @property
    def columns(self) -> Columns:
        return Columns(travels=NONE, private=ALL)

    def check(self, task: Task) -> None:
        task.need_labels("fedmd")
        if not task.public:
            raise UsageError("--method fedmd needs public samples: add --public 500")

    def init(self, task: Task) -> State:
        state = super().init(task)
        generator = torch.Generator().manual_seed(task.seed("fedmd"))
        return replace(state, server={**state.server, **self._asked(task, generator)})

    def _asked(self, task: Task, generator: torch.Generator) -> dict[str, Tensor]:
        """The public samples of the next round, of which nothing is known yet."""
        chosen = torch.randperm(task.public, generator=generator)[: self.public_batch].sort().values
        return {"samples": chosen, "consensus": torch.zeros(0, task.label_counts.shape[1])}

    def participants(self, state: State, sampled: Sequence[int], server: Server) -> Sequence[int] | None:
        """Those that were sampled send logits, and then learn from the consensus."""
        return sampled if server.step < 2 else None

    def downlink(self, state: State, ids: Sequence[int], task: Task) -> list[Down]:
        given = {name: state.server[name] for name in ("samples", "consensus")}
        return [replace(down, server=given) for down in super().downlink(state, ids, task)]

    def local_update(self, down: Down, client: ClientData, trainer: Trainer) -> Upload:
        public, chosen, consensus = trainer.public, down.server["samples"], down.server["consensus"]
        if len(consensus):
            lesson = Split(public.x[chosen], consensus)
            w = trainer.sgd(down.w, lesson, epochs=self.digest_epochs, loss=absolute_error)
            return Upload(trainer.sgd(w, client.train))

        w = down.w
        if down.first:
            w = trainer.sgd(w, public, epochs=self.warmup)
            w = trainer.sgd(w, client.train)
        return Upload(w, sent={"logits": trainer.outputs(w, public.x[chosen])})

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        if len(state.server["consensus"]):
            generator = server.trainer.streams.generator("fedmd", server.round)
            return self.next_state(state, uploads, server, self._asked(server.task, generator))

        logits = torch.stack([u.sent["logits"] for u in uploads])
        row = torch.zeros(server.task.n_clients, dtype=torch.float64)
        row[[u.client for u in uploads]] = 1 / len(uploads)
        return self.next_state(state, uploads, server, {"consensus": logits.double().mean(0).float(), "p": row})

    def mixing(self, state: State, task: Task) -> Map | None:
        """Weights of the clients' predictions in the consensus: a proxy, since no models are mixed."""
        return None if "p" not in state.server else Map("proxy", {"all": common_rows(state.server["p"])}, task.layout)

    def join(self, state: State, client: ClientData, trainer: Trainer, task: Task) -> Joined:
        """A newcomer warms up like the others, and trains on its own data."""
        start = task.initial(client.id)
        warm = trainer.sgd(start, trainer.public, epochs=self.warmup)
        return Joined(start, trainer.sgd(warm, client.train))
