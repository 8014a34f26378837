"""Partition schemes: pure functions from labels (n,) to one sorted array of positions per client.

Each takes the number of clients N and a generator, and returns a `Deal`. No scheme gives a sample twice;
all deal every sample, except `pathological` when the clients hold too few classes to cover all. A draw that
cannot succeed raises UsageError naming the option to change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fltk.data.dataset import Bools, Ints
from fltk.errors import UsageError

MAX_ATTEMPTS = 1000
ALPHAS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0)  # one of these is recommended where alpha is too small
TRIALS, SUCCESSES = 100, 3  # of an alpha before it is: then hardly ever would all of MAX_ATTEMPTS fail
PFLLIB_BATCH = 10
Shares = npt.NDArray[np.float64]
Rng = np.random.Generator


class TooFew(UsageError):
    """The samples do not suffice; more of them, where there are more, would help too."""


class Deal(NamedTuple):
    """Who gets which samples, and the number of draws this took."""

    parts: list[Ints]
    attempts: int = 1


def iid(labels: Ints, n_clients: int, rng: Rng, *, min_size: int = 1) -> Deal:
    """Samples in random order, cut into N parts whose sizes differ by at most one."""
    parts = [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), n_clients)]
    return Deal(_checked(parts, min_size))


def dirichlet(
    labels: Ints, n_clients: int, rng: Rng, *, alpha: float, min_size: int = 10, balance: bool = True
) -> Deal:
    """Each class is shared out by Dir(alpha) over the clients, until the smallest client has `min_size`.

    M. Yurochkin et al. 2019 (arXiv:1905.12022); Q. Li et al. 2022 (arXiv:2102.02079). With `balance`,
    classes are dealt in ascending order and a client that already holds n/N samples gets no more.
    """
    return _dirichlet(labels, _everyone(labels, n_clients), rng, alpha, min_size, balance)


def dirichlet_capped(
    labels: Ints, n_clients: int, rng: Rng, *, alpha: float, min_size: int = 10, test_share: float = 0.25
) -> Deal:
    """PFLlib's Dirichlet partition (J. Zhang et al., arXiv:2312.04992): `dirichlet` with two own rules.

    The cap is always on: a client that holds n/N samples gets no more. The smallest client must hold
    int(min(10 / test_share, n / N / 2)) samples, that is one batch of ten test samples or half an equal
    part; here it must hold `min_size` as well.
    """
    half = len(labels) / n_clients / 2
    least = int(min(PFLLIB_BATCH / test_share, half) if test_share > 0 else half)
    everyone = _everyone(labels, n_clients)
    why = " (as PFLlib: 10 / --test-share, at most half an equal part)" if least > min_size else ""
    return _dirichlet(labels, everyone, rng, alpha, max(least, min_size), balance=True, floor=least, why=why)


def extended_dirichlet(
    labels: Ints,
    n_clients: int,
    rng: Rng,
    *,
    classes_per_client: int,
    alpha: float,
    min_size: int = 10,
    balance: bool = True,
) -> Deal:
    """Each client draws k classes; each class is shared out by Dir(alpha) over the clients that drew it.

    Y. Li, X. Lyu 2023 (arXiv:2311.03154). The classes are redrawn until each has max(floor(k N / C / 2), 1)
    owners. k = C is `dirichlet`, draw for draw.
    """
    k, c = classes_per_client, len(np.bincount(labels))
    _check_classes(k, c)
    if k * n_clients < c:
        raise UsageError(
            f"--classes-per-client {k} x {n_clients} clients cannot cover {c} classes: raise it or --clients"
        )
    holds = _everyone(labels, n_clients) if k == c else _owners(k, c, n_clients, rng)
    return _dirichlet(labels, holds, rng, alpha, min_size, balance)


def pathological(labels: Ints, n_clients: int, rng: Rng, *, classes_per_client: int, min_size: int = 1) -> Deal:
    """Each client holds exactly k classes, and each class is split evenly among its owners.

    A class has floor(k N / C) owners, k N mod C classes drawn at random one more. In random order, each
    client takes the k classes with the most owners still to find, ties at random. Classes without an owner
    (k N < C) are left out.
    """
    sizes = np.bincount(labels)
    k, c = classes_per_client, len(sizes)
    _check_classes(k, c)
    quota = np.full(c, k * n_clients // c)
    quota[rng.permutation(c)[: k * n_clients % c]] += 1
    counts = np.zeros((c, n_clients), np.int64)
    for client in rng.permutation(n_clients):
        tied = rng.permutation(c)
        taken = tied[np.argsort(-quota[tied], kind="stable")[:k]]
        quota[taken] -= 1
        counts[taken, client] = 1
    for label in range(c):
        owners = rng.permutation(np.flatnonzero(counts[label]))
        if len(owners) > sizes[label]:
            raise TooFew(
                f"--classes-per-client {k}: class {label} has {sizes[label]} samples for {len(owners)} "
                f"clients; lower it or --clients"
            )
        counts[label, owners] = apportion(np.ones(len(owners)), int(sizes[label]))
    return Deal(_checked(deal(labels, counts, rng), min_size))


def shards(labels: Ints, n_clients: int, rng: Rng, *, shards_per_client: int, min_size: int = 1) -> Deal:
    """Samples sorted by label, cut into N s shards; each client gets s of them at random.

    B. McMahan et al. 2017 (arXiv:1602.05629). Where n is no multiple of N s, shard sizes differ by one.
    """
    n_shards = n_clients * shards_per_client
    if n_shards > len(labels):
        raise TooFew(
            f"--shards-per-client {shards_per_client} x {n_clients} clients need more than the "
            f"{len(labels)} samples: lower it or --clients"
        )
    by_label = np.lexsort([rng.permutation(len(labels)), labels])
    pieces = np.array_split(by_label, n_shards)
    hands = rng.permutation(n_shards).reshape(n_clients, shards_per_client)
    return Deal(_checked([np.sort(np.concatenate([pieces[i] for i in hand])) for hand in hands], min_size))


def quantity(labels: Ints, n_clients: int, rng: Rng, *, alpha: float, min_size: int = 10) -> Deal:
    """Sizes by Dir(alpha), content IID; redrawn until the smallest client has `min_size`.

    Q. Li et al. 2022 (arXiv:2102.02079).
    """
    n = len(labels)
    anyone = np.ones(n_clients, np.bool_)

    def draw(alpha: float) -> Ints:
        return apportion(_shares(_log_gammas(rng, alpha, (n_clients,)), anyone), n)[None]

    counts, attempts = _until(draw, alpha, n, n_clients, min_size)
    return Deal(deal(np.zeros(n, np.int64), counts, rng), attempts)


# ---- parts of schemes --------------------------------------------------------------------------------


def deal(labels: Ints, counts: Ints, rng: Rng) -> list[Ints]:
    """Sorted positions per client, so that client k gets `counts[c, k]` random samples of class c; (C, N)."""
    hands: list[list[Ints]] = [[] for _ in range(counts.shape[1])]
    for label, row in enumerate(counts):
        mine = rng.permutation(np.flatnonzero(labels == label))
        for hand, piece in zip(hands, np.split(mine, np.cumsum(row)), strict=False):
            hand.append(piece)
    return [np.sort(np.concatenate(hand)).astype(np.int64) for hand in hands]


def apportion(weights: npt.NDArray[np.number[Any]], total: int, rng: Rng | None = None) -> Ints:
    """Whole numbers that add up to `total`, proportional to `weights` (K,), by largest remainders.

    Ties go to the first, or at random with a generator.
    """
    order = np.arange(len(weights)) if rng is None else rng.permutation(len(weights))
    quota = weights.astype(np.float64) * total / weights.sum()
    whole = np.floor(quota * (1 - 1e-12)).astype(np.int64)  # never above the quota, whatever its rounding
    rest = np.round(quota - whole, 9)
    winners = order[np.argsort(-rest[order], kind="stable")[: total - whole.sum()]]
    whole[winners] += 1
    return np.asarray(whole, np.int64)


def _dirichlet(
    labels: Ints,
    holds: Bools,
    rng: Rng,
    alpha: float,
    min_size: int,
    balance: bool,
    floor: int = 0,
    why: str = "",
) -> Deal:
    """Class-wise Dirichlet shares over the clients that `holds` (C, N) admits to each class."""
    sizes = np.bincount(labels)

    def draw(alpha: float) -> Ints | None:
        return _counts(sizes, holds, _log_gammas(rng, alpha, holds.shape), balance)

    counts, attempts = _until(draw, alpha, len(labels), holds.shape[1], min_size, floor, why)
    return Deal(deal(labels, counts, rng), attempts)


def _everyone(labels: Ints, n_clients: int) -> Bools:
    return np.ones((len(np.bincount(labels)), n_clients), np.bool_)


def _owners(k: int, n_classes: int, n_clients: int, rng: Rng) -> Bools:
    """(C, N): k random classes a client, with enough owners for each class."""
    least = max(k * n_clients // n_classes // 2, 1)
    for _ in range(MAX_ATTEMPTS):
        order = np.argsort(rng.random((n_classes, n_clients)), axis=0)
        holds = np.argsort(order, axis=0) < k
        if holds.sum(1).min() >= least:
            return holds
    raise UsageError(
        f"--classes-per-client {k}: {MAX_ATTEMPTS} draws left a class with fewer than {least} clients; "
        f"raise it or --clients"
    )


def _counts(sizes: Ints, holds: Bools, logs: Shares, balance: bool) -> Ints | None:
    """(C, N) samples of each class for each client; None where every owner of a class is full."""
    counts = np.zeros(holds.shape, np.int64)
    held = np.zeros(holds.shape[1], np.int64)
    full = sizes.sum() / holds.shape[1]
    for label, size in enumerate(sizes):
        eligible = holds[label] & (held < full) if balance else holds[label]
        if size == 0:
            continue
        if not eligible.any():
            return None
        ends = np.cumsum(_shares(logs[label], eligible))
        cuts = np.floor(ends / ends[-1] * size).astype(np.int64)
        counts[label] = np.diff(cuts, prepend=0)
        held += counts[label]
    return counts


def _log_gammas(rng: Rng, alpha: float, shape: tuple[int, ...]) -> Shares:
    """Logarithms of Gamma(alpha, 1): normalised, they are a Dirichlet draw.

    G(alpha) = G(alpha + 1) U^(1 / alpha) keeps tiny values apart that would underflow to 0. Beyond the
    bounds of alpha the shares are one-hot or equal anyway.
    """
    alpha = min(max(alpha, 1e-12), 1e12)
    logs: Shares = np.log(rng.standard_gamma(alpha + 1, shape)) + np.log1p(-rng.random(shape)) / alpha
    return logs


def _shares(logs: Shares, eligible: Bools) -> Shares:
    """Shares that add up to 1 over the eligible clients, from logarithms (N,)."""
    masked = np.where(eligible, logs, -np.inf)
    weights = np.exp(masked - masked.max())
    shares: Shares = weights / weights.sum()
    return shares


def _until(
    draw: Callable[[float], Ints | None],
    alpha: float,
    n: int,
    n_clients: int,
    min_size: int,
    floor: int = 0,
    why: str = "",
) -> tuple[Ints, int]:
    """The first draw of counts (C, N) in which every client has `min_size`, and how many draws it took.

    floor: the size that holds whatever --min-size asks for; where it is the larger one, `why` says where it comes from.
    """
    if n_clients * min_size > n:
        raise TooFew(
            f"{n_clients} clients with at least {min_size} samples need more than {n}: lower --min-size or --clients"
        )
    most = 0
    for attempt in range(1, MAX_ATTEMPTS + 1):
        counts = draw(alpha)
        smallest = 0 if counts is None else int(counts.sum(0).min())
        if counts is not None and smallest >= min_size:
            return counts, attempt
        most = max(most, smallest)
    raise TooFew(
        f"--alpha {alpha:g}: {MAX_ATTEMPTS} draws gave some of {n_clients} clients fewer than {min_size} samples{why}; "
        + _advice(draw, alpha, min_size, most if most >= floor else 0)
    )


def _advice(draw: Callable[[float], Ints | None], alpha: float, min_size: int, most: int) -> str:
    """What would have worked: a larger alpha, or the size `most` that the smallest client had in one of the draws."""
    ways = [f"lower --min-size to {most}"] if most else []
    for larger in (value for value in ALPHAS if value > alpha):
        sizes = (counts.sum(0).min() for _ in range(TRIALS) if (counts := draw(larger)) is not None)
        if sum(size >= min_size for size in sizes) >= SUCCESSES:
            ways.insert(0, f"raise it to {larger:g}")
            break
    return " or ".join(ways or ["lower --clients"])


def _checked(parts: list[Ints], min_size: int) -> list[Ints]:
    smallest = min(len(part) for part in parts)
    if smallest < min_size:
        raise TooFew(
            f"the smallest of {len(parts)} clients gets {smallest} samples, --min-size asks for {min_size}: "
            f"lower --min-size or --clients"
        )
    return parts


def _check_classes(k: int, n_classes: int) -> None:
    if k > n_classes:
        raise UsageError(f"--classes-per-client {k}: the data have {n_classes} classes; lower it")
