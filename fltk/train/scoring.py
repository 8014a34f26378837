"""How models do on samples: mean cross-entropy and correct answers.

A small model is scored in less time than it takes to ask for it. So the questions of several clients are answered
together: products stay each client's own, which keeps their bits, and what follows runs over all samples at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fltk.partition.federation import Split
from fltk.train.fast.stack import Net, lines

BATCH = 100  # samples that a model sees at once; larger batches leave the cache: a cnn scores half as fast at 500
TOGETHER = 1 << 13  # samples whose activations are in memory at once

Scorer = Callable[[Tensor], Tensor]  # samples (n, ...) -> logits (n, C)


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
class Exam:
    """One model and the splits on which it is to be scored."""

    w: Tensor  # (P,)
    splits: Sequence[Split]

    def __len__(self) -> int:
        return sum(map(len, self.splits))


def score(model: Scorer, exam: Exam) -> list[Score]:
    """The scores of any model; small splits take one pass together."""
    splits = exam.splits
    if 0 < len(exam) <= BATCH:
        xs = [_joined([split.x for split in splits])]
    else:
        xs = [split.x[k : k + BATCH] for split in splits for k in range(0, len(split), BATCH)]
    return _judged([model(x) for x in xs], splits)


def score_perceptrons(net: Net, exams: Sequence[Exam]) -> list[list[Score]]:
    """The scores of several perceptrons."""
    found: list[list[Score]] = []
    some: list[Exam] = []
    samples = 0
    for exam in exams:
        if some and samples + len(exam) > TOGETHER:
            found += _perceptrons(net, some)
            some, samples = [], 0
        some.append(exam)
        samples += len(exam)
    return found + _perceptrons(net, some)


def _perceptrons(net: Net, exams: Sequence[Exam]) -> list[list[Score]]:
    sizes = [len(exam) for exam in exams]
    h = [_joined([split.x for split in exam.splits]).flatten(1) for exam in exams]
    for layer in net.layers:
        out = torch.empty(sum(sizes), lines(layer.outputs))[:, : layer.outputs]  # a row begins with a cache line
        rows = torch.split(out, sizes)
        for exam, x, said in zip(exams, h, rows, strict=True):
            weight = exam.w[layer.weight].view(layer.outputs, layer.inputs)
            torch.addmm(exam.w[layer.bias], x, weight.t(), out=said)
        if layer is not net.layers[-1]:
            out.relu_()
        h = list(rows)
    scores = iter(_judged([out], [split for exam in exams for split in exam.splits]))
    return [[next(scores) for _ in exam.splits] for exam in exams]


def _joined(xs: Sequence[Tensor]) -> Tensor:
    """Samples as one tensor (n, ...): a view where they lie one behind the other, as a client's splits mostly do."""
    for a, b in pairwise(xs):
        whole = (
            a.is_contiguous() and b.is_contiguous() and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        )
        if not whole or a.data_ptr() + a.nbytes != b.data_ptr():
            return torch.cat(list(xs))
    return xs[0].as_strided((sum(map(len, xs)), *xs[0].shape[1:]), xs[0].stride())


def _judged(logits: Sequence[Tensor], splits: Sequence[Split]) -> list[Score]:
    """The scores of splits from what models say of their samples, one after the other."""
    sizes = [len(split) for split in splits]
    if not sum(sizes):
        return [Score(math.nan, 0, 0) for _ in splits]
    said = torch.cat(list(logits)).cpu()
    y = torch.cat([split.y for split in splits])
    loss = torch.nn.functional.cross_entropy(said, y, reduction="none").double().numpy()
    hit = (said.argmax(1) == y).numpy()
    starts = np.cumsum([0, *sizes[:-1]])
    full = [k for k, n in enumerate(sizes) if n]  # reduceat takes no empty stretch
    losses = dict(zip(full, np.add.reduceat(loss, starts[full]).tolist(), strict=True))
    hits = dict(zip(full, np.add.reduceat(hit.astype(np.int64), starts[full]).tolist(), strict=True))
    return [Score(losses[k] / n, hits[k], n) if n else Score(math.nan, 0, 0) for k, n in enumerate(sizes)]
