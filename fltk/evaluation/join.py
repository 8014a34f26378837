"""Clients that nobody has seen: what each of them gets from a trained federation, step by step.

    arrival    the model it downloads, before it has used any of its own data
    joined     after the method's own joining step, and the own step that the federation has chosen if it helps
    tuned      after fine-tuning, kept only where the newcomer's validation loss fell
    scratch    training alone from theta^0 at the run's rate, with the same data and at least as many steps
    fedavg_ft  the model of a FedAvg run, fine-tuned with the same data and as many steps, and kept by the same rule;
               as it is where nobody fine-tunes

Few shots cut the training part only: what is decided is decided on the newcomer's whole validation part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fltk import metrics
from fltk.engine.base import Bench, Engine
from fltk.errors import UsageError
from fltk.objectives import ACCURACY, Measure
from fltk.partition.federation import ClientData, Federation, Split
from fltk.protocol.messages import Joined
from fltk.protocol.state import State
from fltk.train import own_step
from fltk.train.scoring import Score
from fltk.train.streams import Streams
from fltk.train.trainer import Trainer

STEPS = ("arrival", "joined", "tuned", "scratch", "fedavg_ft")
CURVES = ("tuned", "scratch", "fedavg_ft")
PARTS = ("val", "test")

Scores = tuple[Score, Score]  # on the validation and on the test part
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tuning:
    """What newcomers do after joining: a part of the model (head, all, none), epochs, learning rate."""

    part: str
    epochs: int
    lr: float


@dataclass(frozen=True)
class JoinTask:
    """One newcomer joins with at most `shots` training samples per class (0: all)."""

    client: int
    shots: int
    state: State
    tuning: Tuning
    fedavg: Tensor | None  # (P,) the model of a FedAvg run on the same clients
    keep: bool = False  # the models are wanted, because the newcomer is to train on with the others


@dataclass(frozen=True)
class Newcomer:
    """What one newcomer got. Steps that were not asked for are absent."""

    samples: int
    scores: Mapping[str, Scores]  # step -> at its end
    curves: Mapping[str, list[Scores]]  # step -> after 0, 1, ... further epochs, all behind as much work as joining
    kept: Mapping[str, bool]  # tuned and fedavg_ft: whether fine-tuning was kept
    join_epochs: int  # epochs of local work that joining took, rounded up
    joined: Joined  # without its models unless they were asked for


def join_client(bench: Bench, task: JoinTask) -> Newcomer:
    """All that one newcomer does; pure in the task, the newcomer's data and its own random streams."""
    client = few_shots(bench.client(task.client), task.shots, bench.trainer.streams)
    trainer, tuning = bench.trainer.at(0, client.id), task.tuning
    before = trainer.taken
    joined = bench.method.join(task.state, client, trainer, bench.task)
    model = _used(bench, task, joined.model, client, trainer)
    work = math.ceil((trainer.taken - before) / trainer.steps(len(client.train), 1))
    scores = {"arrival": _score(trainer, joined.arrival, client), "joined": _score(trainer, model, client)}
    curves: dict[str, list[Scores]] = {}
    kept: dict[str, bool] = {}
    if tuning.part != "none":
        curves["tuned"] = _path(trainer, model, client, tuning)
        scores["tuned"], kept["tuned"] = _better(curves["tuned"])
    alone = Tuning("all", work + tuning.epochs, trainer.config.lr)
    curves["scratch"] = _path(trainer, bench.task.w0, client, alone)[work:]
    scores["scratch"] = curves["scratch"][-1]
    if task.fedavg is not None and tuning.part == "none":
        scores["fedavg_ft"] = _score(trainer, task.fedavg, client)
    elif task.fedavg is not None:
        path = _path(trainer, task.fedavg, client, replace(tuning, epochs=work + tuning.epochs))
        curves["fedavg_ft"] = path[work:]
        scores["fedavg_ft"], kept["fedavg_ft"] = _better(path)
    if not task.keep:
        joined = replace(joined, arrival=joined.arrival[:0], model=joined.model[:0], own={})
    return Newcomer(len(client.train), scores, curves, kept, work, joined)


def _used(bench: Bench, task: JoinTask, model: Tensor, client: ClientData, trainer: Trainer) -> Tensor:
    """The joined model after the own step that the federation has chosen, where the validation loss falls by it.

    What the newcomer trains on from, should it stay, is the model without that step.
    """
    choice = own_step.choice_of(task.state.server)
    if not choice or not len(client.val):
        return model
    tried = own_step.used(model, choice, client, trainer.at(0, client.id), bench.pooled)
    fell = trainer.score(tried, client.val).loss < trainer.score(model, client.val).loss
    return tried if fell else model


