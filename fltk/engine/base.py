"""The contract of an engine, and the bench at which client work is done."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from fltk import channel
from fltk.attacks.base import Samples
from fltk.attacks.campaign import Campaign
from fltk.channel import Channel
from fltk.config import TrainConfig
from fltk.defences.base import Defence
from fltk.errors import UsageError
from fltk.fields import whole
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.partition.federation import ClientData, Federation, Split
from fltk.protocol.class_head import ClassHead
from fltk.protocol.map_control import MapControl
from fltk.protocol.method import Method
from fltk.protocol.server_optimiser import ADAGRAD, AVGM, ServerOptimiser
from fltk.protocol.task import Task
from fltk.train.backend import Backend
from fltk.train.streams import Streams
from fltk.train.trainer import SERVER, Ask, Trainer

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def default_model(shape: tuple[int, ...], tokens: bool = False) -> str:
    """The network used when none is named: an lstm for tokens, a small convolutional one for time series, or an mlp."""
    if tokens:
        return "lstm"
    return "cnn1d" if len(shape) == 2 else "mlp"


@dataclass(frozen=True)
class Protection:
    """A run's defence by name, the malicious share that it assumes, whose weights count, and the size of its root set.

    weights: the method's own, uniform, or empty for those that the rule is published for.
    """

    name: str
    defence: Defence
    share: float
    weights: str = ""
    root: int = 100


@dataclass(frozen=True)
class Job:
    """All that client work depends on besides its task; sent once to every worker."""

    federation: Federation
    train: TrainConfig
    method: Method
    seed: int
    device: str = "cpu"
    campaign: Campaign | None = None
    protection: Protection | None = None

    def streams(self) -> Streams:
        return Streams(self.seed)

    def network(self, name: str = "") -> torch.nn.Module:
        """The network of this name, by default the run's, without weights; a method may build its own from it."""
        name = name or self.network_name(SERVER)
        data, objective = self.federation, self.federation.objective
        zoo.check_tokens(name, objective.tokens)
        outputs, hidden = objective.width(data.n_classes), self.train.hidden_sizes()
        return self.method.network(lambda: zoo.make(name, data.shape, outputs, hidden))

    def network_name(self, client: int) -> str:
        """The network of a client, or of the server: with `--models` the largest one."""
        names = self.network_names
        if not names:
            return self.train.model or default_model(self.federation.shape, self.federation.objective.tokens)
        return self.largest if client == SERVER else names[client % len(names)]

    @cached_property
    def network_names(self) -> tuple[str, ...]:
        """With `--models` the network of every client, after which newcomers take them in turn; else none."""
        return self.train.network_names(len(self.federation.clients))

    @cached_property
    def largest(self) -> str:
        """The network with the most columns, of those that clients have."""
        distinct = sorted(set(self.network_names))
        return max(distinct, key=lambda name: Layout.of(self.network(name)).size)

    @cached_property
    def width(self) -> int:
        """P, the length of a flat model."""
        return Layout.of(self.network()).size

    def untrained(self, generator: torch.Generator) -> torch.Tensor:
        """Initial weights (P,) drawn from a generator of the caller's."""
        model = self.network()
        return zoo.initial(model, Layout.of(model), generator)

    def initial(self, client: int) -> torch.Tensor:
        """The common initial weights of a client's network, (P_i,)."""
        model = self.network(self.network_name(client))
        return zoo.initial(model, Layout.of(model), self.streams().generator("init"))

    @cached_property
    def channel(self) -> Channel | None:
        """The filters of `--channel`."""
        return channel.parse(self.train.channel) if self.train.channel else None

    @property
    def map_control(self) -> MapControl | None:
        """What takes the place of the method's map."""
        if not self.train.map_control:
            return None
        streams = self.streams()
        return MapControl(self.train.map_control, lambda client: streams.generator("map-control", client=client))

    @cached_property
    def server_optimiser(self) -> ServerOptimiser | None:
        """The method's own server optimiser, or that of `--server-opt` with the defaults of its kind."""
        asked = self.train
        if not asked.server_opt:
            return self.method.server_optimiser
        plain = asked.server_opt == AVGM
        lr = asked.server_lr or (1.0 if plain else 0.01)
        beta1 = asked.server_beta1
        if beta1 == -1:
            beta1 = 0.0 if asked.server_opt == ADAGRAD else 0.9
        return ServerOptimiser(asked.server_opt, lr, beta1, asked.server_beta2, asked.server_tau)

    def _check_objective(self) -> None:
        """UsageError for a method or an option that needs class labels, where the data have none."""
        objective = self.federation.objective
        if objective.softmax:
            return
        if self.train.head_mix == "classes":
            raise UsageError(f"--head-mix classes needs class labels, and this is {objective.name}; use rows")

    @cached_property
    def samples(self) -> Samples:
        """What an attack on data has to know of all samples."""
        x = self.federation.x
        return Samples(self.federation.n_classes, x.amax([axis for axis in range(x.dim()) if axis != 1]))

    def task(self) -> Task:
        """What the method is told of the federation."""
        model, streams = self.network(), self.streams()
        layout = Layout.of(model)
        layout.check(self.method.columns, type(self.method).__name__)
        clients = self.federation.clients
        empty = [c.id for c in clients if not len(c.train)]
        if empty:
            raise UsageError(f"client {empty[0]} has no training sample: raise --min-size or lower --clients")
        counts = torch.as_tensor(self.federation.label_counts)[: len(clients)].long()
        classes = self.train.head_mix == "classes"
        self._check_objective()
        groups = self.federation.groups
        return Task(
            layout=layout,
            w0=zoo.initial(model, layout, streams.generator("init")),
            n=torch.tensor([len(c.train) for c in clients]),
            n_val=torch.tensor([len(c.val) for c in clients]),
            label_counts=counts,
            groups=None if groups is None else torch.as_tensor(groups)[: len(clients)].long(),
            uniform=self.train.agg_weights == "uniform",
            plain_sgd=self.train.plain_sgd,
            fresh=lambda purpose, index: zoo.initial(model, layout, streams.generator(f"init/{purpose}", client=index)),
            seed=lambda purpose: streams.seed(purpose),
            labels=self.federation.objective.softmax,
            class_head=ClassHead.of(layout, self.method.columns.travels, counts) if classes else None,
            public=len(self.federation.public),
            starts=self._starts(),
        )

    def _starts(self) -> tuple[torch.Tensor, ...]:
        """With `--models` the initial weights of every client and newcomer; clients of one network share them."""
        if not self.network_names:
            return ()
        everyone = range(len(self.federation.clients) + len(self.federation.newcomers))
        distinct = {name: self.initial(self.network_names.index(name)) for name in sorted(set(self.network_names))}
        return tuple(distinct[self.network_name(i)] for i in everyone)


