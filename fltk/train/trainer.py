"""Local SGD on flat models: the reference loop that every method shares.

The loop is lean rather than clever: weights are views into one flat buffer, an epoch's samples are gathered
once and sliced, gradients come from autograd, and the update is a handful of in-place operations. Whatever a
method adds to the objective as a quadratic pull or a linear drift is added to the gradient, not to the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fltk.config import TrainConfig
from fltk.data.federation import Split
from fltk.errors import Diverged
from fltk.models.layout import Entry, Layout, Ranges
from fltk.train.streams import Streams

Loss = Callable[[nn.Module, Tensor, tuple[Tensor, Tensor]], Tensor]
EVAL_BATCH = 100  # larger batches leave the cache: a cnn scores half as fast at 500


@dataclass(frozen=True)
class Score:
    """What a model does on a split: mean cross-entropy, number of correct answers, number of samples."""

    loss: float
    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.n if self.n else math.nan


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
    """

    def __init__(self, model: nn.Module, layout: Layout, config: TrainConfig, streams: Streams, device: str = "cpu"):
        self.layout = layout
        self.config = config
        self.streams = streams
        self.device = torch.device(device)
        self._model = model.to_empty(device=self.device)
        self._flat = torch.zeros(layout.size, device=self.device)
        self._params = layout.bind(self._model, self._flat)
        self._head = self._model.get_submodule(layout.weighted_layers[-1])
        self._grad = torch.zeros(layout.trainable, device=self.device)
        self._images = any(len(e.shape) == 4 for e in layout.entries)
        self._steps = [m.forward for m in self._model] if isinstance(self._model, nn.Sequential) else [self._model]
        self._parts: dict[str, _Trained] = {}
        self._mode = ""
        self._other = AS_CONFIGURED
        self.round = 0
        self.client = 0
        self.losses: list[float] = []
        self.taken = 0  # SGD steps since this trainer was made

    def at(self, round: int, client: int) -> Trainer:
        """This trainer, moved to a round and a client, where it does what the run says."""
        self.round, self.client, self.losses, self._other = round, client, [], AS_CONFIGURED
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
        return c.lr * c.lr_decay**t if c.lr_schedule == "exponential" else c.lr

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
        only: str = "all",
        pull: tuple[Tensor, float] | None = None,
        drift: Tensor | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """`w` (P,) after local SGD on `data`; `w` itself is left alone.

        epochs: work (default: the run's `epochs` or `steps`).  only: train this part and freeze the rest,
        running statistics included.  pull: (u, lam) adds lam/2 ||w - u||^2.  drift: (P,) adds <drift, w>.
        loss: another objective than cross-entropy, a pure function of (model, w, batch).  Raises Diverged
        when the weights leave the finite numbers.
        """
        steps = self.steps(len(data), epochs)
        if steps == 0 or (only != "all" and not self.layout.width(only)):
            return w
        self.taken += steps
        self._flat.copy_(w)
        rule = self._rule(only, self.lr if lr is None else lr, pull, drift)
        if only == "head" and loss is None and isinstance(self._head, nn.Linear):
            total = self._head_steps(data, steps, rule)
        else:
            total = self._autograd_steps(data, steps, rule, only, loss)
        out = self._flat.to("cpu", copy=True)
        self.losses.append(total / steps)
        # a sum carries NaN and infinity at a tenth of the price of a test
        if not math.isfinite(total + float(out.sum())):
            raise Diverged(
                f"client {self.client}, round {self.round + 1}: the training loss is no longer finite; "
                f"lower --lr (now {rule.lr:g}) or the strength of the method's penalty"
            )
        return out

    def score(self, w: Tensor, data: Split) -> Score:
        """Loss and correct answers of `w` on `data`, in evaluation mode."""
        if not len(data):
            return Score(math.nan, 0, 0)
        self._flat.copy_(w)
        self._evaluating()
        loss, correct = 0.0, 0
        with torch.no_grad():
            for x, y in self._slices(data.x, data.y, EVAL_BATCH):
                logits = self._model(x)
                loss += float(F.cross_entropy(logits, y, reduction="sum"))
                correct += int((logits.argmax(1) == y).sum())
        return Score(loss / len(data), correct, len(data))

    def features(self, w: Tensor, data: Split) -> Tensor:
        """What the last layer of `w` sees of `data`, (n, F), in evaluation mode."""
        self._flat.copy_(w)
        return self._features(data).cpu()

    def gradient(self, w: Tensor, data: Split) -> Tensor:
        """Gradient of the mean cross-entropy of `w` on `data`, (P,), in evaluation mode.

        It is zero in the columns of the buffers, and everywhere where there are no data.
        """
        self._flat.copy_(w)
        self._evaluating()
        total = torch.zeros_like(self._flat)
        parameters = self._trained("all")
        for x, y in self._slices(data.x, data.y, EVAL_BATCH):
            loss = F.cross_entropy(self._model(x), y, reduction="sum")
            for e, g in zip(parameters.entries, torch.autograd.grad(loss, parameters.wanted), strict=False):
                total[e.start : e.stop] += e.flatten(g)
        return (total / max(1, len(data))).cpu()

    def _evaluating(self) -> None:
        """Evaluation mode."""
        if self._mode != "eval":
            self._model.eval()
            self._mode = "eval"

    def _rule(self, only: str, lr: float, pull: tuple[Tensor, float] | None, drift: Tensor | None) -> _Rule:
        ranges = tuple(
            (a, min(b, self.layout.trainable)) for a, b in self.layout.ranges(only) if a < self.layout.trainable
        )
        lam, other = pull[1] if pull else 0.0, self._other
        momentum = self.config.momentum if other.momentum is None else other.momentum
        return _Rule(
            ranges=ranges,
            lr=lr,
            momentum=momentum,
            weight_decay=self.config.weight_decay if other.weight_decay is None else other.weight_decay,
            target=pull[0].to(self.device) if pull and lam else None,
            lam=lam,
            drift=None if drift is None else drift.to(self.device),
            buffers=[torch.zeros(b - a, device=self.device) for a, b in ranges] if momentum else [],
        )

    def _batches(self, n: int, steps: int) -> Iterator[tuple[Tensor, list[slice]]]:
        """Per epoch a permutation and its slices, until `steps` batches have been dealt."""
        generator = self.streams.generator("batches", self.round, self.client)
        size = min(self.config.batch_size, n)
        stop = n - n % size if self.config.drop_last else n
        while steps > 0:
            cuts = [slice(i, min(i + size, stop)) for i in range(0, stop, size)][:steps]
            yield torch.randperm(n, generator=generator), cuts
            steps -= len(cuts)

    def _slices(self, x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(0, len(x), size):
            yield self._inputs(x[i : i + size]), y[i : i + size].to(self.device)

    def _inputs(self, x: Tensor) -> Tensor:
        """On the device, and for convolutions with strides that say channels last even for one channel."""
        x = x.to(self.device)
        if not self._images or x.dim() != 4:
            return x
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        return x.as_strided((n, c, h, w), (c * h * w, 1, w * c, c))

    def _autograd_steps(self, data: Split, steps: int, rule: _Rule, only: str, loss: Loss | None) -> float:
        trained = self._trained(only)
        self._set_modes(trained.layers, only)
        values, wanted, entries = trained.values, trained.wanted, trained.entries
        total = torch.zeros((), device=self.device)
        for order, cuts in self._batches(len(data), steps):
            x, y = self._inputs(data.x[order]), data.y[order].to(self.device)
            for cut in cuts:
                xb, yb = x[cut], y[cut]
                value = loss(self._model, self._flat, (xb, yb)) if loss else F.cross_entropy(self._forward(xb), yb)
                grads = torch.autograd.grad(-value if self._other.ascend else value, wanted)
                total += value.detach()
                if rule.plain:
                    for p, g in zip(values, grads, strict=False):  # a gradient beyond the values is not used
                        p.add_(g, alpha=-rule.lr)
                else:
                    flat = [e.flatten(g) for e, g in zip(entries, grads, strict=False)]
                    rule.update(self._flat, torch.cat(flat, out=self._grad[: sum(map(len, flat))]))
        return float(total)

    def _head_steps(self, data: Split, steps: int, rule: _Rule) -> float:
        """SGD on the last linear layer over a frozen base: the base runs once, gradients in closed form."""
        features = self._features(data)
        assert isinstance(self._head, nn.Linear)
        weight, bias = self._head.weight.data, self._head.bias.data
        total = torch.zeros((), device=self.device)
        for order, cuts in self._batches(len(data), steps):
            x, y = features[order], data.y[order].to(self.device)
            for cut in cuts:
                xb, yb = x[cut], y[cut]
                log_p = torch.log_softmax(torch.addmm(bias, xb, weight.t()), 1)
                total += F.nll_loss(log_p, yb)
                error = log_p.exp_()
                error[torch.arange(len(yb)), yb] -= 1.0
                error /= -len(yb) if self._other.ascend else len(yb)
                rule.update(self._flat, torch.cat([(error.t() @ xb).reshape(-1), error.sum(0)]))
        return float(total)

    def _features(self, data: Split) -> Tensor:
        """Inputs of the last linear layer, (n, features), in evaluation mode."""
        self._evaluating()
        caught: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        with torch.no_grad():
            for x, _ in self._slices(data.x, data.y, EVAL_BATCH):
                self._model(x)
        hook.remove()
        return torch.cat(caught)

    def _trained(self, only: str) -> _Trained:
        """What a part means for this model; found once, since small models feel every microsecond."""
        if only not in self._parts:
            ranges = self.layout.ranges(only)
            pairs = zip((e for e in self.layout.entries if e.trainable), self._params, strict=True)
            chosen = [(e, p) for e, p in pairs if any(a <= e.start < b for a, b in ranges)]
            # torch's GroupNorm crashes (CPU, channels last) when its input needs no gradient: the first layer gets one
            below = self._params[:1] if chosen and chosen[0][0].norm else []
            self._parts[only] = _Trained(
                entries=[e for e, _ in chosen],
                values=[p.data for _, p in chosen],
                wanted=[*(p for _, p in chosen), *below],
                layers={e.layer for e, _ in chosen},
            )
        return self._parts[only]

    def _forward(self, x: Tensor) -> Tensor:
        """The model without the bookkeeping of `Module.__call__`, which costs a small model several percent."""
        for step in self._steps:
            x = step(x)
        return x

    def _set_modes(self, trained: set[str], only: str) -> None:
        """Training mode; frozen normalisation layers keep their running statistics."""
        if only == "all" and self._mode == "train":
            return
        self._mode = "train" if only == "all" else "mixed"
        self._model.train()
        if only != "all":
            for name, module in self._model.named_modules():
                if name in self.layout.layers and name not in trained:
                    module.eval()


@dataclass(frozen=True)
class _Trained:
    """A part of the model as the training loop needs it."""

    entries: list[Entry]
    values: list[Tensor]  # the weights, without autograd
    wanted: list[nn.Parameter]  # whose gradients are asked for: the weights, and perhaps one more
    layers: set[str]


@dataclass
class _Rule:
    """One SGD update on the trained column ranges: gradient, decay, pull and drift, then momentum."""

    ranges: Ranges
    lr: float
    momentum: float
    weight_decay: float
    target: Tensor | None
    lam: float
    drift: Tensor | None
    buffers: list[Tensor]

    @property
    def plain(self) -> bool:
        return not (self.momentum or self.weight_decay) and self.target is None and self.drift is None

    def update(self, flat: Tensor, grad: Tensor) -> None:
        """`flat` (P,) after one step in place; `grad` holds the gradients of the ranges, one by one."""
        at = 0
        for k, (a, b) in enumerate(self.ranges):
            w, g = flat[a:b], grad[at : at + b - a]
            at += b - a
            if self.weight_decay:
                g.add_(w, alpha=self.weight_decay)
            if self.target is not None:
                g.add_(w - self.target[a:b], alpha=self.lam)
            if self.drift is not None:
                g.add_(self.drift[a:b])
            if self.momentum:
                g = self.buffers[k].mul_(self.momentum).add_(g)
            w.add_(g, alpha=-self.lr)
