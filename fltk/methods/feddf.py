"""FedDF: the server's average learns from the ensemble of the clients' models, on public samples without labels.

T. Lin, L. Kong, S. U. Stich, M. Jaggi. "Ensemble Distillation for Robust Model Fusion in Federated Learning." NeurIPS
2020. arXiv:2006.07242

    w   = sum_{i in S} p_i w_i                                       FedAvg's average, where the student begins
    z-  = 1/|S| sum_{i in S} z(x; w_i)                               logits of all uploaded models, x public
    w   <- Adam(KL(softmax(z- / T) || softmax(z(x; w) / T)))         `server_steps` steps, the rate falls as a cosine

Needs `--public N` samples, which no client holds; their labels are not read.

Differs from the paper: a fixed number of steps, where theirs stop early on labelled validation data that FedAvg does
not have; one network for all clients. The gradient's norm is cut at 5, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fltk.errors import UsageError
from fltk.hyper import hyper
from fltk.protocol.messages import Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer

LARGEST_NORM = 5.0  # of a gradient


@dataclass(frozen=True)
class FedDF(Method):
    """FedAvg, and distillation of the uploaded models into their average."""

    title: ClassVar[str] = "FedAvg, then distillation from the ensemble on public data"
    map_kind: ClassVar[str] = "direction"

    server_steps: int = hyper(500, "steps of distillation a round (0: FedAvg)", low=0)
    server_lr: float = hyper(1e-3, "learning rate of the server's Adam", low=0)
    distill_batch: int = hyper(128, "public samples in a batch", low=1)
    temperature: float = hyper(1.0, "temperature T of both softmaxes", low=1e-6)

    def check(self, task: Task) -> None:
        task.need_labels("feddf")
        if not task.public and self.server_steps:
            raise UsageError("--method feddf needs public samples on the server: add --public 500")

    def aggregate(self, state: State, uploads: Sequence[Upload], server: Server) -> State:
        after = super().aggregate(state, uploads, server)
        if not self.server_steps:
            return after

        teachers = server.map(public_logits, [upload.w for upload in uploads])
        ensemble = torch.stack(teachers).double().mean(0).float()
        student = self._distilled(after.server["w"], ensemble, server)
        return replace(after, server={**after.server, "w": student})

    def _distilled(self, w: Tensor, logits: Tensor, server: Server) -> Tensor:
        """The student (P,) after its steps towards the ensemble's logits (n, C)."""
        trainer, steps = server.trainer, self.server_steps
        targets = torch.softmax(logits / self.temperature, 1)

        def loss(out: Tensor, y: Tensor) -> Tensor:
            log_p = torch.log_softmax(out / self.temperature, 1)
            return F.kl_div(log_p, y, reduction="batchmean") * self.temperature**2

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            generator = trainer.streams.generator("feddf", server.round)
            for _ in range(steps):
                some = torch.randint(len(targets), (self.distill_batch,), generator=generator)
                yield server.public.x[some], targets[some]

        return trainer.fit(w, batches(), loss, lr=self.server_lr, steps=steps, clip=LARGEST_NORM)


def public_logits(trainer: Trainer, w: Tensor) -> Tensor:
    """What a model (P,) says of the public samples, (n, C)."""
    return trainer.outputs(w, trainer.public.x)