def check_device(device: str) -> None:
    """Refuse what torch cannot compute on here."""
    kind, colon, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind != "cuda" or whole(index) is None)):
        raise UsageError(f"--device takes cpu, cuda or cuda:N, not {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch sees no CUDA device here; use --device cpu")
    if index and int(index) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")


class Bench:
    """One worker's tools: data, method, a backend for each network, and the trainer of the client that works."""

    def __init__(self, job: Job):
        check_device(job.device)
        self.method = job.method
        self.federation = job.federation
        self.job = job
        self._poisoned: dict[int, ClientData] = {}
        self._backends: dict[str, Backend] = {}
        self.backend = self.backend_of(SERVER)
        self.trainer = self.lane()

    def backend_of(self, client: int) -> Backend:
        """The backend for the network of a client, or of the server."""
        name = self.job.network_name(client)
        if name not in self._backends:
            model = self.job.network(name)
            objective, step = self.federation.objective, self.job.train.step
            self._backends[name] = Backend(model, Layout.of(model), step, self.job.device, objective)
        return self._backends[name]

    def lane(self, ask: Ask | None = None) -> Trainer:
        """A trainer of its own at this bench's backends."""
        frozen, public = self.method.columns.frozen, self.federation.public
        return Trainer(self.backend_of, self.job.train, self.job.streams(), ask, frozen, public)

    @cached_property
    def task(self) -> Task:
        """What the method knows of the federation; made when client work first asks for it."""
        return self.job.task()

    @cached_property
    def pooled(self) -> torch.Tensor:
        """(C,) training samples per class of all clients that train."""
        return self.task.label_counts.sum(0)

    def training(self, id: int, round: int) -> tuple[ClientData, Trainer]:
        """What a client trains with in a round: a malicious one has poisoned data, and settings of its own."""
        client, trainer, campaign = self.client(id), self.trainer.at(round, id), self.job.campaign
        if campaign is None or not campaign.hits(round, id):
            return client, trainer
        if id not in self._poisoned:
            self._poisoned[id] = campaign.data(client, self.job.samples)
        other = campaign.overrides()
        return self._poisoned[id], trainer if other is None else trainer.under(other)

    @property
    def attacked(self) -> bool:
        """Whether some client of the run is malicious in some round."""
        return self.job.campaign is not None and bool(self.job.campaign.malicious)

    @cached_property
    def root(self) -> Split:
        """The server's clean set, drawn from the training data of newcomers; the same when some have entered."""
        protection, parts = self.job.protection, self.federation.held_out
        if protection is None or not parts:
            return Split(self.federation.x[:0], self.federation.y[:0])
        x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
        order = torch.randperm(len(y), generator=self.job.streams().generator("defence/root"))[: protection.root]
        return Split(x[order], y[order])

    def triggered(self, client: ClientData) -> Split | None:
        """Test images of other classes than a backdoor's target, with its trigger and labelled with its target."""
        campaign = self.job.campaign
        if campaign is None or campaign.attack.goal is None or client.id in campaign.malicious:
            return None
        others = client.test.y != campaign.attack.goal
        x = campaign.attack.trigger(client.test.x[others], self.job.samples)
        return None if x is None else Split(x, torch.full_like(client.test.y[others], campaign.attack.goal))

    def client(self, id: int) -> ClientData:
        """A client or newcomer by id."""
        clients = self.federation.clients
        return clients[id] if id < len(clients) else self.federation.newcomers[id - len(clients)]


