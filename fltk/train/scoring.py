"""How models do on samples: mean loss, and the measures of the objective.

A small model is scored in less time than it takes to ask for it. So the questions of several clients are answered
together: products stay each client's own, which keeps their bits, and what follows runs over all samples at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fltk.objectives import ACCURACY, CLASSIFICATION, Objective
from fltk.partition.federation import Split
from fltk.train.fast.stack import Net, lines

BATCH = 100  # samples that a model sees at once; larger batches leave the cache: a cnn scores half as fast at 500
TOGETHER = 1 << 13  # samples whose activations are in memory at once

Scorer = Callable[[Tensor], Tensor]  # samples (n, ...) -> logits (n, C)


@dataclass(frozen=True)
class Score:
    """What a model does on a split: its mean loss, the value of every measure by key, and the number of samples."""

    loss: float
    values: Mapping[str, float]
    n: int

    @property
    def value(self) -> float:
        """Of the headline measure."""
        return next(iter(self.values.values()))

    @property
    def accuracy(self) -> float:
        """The share of right answers, for objectives that have one."""
        return self.values[ACCURACY.key]


@dataclass(frozen=True)
class ScoreJob:
    """One model and the splits on which it is to be scored."""

    w: Tensor  # (P,)
    splits: Sequence[Split]

    def __len__(self) -> int:
        return sum(map(len, self.splits))


def score(model: Scorer, exam: ScoreJob, objective: Objective = CLASSIFICATION) -> list[Score]:
    """The scores of any model; small splits take one pass together."""
    splits = exam.splits
    if 0 < len(exam) <= BATCH:
        xs = [_joined([split.x for split in splits])]
    else:
        xs = [split.x[k : k + BATCH] for split in splits for k in range(0, len(split), BATCH)]
    return _judged([model(x) for x in xs], splits, objective)


def score_perceptrons(net: Net, exams: Sequence[ScoreJob], objective: Objective = CLASSIFICATION) -> list[list[Score]]:
    """The scores of several perceptrons."""
    found: list[list[Score]] = []
    some: list[ScoreJob] = []
    samples = 0
    for exam in exams:
        if some and samples + len(exam) > TOGETHER:
            found += _perceptrons(net, some, objective)
            some, samples = [], 0
        some.append(exam)
        samples += len(exam)
    return found + _perceptrons(net, some, objective)


def _perceptrons(net: Net, exams: Sequence[ScoreJob], objective: Objective) -> list[list[Score]]:
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
    splits = [split for exam in exams for split in exam.splits]
    scores = iter(_judged([out], splits, objective))
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


def _judged(outputs: Sequence[Tensor], splits: Sequence[Split], objective: Objective) -> list[Score]:
    """The scores of splits from what models say of their samples, one after the other."""
    sizes = [len(split) for split in splits]
    if not sum(sizes):
        return [_nothing(objective) for _ in splits]
    out = torch.cat(list(outputs)).cpu()
    y = torch.cat([split.y for split in splits])

    losses = _sums(objective.loss(out, y), sizes)
    numbers = objective.score(out, y)
    sums = {key: _sums(values, sizes) for key, values in numbers.items()}

    scores = []
    for k, n in enumerate(sizes):
        if not n:
            scores.append(_nothing(objective))
            continue
        values = {key: measure.of(sums[key][k] / n) for key, measure in objective.measures.items()}
        scores.append(Score(losses[k] / n, values, n))
    return scores


def _nothing(objective: Objective) -> Score:
    """The score on a split without samples."""
    return Score(math.nan, dict.fromkeys(objective.measures, math.nan), 0)


def _sums(values: Tensor, sizes: Sequence[int]) -> list[float]:
    """Sums over stretches of so many numbers, one after the other, in float64."""
    starts = np.cumsum([0, *sizes[:-1]])
    full = [k for k, n in enumerate(sizes) if n]  # reduceat takes no empty stretch
    found = [0.0] * len(sizes)
    for k, total in zip(full, np.add.reduceat(values.double().numpy(), starts[full]).tolist(), strict=True):
        found[k] = total
    return found
