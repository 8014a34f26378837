"""What every defence costs a round of one global model: seconds and peak memory.

    python experiments/defence_cost.py --clients 100 --parameters 600000
    python experiments/defence_cost.py --only krum rfa --format json

Every defence runs in a fresh process on the same synthetic uploads, by the code that the runner calls: the screen, then
the rule or the mean. `inputs` is the memory of a process that holds the uploads and has done nothing yet; `peak` is the
whole process. `processor` counts the seconds of all threads, and is what to look at on a machine that does other things
besides. The second of two rounds is timed, in which rules that remember have something to remember.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import torch

from fltk import defences
from fltk.defences.guard import DefenceRun
from fltk.names import DEFENCES
from fltk.protocol.averaging import ONE, weighted_sum
from fltk.train.streams import Streams

SHARE = 0.2
LINE = (
    "{defence:16}{seconds:7.2f} s {processor:7.2f} s of processor   {inputs_gib:.2f} GiB inputs {peak_gib:.2f} GiB peak"
)


def peak_gib() -> float:
    """The most memory that this process has held so far."""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(name: str, clients: int, parameters: int, threads: int) -> dict[str, float | str]:
    """Two rounds under one defence; the second one is timed."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    start, common = torch.randn(2, parameters, generator=generator)
    rows = [start + 0.01 * (common + torch.randn(parameters, generator=generator)) for _ in range(clients)]
    defence = defences.create(name, {})
    guard = DefenceRun(defence, ONE, SHARE, not defence.weighted, parameters, Streams(1), clients)
    root = (0.01 * common).expand(clients, -1) if defence.needs_root else None
    ids, p, inputs = list(range(clients)), torch.full((clients,), 1 / clients, dtype=torch.float64), peak_gib()
    left: dict[str, torch.Tensor] = {}
    for round in range(2):
        began, worked = time.perf_counter(), time.process_time()
        watch = guard.watch(round, ids, rows, [start] * clients, p, left, root)
        watch.combine(rows, p, ids, start, "w", lambda rows, p, ids: weighted_sum(rows, p))
        seconds, left = {"seconds": time.perf_counter() - began, "processor": time.process_time() - worked}, watch.left
        del watch  # with the rows that it has changed
    return {"defence": name, **seconds, "inputs_gib": inputs, "peak_gib": peak_gib()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds and peak memory of a round under every defence.")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--parameters", type=int, default=600_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=sorted(DEFENCES), default=list(DEFENCES), metavar="DEFENCE")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    args = parser.parse_args()
    told = []
    for name in args.only:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            told.append(pool.submit(measure, name, args.clients, args.parameters, args.threads).result())
        if args.format == "text":
            print(LINE.format(**told[-1]), flush=True)
    if args.format == "json":
        print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