Work = Callable[[Bench, Any], Any]
Reduce = Callable[[Sequence[Any]], Any]
Take = Callable[[int, Any], Any]  # a task's number and its result


class Engine(Protocol):
    """Runs `work(bench, task)` for every task and gives the results in the order of the tasks."""

    @property
    def ready(self) -> bool:
        """Whether nobody is starting any more, and the engine is as fast as it will be."""

    def map(self, work: Work, tasks: Sequence[Any], sizes: Sequence[int], take: Take | None = None) -> list[Any]:
        """`work` is a module-level function; `sizes` are the tasks' relative costs, to deal them evenly.

        take: is told of every result as it comes, and gives what there shall be in its place. What is left of the
        result's tensors then may be gone, so that they need not all fit into memory.
        """

    def fold(
        self, work: Work, reduce: Reduce, parts: Sequence[Sequence[Any]], sizes: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        """What `reduce` makes of the results of every part of the tasks, with the part's number, as it comes.

        It runs where the tasks did, so that results which together would fill the memory go no further. Its tensors
        are to be used or copied before the next part is asked for. `sizes` are the parts' costs.
        """

    def close(self) -> None:
        """Ends the workers. Calling it twice is harmless."""


def settle() -> None:
    """Makes this process one that computes: one torch thread, and freed memory is kept for the next round.

    Small kernels collapse on the barriers of threads, and sums must not depend on the core count. glibc gives every
    large tensor fresh pages and takes them back when it is freed, which costs more than to fill them.
    """
    torch.set_num_threads(1)
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


__all__ = ["Bench", "Engine", "Job", "Reduce", "Take", "Work", "check_device", "default_model", "settle"]
