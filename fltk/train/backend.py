"""One architecture's weights in one flat buffer, and everything that is computed with them.

A backend plays jobs of local SGD, one or several at once, scores models and takes gradients. It knows neither
rounds nor clients. Its own loop is lean rather than clever: weights are views into one flat buffer, an epoch's samples
are gathered once and sliced, gradients come from autograd, and the update is a handful of in-place operations. What a
method adds to the objective as a quadratic pull or a linear drift is added to the gradient, not to the graph. Orders
that can be played faster go to `fltk.train.fast`: perceptrons to its `dual` or `stack`, heads to the latter, models of
other known layers to `chain`, and on a GPU to `vmapped`; `--step` can force it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fltk.errors import UsageError
from fltk.models.layout import Entry, Layout, Ranges, module_of
from fltk.objectives import CLASSIFICATION, Objective
from fltk.partition.federation import Split
from fltk.train.fast import gram_mlp, stack, vmapped
from fltk.train.fast.chain import Chain
from fltk.train.losses import Batch, Net, loss_of
from fltk.train.order import SGD, SgdJob, Trained
from fltk.train.scoring import BATCH, Score, ScoreJob, Scorer, score, score_perceptrons
from fltk.train.steps import adam, decay, shorten

Request = SgdJob | ScoreJob
Answer = Trained | list[Score]


def chosen(step: str, layout: Layout, device: str) -> str:
    """What `--step` comes to for a model and a device: fast, autograd or vmap."""
    gpu, vmaps = torch.device(device).type != "cpu", vmapped.fits(layout)
    if step == "fast" and gpu:
        raise UsageError(f"--step fast is for the CPU, not for --device {device}; use auto or vmap")
    if step == "vmap" and not vmaps:
        raise UsageError("--step vmap takes models without running statistics or recurrent layers; use --step autograd")
    if step == "auto":
        return ("vmap" if vmaps else "autograd") if gpu else "fast"
    return step


class Backend:
    """Trains and scores flat models (P,) of one architecture."""

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        step: str = "auto",
        device: str = "cpu",
        objective: Objective = CLASSIFICATION,
    ):
        self.layout = layout
        self.objective = objective
        self.device = torch.device(device)
        self._model = model.to_empty(device=self.device)
        self._flat = torch.zeros(layout.size, device=self.device)
        self._params = layout.bind(self._model, self._flat)
        self._head = module_of(self._model, layout.weighted_layers[-1])
        self._grad = torch.zeros(layout.trainable, device=self.device)
        self._images = any(len(e.shape) == 4 for e in layout.entries)
        self._steps = [m.forward for m in self._model] if isinstance(self._model, nn.Sequential) else [self._model]
        self._parts: dict[str, _Part] = {}
        self._nets: dict[str, stack.Net | None] = {}
        self._products = gram_mlp.Products()
        self._mode = ""
        step = chosen(step, layout, device)
        fast = step == "fast" and objective.softmax  # steps by hand know the gradient of the cross-entropy alone
        self._net = stack.perceptron(self._model, layout) if fast else None
        linear = isinstance(self._head, nn.Linear)
        self._top = stack.head(layout) if fast and linear else None
        self._chain = Chain.of(self._model, layout, self._flat) if fast else None
        self._function = Net(self._model, layout)
        self._classes = self._head.weight.shape[0] if isinstance(self._head, nn.Linear) else 0
        self._gradients = vmapped.Gradients(self._function, loss_of(objective)) if step == "vmap" else None

    @property
    def together(self) -> int:
        """Clients whose orders are best played at once."""
        if self._gradients is not None:
            return vmapped.TOGETHER
        if self._net is not None:
            return gram_mlp.TOGETHER
        return 1 if self._top is None else self._top.together

    def play(self, orders: Sequence[SgdJob]) -> list[Trained]:
        """What comes of the orders, in their order."""
        done: dict[int, Trained] = {}
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for k, order in enumerate(orders):
            shapes = tuple((name, tensor.shape) for name, tensor in sorted(order.given.items()))
            alike = (self._kind(order), order.rule, order.batches.size, order.drift is None, order.loss, shapes)
            kinds.setdefault(alike, []).append(k)
        for (kind, rule, *_), members in kinds.items():
            size = self._stack_size(kind, rule.only)
            for start in range(0, len(members), size):
                some = members[start : start + size]
                done |= zip(some, self._played(kind, [orders[k] for k in some]), strict=True)
        return [done[k] for k in range(len(orders))]

    def score(self, exams: Sequence[ScoreJob]) -> list[list[Score]]:
        """Loss and correct answers of each model on each of its splits, in evaluation mode."""
        if self._net is not None:
            return score_perceptrons(self._net, exams, self.objective)
        return [score(self._scorer(exam.w), exam, self.objective) for exam in exams]

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Orders and exams together, in their order."""
        orders = [request for request in requests if isinstance(request, SgdJob)]
        exams = [request for request in requests if isinstance(request, ScoreJob)]
        trained, scores = iter(self.play(orders)), iter(self.score(exams))
        return [next(trained) if isinstance(request, SgdJob) else next(scores) for request in requests]

    def _scorer(self, w: Tensor) -> Scorer:
        """The model with the weights `w` in evaluation mode."""
        self._flat.copy_(w)
        self._evaluating()
        run = self._forward if self._chain is None else self._chain.predict

        def say(x: Tensor) -> Tensor:
            with torch.no_grad():
                return run(self._inputs(x))

        return say

    def fit(
        self,
        w: Tensor,
        batches: Iterable[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        lr: float,
        steps: int,
        clip: float,
    ) -> Tensor:
        """`w` (P,) after a step of Adam for each batch; see `Trainer.fit`."""
        self._flat.copy_(w)
        part = self._part("all")
        self._set_modes(part.layers, "all")
        optimiser = torch.optim.Adam(part.wanted, lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))

        for x, y in batches:
            optimiser.zero_grad()
            loss(self._forward(self._inputs(x)), y.to(self.device)).backward()  # type: ignore[no-untyped-call]
            if clip < math.inf:
                nn.utils.clip_grad_norm_(part.wanted, clip)
            optimiser.step()
            schedule.step()
        optimiser.zero_grad()
        return self._flat.to("cpu", copy=True)

    def outputs(self, w: Tensor, x: Tensor) -> Tensor:
        """What the network says of x (n, ...), (n, C), in evaluation mode."""
        say = self._scorer(w)
        return torch.cat([say(x[k : k + BATCH]) for k in range(0, len(x), BATCH)])

    def features(self, w: Tensor, x: Tensor) -> Tensor:
        """What the last layer of `w` sees of `x` (n, ...), (n, F), in evaluation mode."""
        self._flat.copy_(w)
        self._evaluating()
        caught: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        with torch.no_grad():
            for k in range(0, len(x), BATCH):
                self._model(self._inputs(x[k : k + BATCH]))
        hook.remove()
        return torch.cat(caught)

    def gradient(self, w: Tensor, data: Split) -> Tensor:
        """Gradient of the mean loss of `w` on `data`, (P,), in evaluation mode.

        It is zero in the columns of the buffers, and everywhere where there are no data.
        """
        self._flat.copy_(w)
        self._evaluating()
        total = torch.zeros_like(self._flat)
        everything = self._part("all")
        for x, y in self._slices(data):
            loss = self.objective.loss(self._model(x), y, "sum")
            for e, g in zip(everything.entries, torch.autograd.grad(loss, everything.wanted), strict=False):
                total[e.start : e.stop] += e.flatten(g)
        return (total / max(1, len(data))).cpu()

    def _kind(self, order: SgdJob) -> str:
        """How an order is played: dual, stack or vmap with others, or alone."""
        if order.loss is not None or order.mixup is not None or not order.rule.fuses:
            stacks = self._gradients is not None and order.mixup is None
            return "vmap" if stacks else "alone"
        net = self._net_for(order.rule.only)
        if net is None:
            return "alone" if self._gradients is None else "vmap"
        return "dual" if order.rule.only != "head" and gram_mlp.suits(net, order) else "stack"

    def _stack_size(self, kind: str, only: str) -> int:
        """How many orders of a kind that train a part are best played at once."""
        net = self._net_for(only)
        sizes = {"alone": 1, "dual": gram_mlp.TOGETHER, "vmap": vmapped.TOGETHER, "stack": net.together if net else 1}
        return sizes[kind]

    def _played(self, kind: str, orders: Sequence[SgdJob]) -> list[Trained]:
        """Orders of one kind, one rule and one batch size, together."""
        only = orders[0].rule.only
        net = self._net_for(only)
        if kind == "dual" and net is not None:
            return gram_mlp.train(net, orders, self._products)
        if kind == "stack" and net is not None:
            return stack.train(net, [self._fed(order) for order in orders])
        if kind == "vmap" and self._gradients is not None:
            self._set_modes(self._part(only).layers, only)
            return vmapped.train(orders, self._gradients, self._ranges(only), self.device)
        return [self._alone(order) for order in orders]

    def _net_for(self, only: str) -> stack.Net | None:
        """The stacked net that trains a part: the head alone over features, or the whole perceptron."""
        if only not in self._nets:
            net = self._top if only == "head" else self._net
            self._nets[only] = net if net is None or only == "head" else net.training(self.layout, only)
        return self._nets[only]

    def _fed(self, order: SgdJob) -> SgdJob:
        """The order as its net takes it: for the head alone the frozen base runs once, for all steps."""
        return replace(order, x=self.features(order.w, order.x)) if order.rule.only == "head" else order

    def _alone(self, order: SgdJob) -> Trained:
        """One order: by hand where all layers are known, else the autograd loop, for any model and any loss."""
        rule = order.rule
        plain = order.loss is None and order.mixup is None
        if self._chain is not None and plain and rule.fuses:
            self._flat.copy_(order.w)
            loss = self._chain.train(order, self._ranges(rule.only), self._inputs)
            return Trained(self._flat.clone(), loss, float(self._flat.sum()))
        part = self._part(rule.only)
        update = _Update(order, self._ranges(rule.only), self.device)
        features = self.features(order.w, order.x) if self._closed(order) else None
        self._flat.copy_(order.w)
        if features is not None:
            loss = self._head_steps(order, features, update)
        else:
            self._set_modes(part.layers, rule.only)
            loss = self._autograd_steps(order, part, update)
        return Trained(self._flat.to("cpu", copy=True), loss, float(self._flat.sum()))

    def _closed(self, order: SgdJob) -> bool:
        plain = order.loss is None and order.mixup is None and self.objective.softmax
        return order.rule.only == "head" and plain and isinstance(self._head, nn.Linear)

    def _autograd_steps(self, order: SgdJob, part: _Part, update: _Update) -> float:
        if order.loss is not None:
            return self._functional_steps(order, update)
        values, wanted, entries, lr = part.values, part.wanted, part.entries, order.rule.lr
        mixing = None if order.mixup is None else order.mixup.steps()
        total = torch.zeros((), device=self.device)
        for permutation, cuts in order.batches:
            x, y = self._inputs(order.x[permutation]), order.y[permutation].to(self.device)
            for cut in cuts:
                xb, yb = x[cut], y[cut]
                if order.mixup is not None and mixing is not None:
                    xb, yb = order.mixup.mixed(xb, yb, self._classes, next(mixing))
                value = self.objective.loss(self._forward(xb), yb, "mean")
                grads = torch.autograd.grad(-value if order.rule.ascend else value, wanted)
                total += value.detach()
                if update.plain:
                    for p, g in zip(values, grads, strict=False):  # a gradient beyond the values is not used
                        p.add_(g, alpha=-lr)
                else:
                    flat = [e.flatten(g) for e, g in zip(entries, grads, strict=False)]
                    update(self._flat, torch.cat(flat, out=self._grad[: sum(map(len, flat))]))
        return float(total)

    def _functional_steps(self, order: SgdJob, update: _Update) -> float:
        """Steps of a method's own loss, a function of flat weights."""
        assert order.loss is not None
        given = {name: tensor.to(self.device) for name, tensor in order.given.items()}
        mixing = None if order.mixup is None else order.mixup.steps()
        total = torch.zeros((), device=self.device)
        for permutation, cuts in order.batches:
            x, y = self._inputs(order.x[permutation]), order.y[permutation].to(self.device)
            for cut in cuts:
                xb, yb = x[cut], y[cut]
                if order.mixup is not None and mixing is not None:
                    xb, yb = order.mixup.mixed(xb, yb, self._classes, next(mixing))
                w = self._flat.detach().clone().requires_grad_()
                value = order.loss(self._function, w, Batch(xb, yb, permutation[cut]), given).mean()
                (slope,) = torch.autograd.grad(-value if order.rule.ascend else value, w)
                total += value.detach()
                self._flat[self.layout.trainable :] = w.detach()[self.layout.trainable :]  # running statistics
                columns = [slope[a:b] for a, b in self._ranges(order.rule.only)]
                update(self._flat, torch.cat(columns))
        return float(total)

    def _head_steps(self, order: SgdJob, features: Tensor, update: _Update) -> float:
        """SGD on the last linear layer over a frozen base: gradients in closed form."""
        assert isinstance(self._head, nn.Linear)
        weight, bias = self._head.weight.data, self._head.bias.data
        total = torch.zeros((), device=self.device)
        for permutation, cuts in order.batches:
            x, y = features[permutation.to(self.device)], order.y[permutation].to(self.device)
            for cut in cuts:
                xb, yb = x[cut], y[cut]
                log_p = torch.log_softmax(torch.addmm(bias, xb, weight.t()), 1)
                total += F.nll_loss(log_p, yb)
                error = log_p.exp_()
                error[torch.arange(len(yb)), yb] -= 1.0
                error /= -len(yb) if order.rule.ascend else len(yb)
                update(self._flat, torch.cat([(error.t() @ xb).reshape(-1), error.sum(0)]))
        return float(total)

    def _slices(self, data: Split) -> Iterator[tuple[Tensor, Tensor]]:
        for k in range(0, len(data), BATCH):
            yield self._inputs(data.x[k : k + BATCH]), data.y[k : k + BATCH].to(self.device)

    def _inputs(self, x: Tensor) -> Tensor:
        """On the device, and for convolutions with strides that say channels last even for one channel."""
        x = x.to(self.device)
        if not self._images or x.dim() != 4:
            return x
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        return x.as_strided((n, c, h, w), (c * h * w, 1, w * c, c))

    def _ranges(self, only: str) -> Ranges:
        """The trainable columns of a part."""
        end = self.layout.trainable
        return tuple((a, min(b, end)) for a, b in self.layout.ranges(only) if a < end)

    def _part(self, only: str) -> _Part:
        """What a part means for this model; found once, since small models feel every microsecond."""
        if only not in self._parts:
            ranges = self.layout.ranges(only)
            pairs = zip((e for e in self.layout.entries if e.trainable), self._params, strict=True)
            chosen = [(e, p) for e, p in pairs if any(a <= e.start < b for a, b in ranges)]
            # torch's GroupNorm crashes (CPU, channels last) when its input needs no gradient: the first layer gets one
            below = self._params[:1] if chosen and chosen[0][0].norm else []
            self._parts[only] = _Part(
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

    def _evaluating(self) -> None:
        """Evaluation mode."""
        if self._mode != "eval":
            self._model.eval()
            self._mode = "eval"

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
class _Part:
    """A part of the model as the training loop needs it."""

    entries: list[Entry]
    values: list[Tensor]  # the weights, without autograd
    wanted: list[nn.Parameter]  # whose gradients are asked for: the weights, and perhaps one more
    layers: set[str]


class _Update:
    """One step on the trained column ranges: gradient, pull and drift, clipping, decay, then the optimiser."""

    def __init__(self, order: SgdJob, ranges: Ranges, device: torch.device) -> None:
        self._rule, self._ranges = order.rule, ranges
        self._target = None if order.target is None else order.target.to(device)
        self._drift = None if order.drift is None else order.drift.to(device)
        self._steps = 0
        adaptive = order.rule.optimiser != SGD
        moments = adaptive or order.rule.momentum
        self._first = [torch.zeros(b - a, device=device) for a, b in ranges] if moments else []
        self._second = [torch.zeros(b - a, device=device) for a, b in ranges] if adaptive else []

    @property
    def plain(self) -> bool:
        """Whether the gradient is all."""
        terms = self._target is not None or self._drift is not None
        rule = self._rule
        return rule.fuses and not (rule.momentum or rule.weight_decay or terms)

    def __call__(self, flat: Tensor, grad: Tensor) -> None:
        """`flat` (P,) after one step in place; `grad` holds the gradients of the ranges, one by one."""
        rule, at, pieces = self._rule, 0, []
        self._steps += 1
        for a, b in self._ranges:
            pieces.append(grad[at : at + b - a])
            at += b - a

        # everything that is part of the objective, before the gradient is cut and any moment is taken of it
        for g, (a, b) in zip(pieces, self._ranges, strict=True):
            w = flat[a:b]
            if rule.weight_decay and rule.fuses:
                g.add_(w, alpha=rule.weight_decay)
            if self._target is not None:
                g.add_(w - self._target[a:b], alpha=rule.lam)
            if self._drift is not None:
                g.add_(self._drift[a:b])
        if rule.clip < math.inf:
            shorten(pieces, rule.clip)

        for k, (g, (a, b)) in enumerate(zip(pieces, self._ranges, strict=True)):
            w = flat[a:b]
            if rule.weight_decay and not rule.fuses:
                decay(rule, w, g)
            if rule.optimiser != SGD:
                adam(rule, w, g, self._first[k], self._second[k], self._steps)
                continue
            if rule.momentum:
                g = self._first[k].mul_(rule.momentum).add_(g)
            w.add_(g, alpha=-rule.lr)
