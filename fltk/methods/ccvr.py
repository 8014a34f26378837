"""CCVR: FedAvg, whose output layer is trained again at the end on features that are drawn from class statistics.

M. Luo, F. Chen, D. Hu, Y. Zhang, J. Liang, J. Feng. "No Fear of Heterogeneity: Classifier Calibration for Federated
Learning with Non-IID Data." NeurIPS 2021. arXiv:2106.05001

    (rounds)  FedAvg
    (client)  per class c, over features z of the last layer: N_c, mean mu_c, covariance Sigma_c with divisor N_c - 1
    (server)  mu_c    = sum_k N_ck mu_ck / N_c
              Sigma_c = [sum_k (N_ck - 1) Sigma_ck + sum_k N_ck mu_ck mu_ck^T - N_c mu_c mu_c^T] / (N_c - 1)
              z ~ N(mu_c, Sigma_c), `per_class` of each class; cross-entropy of the output layer on these

Features are those of the trained model in evaluation mode. Class means and covariances reach the server: second moments
tell much of few samples. A class with fewer than two samples in all is left out.

Differs from the paper: clients are asked once, whether they were sampled or not; `ridge` tr(Sigma)/F on the diagonal,
because N_c may be smaller than F.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fltk.hyper import hyper
from fltk.methods.heads import head_shape
from fltk.partition.federation import ClientData
from fltk.protocol.messages import Down, Upload
from fltk.protocol.method import Method
from fltk.protocol.server import Server
from fltk.protocol.state import State
from fltk.protocol.task import Task
from fltk.train.trainer import Trainer


@dataclass(frozen=True)
class CCVR(Method):
    """FedAvg and a calibrated output layer."""

    title: ClassVar[str] = "FedAvg; at the end the head is calibrated on virtual features"
    map_kind: ClassVar[str] = "direction"

    per_class: int = hyper(100, "virtual features of each class", low=1)
    calibrate_epochs: int = hyper(5, "epochs of the output layer on the virtual features (0: FedAvg)", low=0)
    calibrate_lr: float = hyper(0.01, "learning rate of these epochs", low=0)
    calibrate_batch: int = hyper(64, "virtual features in a batch", low=1)
    ridge: float = hyper(1e-4, "share of the mean variance that is added to the diagonal", low=0)

    def check(self, task: Task) -> None:
        task.need_labels("ccvr")

    def finish(self, state: State, server: Server) -> State:
        if not self.calibrate_epochs:
            return state
        w, everyone = state.server["w"], range(server.task.n_clients)
        uploads = server.ask(class_statistics, everyone, [Down(w) for _ in everyone])
        mean, covariance, counts = merged([u.sent for u in uploads])

        head = self._calibrated(w, mean, covariance, counts, server)
        return replace(state, server={**state.server, "w": server.task.layout.put(w, "head", head)})

    def _calibrated(self, w: Tensor, mean: Tensor, covariance: Tensor, counts: Tensor, server: Server) -> Tensor:
        """The columns of the output layer after its training on virtual features."""
        layout, generator = server.task.layout, server.trainer.streams.generator("ccvr", server.round)
        if not bool((counts > 1).any()):
            return layout.take(w, "head")
        features, labels = self._virtual(mean, covariance, counts, generator)
        classes, width = head_shape(layout)
        head = layout.take(w, "head").clone().requires_grad_()
        weight, bias = head[: classes * width].view(classes, width), head[classes * width :]

        for cut in self._batches(len(labels), generator):
            loss = F.cross_entropy(features[cut] @ weight.t() + bias, labels[cut])
            (slope,) = torch.autograd.grad(loss, head)
            with torch.no_grad():
                head -= self.calibrate_lr * slope
        return head.detach()

    def _virtual(
        self, mean: Tensor, covariance: Tensor, counts: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Features (n, F) drawn from every class that has two samples or more, and their labels (n,)."""
        features, labels = [], []
        for c in torch.nonzero(counts > 1).flatten().tolist():
            sigma = covariance[c]
            ridge = self.ridge * sigma.diagonal().mean()
            values, axes = torch.linalg.eigh(sigma + ridge * torch.eye(len(sigma), dtype=sigma.dtype))
            root = axes * values.clamp_min(0).sqrt()
            normal = torch.randn(self.per_class, len(sigma), generator=generator, dtype=torch.float64)
            features.append((mean[c] + normal @ root.t()).float())
            labels.append(torch.full((self.per_class,), c))
        return torch.cat(features), torch.cat(labels)

    def _batches(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Numbers of the features of each batch, epoch by epoch."""
        for _ in range(self.calibrate_epochs):
            yield from torch.split(torch.randperm(count, generator=generator), self.calibrate_batch)


def class_statistics(down: Down, client: ClientData, trainer: Trainer) -> Upload:
    """What a client says of its training features under the model it gets: counts, means and covariances by class."""
    features = trainer.features(down.w, client.train).double()
    classes, width = head_shape(trainer.layout)
    counts = torch.bincount(client.train.y, minlength=classes)
    means = torch.zeros(classes, width, dtype=torch.float64)
    covariances = torch.zeros(classes, width, width, dtype=torch.float64)

    for c in torch.nonzero(counts).flatten().tolist():
        mine = features[client.train.y == c]
        means[c] = mine.mean(0)
        apart = mine - means[c]
        covariances[c] = apart.t() @ apart / max(1, len(mine) - 1)
    return Upload(down.w[:0], sent={"counts": counts, "means": means.float(), "covariances": covariances.float()})


def merged(sent: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of all clients together: means (C, F), covariances (C, F, F) in float64, and counts (C,)."""
    counts = torch.stack([one["counts"] for one in sent]).sum(0)
    total = counts.double().clamp_min(1)
    mean = sum(one["counts"].double()[:, None] * one["means"].double() for one in sent) / total[:, None]

    scatter = torch.zeros(*mean.shape, mean.shape[1], dtype=torch.float64)
    for one in sent:
        n, apart = one["counts"].double(), one["means"].double() - mean
        within = (n - 1).clamp_min(0)[:, None, None] * one["covariances"].double()
        scatter += within + n[:, None, None] * apart[:, :, None] * apart[:, None, :]
    return mean, scatter / (total - 1).clamp_min(1)[:, None, None], counts
