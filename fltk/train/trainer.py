"""Local SGD as methods ask for it: at a round and a client, from the streams of that place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fltk.config import TrainConfig
from fltk.errors import Diverged
from fltk.hyper import FLOAT32
from fltk.models.layout import Layout
from fltk.models.parts import ALL, HEAD, NONE, Part
from fltk.partition.federation import Split
from fltk.train import augment
from fltk.train.augment import Mixup
from fltk.train.backend import Answer, Backend, Request
from fltk.train.losses import Loss
from fltk.train.order import Batches, SgdJob, SgdRule, Trained
from fltk.train.scoring import Score, ScoreJob
from fltk.train.streams import Streams

Ask = Callable[[Request], Answer]
SERVER = -1  # the client number of work that is the server's own


@dataclass(frozen=True)
class Overrides:
    """How one client trains otherwise than the run says: None keeps the run's setting; `ascend` climbs the data loss.

    Pull, drift and weight decay keep their direction when a client ascends.
    """

    epochs: float | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    ascend: bool = False


AS_CONFIGURED = Overrides()


class Trainer:
    """Trains and scores flat models (P,) of one architecture. One instance serves many clients, one by one.

    A trainer stands at a (round, client); all its random numbers come from the streams of that place, so
    `sgd` is a pure function of its arguments and the place. Two calls at one place draw the same batches:
    methods with two models per client feed both from the same stream.

    backend_of: the backend for the network of a client, or of the server (-1).  ask: who answers jobs; by
    default the backend itself, one at a time.  frozen: a part of the model that is never trained, whatever a method
    asks for.  public: the public samples of the partition.
    """

    def __init__(
        self,
        backend_of: Callable[[int], Backend],
        config: TrainConfig,
        streams: Streams,
        ask: Ask | None = None,
        frozen: Part = NONE,
        public: Split | None = None,
    ):
        self._backend_of = backend_of
        self.backend = backend_of(SERVER)
        self.config = config
        self.streams = streams
        self._frozen = frozen if self.layout.width(frozen) else NONE
        self._ask: Ask = ask or (lambda request: self.backend.answer([request])[0])
        self._public = public
        self._other = AS_CONFIGURED
        self.round = 0
        self.client = 0
        self.losses: list[float] = []
        self.taken = 0  # SGD steps since this trainer was made

    @property
    def layout(self) -> Layout:
        """The columns of the network that this place has."""
        return self.backend.layout

    @property
    def public(self) -> Split:
        """The samples that all can see (`--public`), on this machine as on every other."""
        if self._public is None:
            raise RuntimeError("this trainer was made without public samples")
        return self._public

    def at(self, round: int, client: int) -> Trainer:
        """This trainer, moved to a round and a client, where it does what the run says."""
        self.round, self.client, self.losses, self._other = round, client, [], AS_CONFIGURED
        self.backend = self._backend_of(client)
        return self

    def under(self, other: Overrides) -> Trainer:
        """This trainer, doing otherwise until it is moved."""
        self._other = other
        return self

    @property
    def lr(self) -> float:
        """The learning rate of this round (constant within a round)."""
        c, t = self.config, self.round
        if self._other.lr is not None:
            return self._other.lr
        if c.lr_schedule == "cosine":
            return c.lr * 0.5 * (1 + math.cos(math.pi * min(t, c.rounds) / c.rounds))
        return self._grown(t) if c.lr_schedule == "exponential" else c.lr

    def _grown(self, t: int) -> float:
        """The exponential schedule; one that grows ends with a rate that diverges, and not with one that overflows."""
        try:
            return min(self.config.lr * self.config.lr_decay**t, FLOAT32)
        except OverflowError:
            return FLOAT32

    def steps(self, n: int, epochs: float | None = None, batch_size: int | None = None) -> int:
        """Number of SGD steps that `epochs` (default: the configured work) mean for `n` samples."""
        if epochs is None:
            epochs = self._other.epochs
        if epochs is None and self.config.steps:
            return self.config.steps
        size = batch_size or self.config.batch_size
        per_epoch = max(1, n // size) if self.config.drop_last else math.ceil(n / size)
        epochs = self.config.epochs if epochs is None else epochs
        return max(1, round(epochs * per_epoch)) if epochs > 0 else 0

    def sgd(
        self,
        w: Tensor,
        data: Split,
        *,
        epochs: float | None = None,
        lr: float | None = None,
        only: str = ALL,
        pull: tuple[Tensor, float] | None = None,
        drift: Tensor | None = None,
        loss: Loss | None = None,
        given: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """`w` (P,) after local SGD on `data`; `w` itself is left alone.

        epochs: work (default: the run's `epochs` or `steps`).  only: train this part and freeze the rest,
        running statistics included.  pull: (u, lam) adds lam/2 ||w - u||^2.  drift: (P,) adds <drift, w>.
        loss: another objective than cross-entropy (`fltk.train.losses`), which also sees the tensors `given`.  Raises
        Diverged when the weights leave the finite numbers.
        """
        steps = self.steps(len(data), epochs)
        only = self._unfrozen(only)
        if steps == 0 or (only != ALL and not self._trainable(only)):
            return w
        self.taken += steps
        generator = self._generator()
        order = SgdJob(
            w=w,
            x=data.x,
            y=data.y,
            batches=Batches.deal(len(data), steps, self.config, generator),
            rule=self._rule(only, self.lr if lr is None else lr, pull[1] if pull else 0.0),
            target=pull[0] if pull and pull[1] else None,
            drift=drift,
            loss=loss,
            given=given or {},
            mixup=self._mixup(),
        )
        done = self._ask(order)
        assert isinstance(done, Trained)
        self.losses.append(done.loss / steps)
        if not math.isfinite(done.loss + done.total):
            decay = f", --weight-decay (now {order.rule.weight_decay:g})" if order.rule.weight_decay else ""
            raise Diverged(
                f"client {self.client}, round {self.round + 1}: the training loss is no longer finite; "
                f"lower --lr (now {order.rule.lr:g}){decay} or the strength of the method's penalty"
            )
        return done.w

    def batches(self, data: Split, steps: int | None = None) -> list[Split]:
        """The first batches of this place on `data`, as many as local work has steps: those that `sgd` sees.

        For methods whose rule goes from batch to batch; what they make of one is `sgd` on it with `epochs=1`.
        """
        count, generator = len(data), self._generator()
        dealt = Batches.deal(count, self.steps(count) if steps is None else steps, self.config, generator)
        cuts = [order[cut] for order, some in dealt for cut in some]
        return [Split(data.x[cut], data.y[cut]) for cut in cuts]

    def _mixup(self) -> Mixup | None:
        """The augmentation of this place's batches."""
        if not self.config.augment:
            return None
        seed = self.streams.seed("mixup", self.round, self.client)
        return replace(augment.parse(self.config.augment), seed=seed)

    def _generator(self) -> torch.Generator:
        """The stream of the batches of this place, at its beginning."""
        return self.streams.generator("batches", self.round, self.client)

    def fit(
        self,
        w: Tensor,
        batches: Iterable[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        lr: float,
        steps: int,
        clip: float = math.inf,
    ) -> Tensor:
        """`w` (P,) after a step of Adam for each batch (x, y) of `loss(outputs, y)`: server-side training.

        The learning rate falls from `lr` to 0 as a cosine over `steps`.  clip: largest norm of a gradient.
        """
        return self.backend.fit(w, batches, loss, lr=lr, steps=steps, clip=clip)

    def outputs(self, w: Tensor, x: Tensor) -> Tensor:
        """What the network with the weights `w` says of inputs (n, ...), in evaluation mode: (n, C)."""
        return self.backend.outputs(w, x).cpu()

    def score(self, w: Tensor, data: Split) -> Score:
        """Loss and correct answers of `w` on `data`, in evaluation mode."""
        return self.scores(w, data)[0]

    def scores(self, w: Tensor, *splits: Split) -> list[Score]:
        """The same on several splits."""
        found = self._ask(ScoreJob(w, splits))
        assert isinstance(found, list)
        return found

    def features(self, w: Tensor, data: Split) -> Tensor:
        """What the last layer of `w` sees of `data`, (n, F), in evaluation mode."""
        return self.backend.features(w, data.x).cpu()

    def gradient(self, w: Tensor, data: Split) -> Tensor:
        """Gradient of the mean cross-entropy of `w` on `data`, (P,), in evaluation mode.

        It is zero in the columns of the buffers, and everywhere where there are no data.
        """
        return self.backend.gradient(w, data)

    def _unfrozen(self, only: str) -> str:
        """The part `only` without frozen columns, under the name by which it is trained fastest."""
        if only == "top:1":
            return self._unfrozen(HEAD)
        if self._frozen == NONE:
            return only
        rest = Part(only) - self._frozen
        ranges = self.layout.ranges(rest)
        for name in (only, HEAD):
            if ranges == self.layout.ranges(name):
                return name
        return rest

    def _trainable(self, only: str) -> bool:
        return any(a < self.layout.trainable for a, _ in self.layout.ranges(only))

    def _rule(self, only: str, lr: float, lam: float) -> SgdRule:
        other, config = self._other, self.config
        return SgdRule(
            only=only,
            lr=lr,
            momentum=config.momentum if other.momentum is None else other.momentum,
            weight_decay=config.weight_decay if other.weight_decay is None else other.weight_decay,
            lam=lam,
            ascend=other.ascend,
            optimiser=config.client_opt,
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            eps=config.adam_eps,
            clip=config.clip_grad or math.inf,
        )
