"""Attention from file to file, for more models than fit into memory.

    models, mixed = RowFile("models.bin", 10_000, 600_000), RowFile("mixed.bin", 10_000, 600_000)
    found = attend_file(models, start)                      # reads the first file once
    mix_file(found, models, mixed)                          # reads it once more, and writes the second

A file holds K rows of P float32, as numpy.memmap and torch.from_file see it. Tokens are CountSketches, pairs come from
hashing (`fltk.attention.sparse`), and only the weights of pairs that met exist: memory grows with K (r + C), C the most
clients that anybody met, and with a few blocks of the file. Rows are mapped a block at a time and let go after use,
because the pages of a mapping count as memory of the process that reads them; pieces of columns, which lie far apart,
are read and written as such, because a mapping would fetch what lies around them as well.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fltk.attention import sparse
from fltk.attention.attend import DEFAULTS, Options, finish, prior
from fltk.attention.scores import ceiling, energies, lone, softmax_rows
from fltk.attention.tokens import sketches, unit

BLOCK = 1 << 28  # bytes of a file in work at a time
TILE = 1 << 11  # columns that are multiplied at a time: a bucket's rows should stay in the cache


@dataclass(frozen=True)
class RowFile:
    """A matrix of K rows and P columns in a file of float32, row by row."""

    path: str | Path
    k: int
    p: int

    def mapped(self) -> Tensor:
        """(K, P), read page by page as it is used; changes stay in memory."""
        flat = torch.from_file(str(self.path), shared=False, size=self.k * self.p, dtype=torch.float32)
        return flat.view(self.k, self.p)

    def columns(self, start: int, stop: int) -> Tensor:
        """A copy of some columns, (K, c)."""
        out = torch.empty(self.k, min(stop, self.p) - start)
        with open(self.path, "rb", buffering=0) as file:
            for i, row in enumerate(out.numpy()):
                file.seek(4 * (i * self.p + start))
                file.readinto(row.data)
        return out

    def write(self, start: int, values: Tensor) -> None:
        """Put columns (K, c) into their place, in a file that exists."""
        with open(self.path, "r+b", buffering=0) as file:
            for i, row in enumerate(values.numpy()):
                file.seek(4 * (i * self.p + start))
                file.write(row.data)

    def create(self) -> None:
        """An empty file of the right size; one that is there is lost."""
        with open(self.path, "wb") as file:
            file.truncate(4 * self.k * self.p)


@dataclass(frozen=True)
class SparseMap:
    """A map (K, K) of which only the pairs that met are kept; its rows lie on the simplex."""

    buckets: list[tuple[Tensor, Tensor]]  # members (m,) int64 and weights (m, m) float64; every pair stands in one
    pairs: Tensor  # (Z,) int64, i K + j of every pair, ascending
    weights: Tensor  # (Z,) float64
    ceiling: Tensor  # (K,)
    lone: Tensor  # (K,) bool

    def dense(self) -> Tensor:
        """(K, K) float64."""
        k = len(self.lone)
        return torch.zeros(k * k, dtype=torch.float64).index_copy(0, self.pairs, self.weights).view(k, k)


def attend_file(
    models: RowFile, center: Tensor, options: Options = DEFAULTS, samples: Tensor | None = None, workers: int = 1
) -> SparseMap:
    """The map of `attend` with sparse=lsh and proj=countsketch; center (P,), samples (K,).

    workers: threads, each with a block of the file. They read and compute at once, and change no bit.

    Raises ValueError for another mask or projection and for two levels; tokens are displacements alone.
    """
    if options.sparse not in ("auto", "lsh") or options.proj not in ("auto", "countsketch") or options.hier != "off":
        raise ValueError("models in a file are compared with sparse=lsh, proj=countsketch and hier=off")
    z = file_tokens(models, center, options, workers)
    rounds = sparse.pieces(z, options.hashes, options.neighbours, options.round_seed)
    pairs = sparse.pairs(rounds, models.k)
    row, column = pairs // models.k, pairs % models.k
    s = torch.empty(len(pairs), dtype=torch.float64)
    for m in (m for members in rounds for m in members):
        s[_places(pairs, m, models.k)] = (z[m] @ z[m].t()).clamp(-1, 1).flatten()
    s[row == column] = 1.0
    log_n = prior(models.k, options.gamma, samples)
    weights, best, alone = _weigh(s, row, column, log_n, options)
    return SparseMap(_buckets(rounds, pairs, weights, models.k), pairs, weights, best, alone)


def file_tokens(models: RowFile, center: Tensor, options: Options, workers: int = 1) -> Tensor:
    """Unit tokens (K, r) float64 in one pass."""
    step = max(1, BLOCK // (4 * models.p))

    def block(a: int) -> Tensor:
        return unit(sketches(models.mapped()[a : a + step], center, options.r, options.seed))

    with ThreadPoolExecutor(workers) as pool:
        return torch.cat(list(pool.map(block, range(0, models.k, step))))


def mix_file(found: SparseMap, models: RowFile, out: RowFile, workers: int = 1) -> None:
    """Write every client's mixed model, map @ models in float32, to another file."""
    step = max(TILE, BLOCK // (4 * models.k))
    buckets = [(m, w.float()) for m, w in found.buckets]
    out.create()

    def block(a: int) -> None:
        out.write(a, _mixed(models.columns(a, a + step), buckets))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(block, range(0, models.p, step)))  # the list raises what a block has raised


def _mixed(rows: Tensor, buckets: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The map times some columns: (K, c) -> (K, c)."""
    out = torch.zeros_like(rows)
    for b in range(0, rows.shape[1], TILE):
        part, into = rows[:, b : b + TILE], out[:, b : b + TILE]
        for m, w in buckets:
            into.index_add_(0, m, w @ part[m])
    return out


def _places(pairs: Tensor, m: Tensor, k: int) -> Tensor:
    """Where the pairs of a bucket's members stand in the sorted list, (m * m,)."""
    return torch.searchsorted(pairs, (m[:, None] * k + m).flatten())


def _weigh(s: Tensor, row: Tensor, column: Tensor, log_n: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the pairs (Z,), ceilings (K,) and lone rows (K,), by way of a table (K, C) with gaps."""
    k = len(log_n)
    count = row.bincount(minlength=k)
    at = (row, torch.arange(len(row)) - (count.cumsum(0) - count)[row])
    shape = (k, int(count.max()))
    table = torch.full(shape, -torch.inf, dtype=torch.float64).index_put(at, s)
    own = torch.zeros(shape, dtype=torch.bool).index_put(at, row == column)
    peer = torch.zeros(shape, dtype=torch.bool).index_put(at, row != column)
    best = ceiling(table, peer, options.ceiling)
    alone = lone(best, options.lone)
    e = energies(table, best, options.score, options.width, own, peer) + options.bias * own.to(s.dtype)
    a = softmax_rows(e, torch.zeros(shape, dtype=torch.float64).index_put(at, log_n[column]), own | peer)
    return finish(a, own, alone, options)[at], best, alone


def _buckets(rounds: list[list[Tensor]], pairs: Tensor, weights: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
    """The weights bucket by bucket; a pair that meets again counts where it met first."""
    left, found = weights.clone(), []
    for m in (m for members in rounds for m in members):
        at = _places(pairs, m, k)
        found.append((m, left[at].view(len(m), len(m))))
        left[at] = 0.0
    return found
