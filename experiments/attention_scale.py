"""One round of attention over many large models, from file to file: time, memory, error.

    python experiments/attention_scale.py --clients 1000 --parameters 600000
    python experiments/attention_scale.py --clients 10000 --parameters 600000 --folder /tmp

Writes synthetic models, groups of clients that have moved from a common start with cosine 0.5 within a group and 0.1
between groups, then measures the round in a process of its own: tokens (CountSketch), pairs (hashing), map, mixing,
writing. A sample of clients is compared with what exact cosines give: over the same pairs, and over all clients.
Needs 8 K P bytes of disk, which are given back.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fltk.attention import Options, weigh
from fltk.attention.stream import RowFile, SparseMap, attend_file, file_tokens, mix_file

GROUPS = 20
WITHIN, BETWEEN = 0.5, 0.1
SAMPLE = 16
BLOCK = 1 << 28  # bytes of a file that the comparison reads at a time
OPTIONS = Options(seed=1, round_seed=2, lone=0)


def start_of(p: int) -> Tensor:
    """The common start (P,)."""
    return torch.randn(p, generator=torch.Generator().manual_seed(0)) / p**0.5


def make(models: RowFile) -> None:
    """Write the models, row by row."""
    generator = torch.Generator().manual_seed(1)
    start, common = start_of(models.p), torch.randn(models.p, generator=generator)
    kinds = torch.randn(GROUPS, models.p, generator=generator)
    with open(models.path, "wb") as file:
        for k in range(models.k):
            noise = torch.randn(models.p, generator=generator)
            moved = BETWEEN**0.5 * common + (WITHIN - BETWEEN) ** 0.5 * kinds[k % GROUPS] + (1 - WITHIN) ** 0.5 * noise
            file.write((start + 0.3 * moved / models.p**0.5).numpy().data)


def round_of(models: RowFile, mixed: RowFile, workers: int) -> tuple[SparseMap, dict[str, float]]:
    """The measured round."""
    torch.set_num_threads(1)  # the workers are the threads
    began, worked = time.perf_counter(), time.process_time()
    found = attend_file(models, start_of(models.p), OPTIONS, workers=workers)
    mapped = time.perf_counter()
    mix_file(found, models, mixed, workers)
    ended = time.perf_counter()
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, kilobytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    seconds = {"seconds_map": mapped - began, "seconds_mix": ended - mapped, "seconds": ended - began}
    seconds["seconds_of_processor"] = time.process_time() - worked
    return found, {**seconds, "peak_gib": peak, "clients_met": len(found.pairs) / models.k}


def errors(models: RowFile, mixed: RowFile, found: SparseMap) -> dict[str, float]:
    """Sketched cosines and mixed models of a sample against exact ones."""
    rows = torch.linspace(0, models.k - 1, SAMPLE).long()
    exact = exact_cosines(models, rows)
    own = torch.zeros(SAMPLE, models.k, dtype=torch.bool)
    own[torch.arange(SAMPLE), rows] = True
    a = found.dense()[rows]
    z = file_tokens(models, start_of(models.p), OPTIONS)
    off = (z[rows] @ z.t() - exact)[~own]
    wanted = {"same_pairs": row_of(exact, own, a > 0), "all_clients": row_of(exact, own, torch.ones_like(own))}
    told = {f"cosine_error_{k}": v for k, v in compared(models, mixed, rows, wanted).items()}
    same = (torch.arange(models.k) % GROUPS) == (rows % GROUPS)[:, None]
    return {
        "token_cosine_rmse": float(off.square().mean().sqrt()),
        **told,
        "own_group_met": float((a * same).sum(1).mean()),
        "own_group_all": float((wanted["all_clients"] * same).sum(1).mean()),
    }


def exact_cosines(models: RowFile, rows: Tensor) -> Tensor:
    """Cosines of displacements between the sample and everybody, (S, K) float64."""
    start, step = start_of(models.p), BLOCK // (4 * models.k)
    products, norms = torch.zeros(len(rows), models.k, dtype=torch.float64), torch.zeros(models.k, dtype=torch.float64)
    for a in range(0, models.p, step):
        moved = models.columns(a, a + step) - start[a : a + step]
        products += (moved[rows] @ moved.t()).double()
        norms += moved.square().sum(1).double()
    return products / norms.sqrt() / norms[rows].sqrt()[:, None]


def row_of(s: Tensor, own: Tensor, allowed: Tensor) -> Tensor:
    """The rows (S, K) that exact cosines give over the allowed columns, client by client by `weigh`."""
    out = torch.zeros_like(s)
    for i, mine in enumerate(own):
        ids = torch.nonzero(allowed[i] | mine).flatten()
        table = torch.zeros(len(ids), len(ids), dtype=s.dtype)
        at = int(torch.nonzero(mine[ids]).flatten())
        table[at] = s[i, ids]
        out[i, ids] = weigh(table, replace(OPTIONS, sparse="none")).map[at]
    return out


def compared(models: RowFile, mixed: RowFile, rows: Tensor, wanted: dict[str, Tensor]) -> dict[str, float]:
    """1 - cosine between displacements of the mixed models and of those that other weights (S, K) give: the mean."""
    start, step = start_of(models.p), BLOCK // (4 * models.k)
    sums = {key: torch.zeros(3, len(rows), dtype=torch.float64) for key in wanted}
    for a in range(0, models.p, step):
        block, origin = models.columns(a, a + step), start[a : a + step]
        ours = mixed.mapped()[rows, a : a + step] - origin
        for key, weights in wanted.items():
            theirs = weights.float() @ block - origin
            for n, (x, y) in enumerate(((ours, theirs), (ours, ours), (theirs, theirs))):
                sums[key][n] += (x * y).sum(1).double()
    return {key: float((1 - xy / (xx * yy).sqrt()).mean()) for key, (xy, xx, yy) in sums.items()}


def alone(work: Callable[..., Any], *args: Any) -> Any:
    """The result of a function in a fresh process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, memory and error of one round of attention from file to file.")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--parameters", type=int, default=600_000)
    parser.add_argument("--workers", type=int, default=2, help="threads of the measured round")
    parser.add_argument("--folder", type=Path, default=None, help="where the two files go (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        models, mixed = (RowFile(Path(folder) / name, args.clients, args.parameters) for name in ("models", "mixed"))
        alone(make, models)
        found, measured = alone(round_of, models, mixed, args.workers)
        report = {
            "clients": args.clients,
            "parameters": args.parameters,
            "workers": args.workers,
            **measured,
        }
        print(json.dumps({**report, **alone(errors, models, mixed, found)}, indent=2))


if __name__ == "__main__":
    main()