def few_shots(client: ClientData, shots: int, streams: Streams) -> ClientData:
    """`client` with at most `shots` training samples per class (0: all). Fewer shots are a part of more."""
    if not shots:
        return client
    order = torch.randperm(len(client.train), generator=streams.generator("shots", client=client.id))
    y = client.train.y[order]
    chosen = torch.cat([order[y == c][:shots] for c in sorted(set(y.tolist()))]).sort().values
    return replace(client, train=Split(client.train.x[chosen], client.train.y[chosen]))


def _path(trainer: Trainer, w: Tensor, client: ClientData, tuning: Tuning) -> list[Scores]:
    """Scores after 0, 1, ..., E epochs. Each epoch has its own random stream, like a round, and a fresh optimiser."""
    path = [_score(trainer, w, client)]
    for epoch in range(1, tuning.epochs + 1):
        at = trainer.at(epoch, client.id)
        w = at.sgd(w, client.train, epochs=1, lr=tuning.lr, only=tuning.part)
        path.append(_score(at, w, client))
    return path


def _score(trainer: Trainer, w: Tensor, client: ClientData) -> Scores:
    return trainer.score(w, client.val), trainer.score(w, client.test)


def _better(path: list[Scores]) -> tuple[Scores, bool]:
    """The end of fine-tuning where the validation loss fell, its beginning otherwise (also without validation data)."""
    fell = path[-1][0].loss < path[0][0].loss
    return path[-1 if fell else 0], fell


def join_all(
    engine: Engine,
    state: State,
    federation: Federation,
    ids: Sequence[int],
    shots: Sequence[int],
    tuning: Tuning,
    *,
    fedavg: Tensor | None = None,
    keep: bool = False,
) -> list[list[Newcomer]]:
    """The newcomers `ids` with every number of shots, one after another: [shots][newcomer]."""
    tasks = [JoinTask(i, count, state, tuning, fedavg, keep) for count in shots for i in ids]
    sizes = [len(federation.newcomers[i - len(federation.clients)].train) for _ in shots for i in ids]
    found = engine.map(join_client, tasks, sizes)
    return [found[at : at + len(ids)] for at in range(0, len(found), len(ids))]


# Which newcomers, and how much data


def choose(federation: Federation, label: str, wanted: Sequence[int], share: float) -> list[int]:
    """Ids of the newcomers that join, ascending: those named, or the first `share` of all. UsageError in one line."""
    known = [client.id for client in federation.newcomers]
    if not known:
        raise UsageError(
            f"{label} has no newcomers: its partition was made with --newcomers 0; train a run with --newcomers 4"
        )
    span = f"{label} has the newcomers {known[0]} to {known[-1]}" if len(known) > 1 else f"its newcomer is {known[0]}"
    for i in wanted:
        if 0 <= i < len(federation.clients):
            raise UsageError(f"--newcomer {i}: client {i} took part in training; {span}")
        if i not in known:
            raise UsageError(f"--newcomer {i}: there is no such client; {span}")
    ids = sorted(set(wanted)) or known[: max(1, math.floor(share * len(known) + 0.5))]
    for i in ids:
        if not len(federation.newcomers[i - len(federation.clients)].train):
            raise UsageError(f"--newcomer: newcomer {i} has no training sample; name others")
    return ids


def check_shots(federation: Federation, ids: Sequence[int], shots: Sequence[int]) -> list[str]:
    """A note for every number of shots that some newcomer does not have; UsageError where none has so many."""
    counts: Array = federation.label_counts[list(ids)]
    notes = []
    for count in shots:
        if count and not federation.objective.softmax:
            raise UsageError(f"--shots {count}: they are samples per class, and the data have no classes; use all")
        if count > counts.max():
            raise UsageError(f"--shots {count}: no newcomer has more than {counts.max()} training samples of a class")
        short = int(((counts > 0) & (counts < count)).any(1).sum())
        if short:
            notes.append(
                f"{count} shots: {short} of {len(ids)} newcomers have fewer of some class and give what they have"
            )
    return notes


# Tables


def arrays(
    found: Sequence[Sequence[Newcomer]], ids: Sequence[int], epochs: int, size: int, measure: Measure = ACCURACY
) -> dict[str, Array]:
    """Everything about S numbers of shots and M newcomers, as stored; NaN for what there is not.

    `STEP_PART_acc` (the headline measure) and `STEP_PART_loss` (S, M), `curve_STEP_PART_acc` (S, M, epochs + 1),
    `STEP_kept`, `join_epochs`, `samples`, `down`, `up` and `self_weight` (S, M), `row` (S, M, N), `newcomers` (M,).
    size: parameters P of a model.
    """
    table: dict[str, Array] = {"newcomers": np.array(ids, np.int64)}
    for at, part in enumerate(PARTS):
        for step in STEPS:
            pairs = [[_scored(n, step, at) for n in line] for line in found]
            table[f"{step}_{part}_{measure.key}"] = _grid(pairs, _value)
            table[f"{step}_{part}_loss"] = _grid(pairs, _loss)
        for step in CURVES:
            lines = [[_curve(n.curves.get(step), at, epochs) for n in line] for line in found]
            table[f"curve_{step}_{part}_{measure.key}"] = np.array(lines, np.float64)

    for step in ("tuned", "fedavg_ft"):
        kept = [[n.kept.get(step, math.nan) for n in line] for line in found]
        table[f"{step}_kept"] = np.array(kept, np.float64)
    for key in ("samples", "join_epochs"):
        table[key] = _grid(found, attrgetter(key))
    for key in ("down", "up", "self_weight"):
        table[key] = _grid(found, attrgetter(f"joined.{key}"))
    table["arrival_down"] = np.minimum(table["down"], 4 * size)
    table["row"] = _rows(found)
    return table


