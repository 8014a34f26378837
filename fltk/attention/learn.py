"""Learning the scorer: the clients' loss reaches its parameters through the map alone.

The inner problem is local training from u_i = sum_j A_ij(phi) theta_j, the outer loss J(phi) = 1/n sum_i L_i(u_i).
As u_i is linear in A, with g_i the gradient of L_i at u_i

    dJ/dphi = 1/n sum_ij G_ij dA_ij/dphi,   G_ij = <g_i, theta_j>

so the server needs G (n, n) and differentiates through A, never through a model. Where g_i comes from:

    valgrad     the client sends the gradient of its validation loss at u_i
    surrogate   g_i = u_i - theta_i^+, against the client's next update: nothing further is sent
    proxy       the server differentiates the loss of a labelled set of its own at u_i

A little mean negative entropy of the rows is added against collapse. Held-out clients give no gradient; they judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fltk.attention.scorer import Scorer

RATE = 1e-3  # of Adam
ENTROPY = 1e-3  # weight of the mean row negative entropy
TINY = 1e-300

Maps = Callable[[Scorer], Tensor]
Ranges = Iterable[tuple[int, int]]


def loss_matrix(g: Tensor, theta: Tensor, ranges: Ranges | None = None, chunk: int = 1 << 15) -> Tensor:
    """G_ij = <g_i, theta_j>: gradients (T, P) at the mixed models, models (K, P) -> (T, K) float64.

    ranges: the columns of a layer, [start, stop) pairs (default all).  Streamed by chunks of columns.
    """
    return _products(lambda a, b: g[:, a:b].double(), len(g), theta, ranges, chunk)


def surrogate(u: Tensor, trained: Tensor, theta: Tensor, ranges: Ranges | None = None, chunk: int = 1 << 15) -> Tensor:
    """G with g_i = u_i - theta_i^+: start models u (T, P), what they became (T, P), models (K, P) -> (T, K) float64."""
    return _products(lambda a, b: u[:, a:b].double() - trained[:, a:b].double(), len(u), theta, ranges, chunk)


def proxy(
    u: Iterable[Tensor], slope: Callable[[Tensor], Tensor], theta: Tensor, ranges: Ranges | None = None
) -> Tensor:
    """G with g_i = slope(u_i): T models (P,), models (K, P) -> (T, K) float64.

    slope: from a model (P,) to the gradient (P,) of the server's own loss.
    """
    return loss_matrix(torch.stack([slope(w) for w in u]), theta, ranges)


def _products(
    columns: Callable[[int, int], Tensor], rows: int, theta: Tensor, ranges: Ranges | None, chunk: int
) -> Tensor:
    total = torch.zeros(rows, len(theta), dtype=torch.float64)
    for start, stop in ((0, theta.shape[1]),) if ranges is None else ranges:
        for a in range(start, stop, chunk):
            b = min(a + chunk, stop)
            total.addmm_(columns(a, b), theta[:, a:b].double().t())
    return total


def linear_loss(a: Tensor, g: Tensor, rows: Tensor) -> Tensor:
    """1/T sum_ij G_ij A_ij over the chosen rows of the map, summed over layers.

    a: (K, K) or (L, K, K).  g: (T, K) or (L, T, K).  rows: (T,) int64, the rows of the map that g speaks of.
    """
    return (g * a[..., rows, :]).sum() / len(rows)


def negative_entropy(a: Tensor, rows: Tensor) -> Tensor:
    """Mean over the chosen rows (and layers) of sum_j A_ij log A_ij; a weight of 0 adds nothing."""
    p = a[..., rows, :]
    return (p * p.clamp_min(TINY).log()).sum(-1).mean()  # clamped: the derivative at 0 must stay finite


def gradient(scorer: Scorer, maps: Maps, g: Tensor, rows: Tensor, entropy: float = ENTROPY) -> dict[str, Tensor]:
    """Gradient of linear_loss + entropy * negative_entropy in the scorer's parameters, by name.

    maps: from a scorer to the map (K, K), or (L, K, K), that made the models u; everything else is constant in it.
    """
    with torch.enable_grad():
        values = {k: v.detach().clone().requires_grad_() for k, v in scorer.tensors().items()}
        a = maps(Scorer.from_tensors(values))
        loss = linear_loss(a, g, rows) + entropy * negative_entropy(a, rows)
        found = torch.autograd.grad(loss, list(values.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(values, found, strict=True))


@dataclass(frozen=True)
class Adam:
    """The memory of Adam: means of the gradients and of their squares by parameter, and the number of steps."""

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    steps: Tensor  # () int64

    @staticmethod
    def start(values: Mapping[str, Tensor]) -> Adam:
        zeros = {k: torch.zeros_like(v) for k, v in values.items()}
        return Adam(zeros, zeros, torch.tensor(0))


def adam_step(
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    memory: Adam,
    rate: float = RATE,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[dict[str, Tensor], Adam]:
    """One step of Adam (Kingma and Ba, arXiv:1412.6980): new values and new memory; the old ones are left alone."""
    t = int(memory.steps) + 1
    b1, b2 = betas
    first = {k: b1 * memory.first[k] + (1 - b1) * g for k, g in gradients.items()}
    second = {k: b2 * memory.second[k] + (1 - b2) * g.square() for k, g in gradients.items()}
    stepped = {
        k: v - rate * (first[k] / (1 - b1**t)) / ((second[k] / (1 - b2**t)).sqrt() + eps) for k, v in values.items()
    }
    return stepped, Adam(first, second, torch.tensor(t))


@dataclass(frozen=True)
class Learner:
    """All that learning keeps between rounds; `tensors` is its place in a checkpoint."""

    scorer: Scorer  # makes the maps of the coming round
    adam: Adam
    previous: Scorer  # the one before the last step
    best: Scorer  # the one with the lowest held-out loss; the last one where nobody is held out
    held: Tensor  # (2,) float64, estimated held-out loss against the start: of the last judged scorer, and of `best`

    @staticmethod
    def start(scorer: Scorer) -> Learner:
        """Before the first step."""
        adam = Adam.start(scorer.tensors())
        return Learner(scorer, adam, scorer, scorer, torch.zeros(2, dtype=torch.float64))

    def tensors(self) -> dict[str, Tensor]:
        """Flat names, all beginning with `learn.`."""
        groups = {
            "phi": self.scorer.tensors(),
            "first": self.adam.first,
            "second": self.adam.second,
            "previous": self.previous.tensors(),
            "best": self.best.tensors(),
        }
        flat = {f"learn.{group}.{k}": v for group, named in groups.items() for k, v in named.items()}
        return flat | {"learn.steps": self.adam.steps, "learn.held": self.held}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Learner:
        """The inverse of `tensors`; names that do not begin with `learn.` are passed over."""

        def group(name: str) -> dict[str, Tensor]:
            prefix = f"learn.{name}."
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        phi, previous, best = (Scorer.from_tensors(group(name)) for name in ("phi", "previous", "best"))
        adam = Adam(group("first"), group("second"), tensors["learn.steps"])
        return Learner(phi, adam, previous, best, tensors["learn.held"])


def learn(
    learner: Learner,
    maps: Maps,
    g: Tensor,
    rows: Tensor,
    *,
    held_out: Tensor | None = None,
    rate: float = RATE,
    entropy: float = ENTROPY,
) -> Learner:
    """The learner after one round: one step of Adam from the teaching clients, judged by the held-out ones.

    maps, g, rows: as in `gradient`, for the clients that trained from a model mixed by `learner.scorer`.
    held_out: (T,) bool, which rows only judge; None makes the last scorer the best.  Rows of g that are not finite are
    passed over, and without a teaching row nothing is learned.

    Held-out losses of different rounds cannot be compared, because the models improve all the time. So each step is
    judged alone, in the round after it, with models and gradients that it has not seen, and the best scorer is the one
    at which the sum of the judgements is lowest. One step from phi to phi' counts <G at u(phi'), A(phi') - A(phi)> / T,
    which is at least the change of the judges' mean loss where that is convex in u and g its gradient: no step is
    flattered. A step that no judge sees, because none takes part in the next round, counts nothing.
    """
    finite = torch.isfinite(g).all(-1)
    finite = finite if finite.dim() == 1 else finite.all(0)
    judges = torch.zeros_like(finite) if held_out is None else finite & held_out
    teachers = finite if held_out is None else finite & ~held_out
    learner = _judge(learner, maps, g[..., judges, :], rows[judges]) if judges.any() else learner
    now, after, adam = learner.scorer, learner.scorer, learner.adam
    if teachers.any():
        slopes = gradient(now, maps, g[..., teachers, :], rows[teachers], entropy)
        values, adam = adam_step(now.tensors(), slopes, adam, rate)
        after = Scorer.from_tensors(values)
    return Learner(after, adam, now, after if held_out is None else learner.best, learner.held)


def _judge(learner: Learner, maps: Maps, g: Tensor, rows: Tensor) -> Learner:
    """The learner with its last step judged, and its scorer the best if none was better."""
    with torch.no_grad():
        step = linear_loss(maps(learner.scorer) - maps(learner.previous), g, rows)
    path, lowest = learner.held[0] + step, learner.held[1]
    best = learner.scorer if path < lowest else learner.best
    return replace(learner, best=best, held=torch.stack([path, torch.minimum(path, lowest)]))


def draw_judges(n: int, share: float, seed: int) -> Tensor:
    """(n,) bool: the clients that judge, `share` of n to the nearest; at least one if share > 0, never all."""
    count = min(max(1, int(share * n + 0.5)), n - 1) if share > 0 else 0
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count]] = True
    return chosen
