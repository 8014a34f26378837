"""Seconds of attention on the server: the map, and everybody's mixed model.

Models are what clients really have after one round of local training, so that hashing meets the buckets of a real run.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from fltk import engine as engines
from fltk.attention import attend
from fltk.attention.stream import RowFile, attend_file, mix_file
from fltk.bench.machine import MIB, peak_memory, restart_peak
from fltk.bench.training import Asked, Row, job_of
from fltk.bench.workloads import Aggregation
from fltk.protocol.mixing import mix
from fltk.protocol.task import Task
from fltk.rounds.cohort import Cohort

Work = Callable[[], tuple[float, float]]  # seconds for the map and for mixing


def measure(name: str, workload: Aggregation, asked: Asked) -> Row:
    """One workload, as a row of the report."""
    job = job_of(workload, asked)
    task = job.task()
    with closing(engines.make(asked.place.engine, job)) as engine:
        state = job.method.init(task)
        uploads, _ = Cohort.of(job.method, task, state, range(task.n_clients), 0).trained(engine)
    rows = [upload.w for upload in uploads]
    row: Row = {
        "workload": name,
        "about": workload.help,
        "clients": task.n_clients,
        "samples": int(task.n.sum()),
        "network": job.train.model,
        "method": "attn",
        "parameters": task.layout.size,
        "workers": 1,
        "data_mib": 4 * task.n_clients * task.layout.size / MIB,
    }
    if not workload.streamed:
        models = torch.stack(rows)
        del uploads, rows
        return row | _repeated(lambda: _in_memory(models, task), asked.rounds)
    with tempfile.TemporaryDirectory(prefix="fltk-bench-") as folder:
        files = [RowFile(Path(folder) / part, task.n_clients, task.layout.size) for part in ("models", "mixed")]
        with open(files[0].path, "wb") as file:
            for model in rows:
                file.write(model.numpy().data)
        del uploads, rows
        return row | _repeated(lambda: _streamed(files[0], files[1], task), asked.rounds)


def _in_memory(models: Tensor, task: Task) -> tuple[float, float]:
    began = time.perf_counter()
    found = attend(models, center=task.w0, samples=task.n).map
    mapped = time.perf_counter()
    mix(found, models)
    return mapped - began, time.perf_counter() - mapped


def _streamed(models: RowFile, mixed: RowFile, task: Task) -> tuple[float, float]:
    began = time.perf_counter()
    found = attend_file(models, task.w0, samples=task.n)
    mapped = time.perf_counter()
    mix_file(found, models, mixed)
    return mapped - began, time.perf_counter() - mapped


def _repeated(work: Work, repeats: int) -> Row:
    work()
    restart_peak()
    found = [work() for _ in range(repeats)]
    seconds = [sum(parts) for parts in found]
    maps, mixes = zip(*found, strict=True)
    return {
        "seconds_min": min(seconds),
        "seconds_median": median(seconds),
        "seconds_map": min(maps),
        "seconds_mix": min(mixes),
        "driver_mib": peak_memory(),
        "seconds": seconds,
    }
