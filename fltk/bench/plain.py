"""FedAvg as people write it: the reference that fltk's speed is told against.

A deep copy of the global model for each client, a DataLoader, optim.SGD, autograd, and an average of state dicts, on
one thread. It does the same work as fltk's round: same data, same batches in the same order, same initial weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, TensorDataset

from fltk.bench.machine import settle
from fltk.engine.base import Job
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.partition.federation import Split

Batches = DataLoader[tuple[Tensor, ...]]


class Shuffled(Sampler[int]):
    """Samples in a new order in every epoch, as torch's random sampler does, which draws one order more in each."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n = n
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.n, generator=self.generator).tolist())

    def __len__(self) -> int:
        return self.n


class PlainLoop:
    """The global model, and rounds of training it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.rounds = 0
        self.model = initial_model(job)

    def round(self) -> None:
        """One round with all clients."""
        clients = self.job.federation.clients
        total = sum(len(client.train) for client in clients)
        average: dict[str, Tensor] = {}
        for client in clients:
            model = copy.deepcopy(self.model)
            self._train(model, self._batches(client.train, client.id))
            for name, value in model.state_dict().items():
                share = value * (len(client.train) / total)
                average[name] = average[name] + share if name in average else share
        self.model.load_state_dict(average)
        settle(self.job.device)
        self.rounds += 1

    def weights(self) -> Tensor:
        """The global model as fltk lays it out, (P,)."""
        values = self.model.state_dict()
        return torch.cat([entry.flatten(values[entry.name]).cpu() for entry in Layout.of(self.model).entries])

    def _train(self, model: nn.Module, batches: Batches) -> None:
        config, device = self.job.train, self.job.device
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        for _ in range(int(config.epochs)):
            for x, y in batches:
                optimizer.zero_grad()
                F.cross_entropy(model(x.to(device)), y.to(device)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    def _batches(self, data: Split, client: int) -> Batches:
        """Samples in the order in which fltk draws them. Without a generator the loader would use the global one."""
        order = Shuffled(len(data), self.job.streams().generator("batches", self.rounds, client))
        samples = TensorDataset(data.x, data.y)
        return DataLoader(samples, self.job.train.batch_size, sampler=order, generator=torch.Generator())


def initial_model(job: Job) -> nn.Module:
    """The run's network with its initial weights, in torch's own memory layout."""
    model = job.network()
    layout = Layout.of(model)
    flat = zoo.initial(model, layout, job.streams().generator("init"))
    model = model.to_empty(device=job.device)
    model.load_state_dict({entry.name: entry.view(flat) for entry in layout.entries}, strict=False)
    return model