def _rows(found: Sequence[Sequence[Newcomer]]) -> Array:
    """(S, M, N) the newcomers' rows in the map; NaN where a method has none."""
    rows = [[n.joined.row for n in line] for line in found]
    widths = [len(row) for line in rows for row in line if row is not None]
    empty = np.full(max(widths, default=0), math.nan)
    return np.array([[empty if row is None else row.numpy() for row in line] for line in rows])


def _scored(newcomer: Newcomer, step: str, part: int) -> Score | None:
    """A newcomer's score after a step; None where the step was not taken."""
    pair = newcomer.scores.get(step)
    return None if pair is None else pair[part]


def _value(score: Score | None) -> float:
    return math.nan if score is None else score.value


def _loss(score: Score | None) -> float:
    return math.nan if score is None else score.loss


def _grid(lines: Sequence[Sequence[Any]], value: Any) -> Array:
    return np.array([[value(item) for item in line] for line in lines], np.float64)


def _curve(path: list[Scores] | None, part: int, epochs: int) -> list[float]:
    return [math.nan] * (epochs + 1) if path is None else [pair[part].value for pair in path]


def table_of(
    table: Mapping[str, Array],
    shots: Sequence[int],
    counts: Array,
    participants: float,
    size: int,
    measure: Measure = ACCURACY,
) -> list[dict[str, Any]]:
    """One row per number of shots and step: the measure over newcomers, what was kept, and bytes per newcomer.

    counts: (M,) test samples.  participants: mean test value of the clients that trained; `participation_gap` is
    how far the newcomers are behind it.  `gain_vs_local` and `harmed` compare with training from scratch.
    """
    rows = []
    for k, count in enumerate(shots):
        alone = table[f"scratch_test_{measure.key}"][k]
        for step in STEPS:
            values = table[f"{step}_test_{measure.key}"][k]
            if np.isnan(values).all() and step in ("tuned", "fedavg_ft"):
                continue
            known = metrics.summary(values, counts, alone, measure)
            kept = table.get(f"{step}_kept", np.full((len(shots), 1), math.nan))[k]
            down, up = _bytes(table, k, step, size)
            rows.append(
                {
                    "shots": shots_named(count),
                    "step": step,
                    **known,
                    "val_mean": _mean(table[f"{step}_val_{measure.key}"][k]),
                    "participation_gap": measure.gain(participants, known[f"{measure.key}_mean"]),
                    "kept": None if np.isnan(kept).any() else int(kept.sum()),
                    "bytes_down": down,
                    "bytes_up": up,
                }
            )
    return rows


def shots_named(count: int) -> str:
    """`5`, or `all` for 0."""
    return str(count) if count else "all"


def _bytes(table: Mapping[str, Array], k: int, step: str, size: int) -> tuple[float, float]:
    """Mean bytes down and up of a newcomer until the end of a step."""
    if step in ("scratch", "fedavg_ft"):
        return (0.0, 0.0) if step == "scratch" else (4.0 * size, 0.0)
    if step == "arrival":
        return float(table["arrival_down"][k].mean()), 0.0
    return float(table["down"][k].mean()), float(table["up"][k].mean())


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def newcomer_rows(
    table: Mapping[str, Array], shots: Sequence[int], names: Sequence[str], measure: Measure = ACCURACY
) -> list[dict[str, Any]]:
    """One row per number of shots and newcomer: its test value after each step, and who weighs most in its model."""
    rows = []
    for k, count in enumerate(shots):
        for m, i in enumerate(table["newcomers"].tolist()):
            row = table["row"][k, m]
            known = row.size > 0 and bool(np.isfinite(row).all())
            rows.append(
                {
                    "shots": shots_named(count),
                    "newcomer": i,
                    "name": names[m],
                    "samples": int(table["samples"][k, m]),
                    **{f"{step}": float(table[f"{step}_test_{measure.key}"][k, m]) for step in STEPS},
                    "kept": None if np.isnan(table["tuned_kept"][k, m]) else bool(table["tuned_kept"][k, m] == 1),
                    "top_client": int(row.argmax()) if known else None,
                    "top_weight": float(row.max()) if known else None,
                }
            )
    return rows
