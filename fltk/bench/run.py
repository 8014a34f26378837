"""All workloads of one measurement, and the measurement as a run of kind `bench` in the registry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fltk import experiment
from fltk.bench import aggregation, training, writes
from fltk.bench.data import EMBEDDED, stands_in
from fltk.bench.machine import gemm_peak, machine
from fltk.bench.training import Asked, Row
from fltk.bench.workloads import DATASET, Aggregation, Training, Workload
from fltk.config import canonical_json
from fltk.engine.base import check_device, settle
from fltk.registry import Store
from fltk.registry.rows import MEASURED

FIGURES = ("seconds_min", "seconds_median", "faster", "slower", "share", "driver_mib", "worker_mib")


@dataclass(frozen=True)
class Report:
    """Rows, one a workload; the machine with its peak; what has to be known to read them."""

    rows: list[Row]
    machine: dict[str, Any]
    notes: list[str]
    dataset: str


def play(workloads: Mapping[str, Workload], asked: Asked, tell: Callable[[str], None]) -> Report:
    """Measure one workload after another; `tell` hears what comes next. The peak is taken before and after them."""
    check_device(asked.place.device)
    settle()
    peak = gemm_peak(asked.place.device)
    rows: list[Row] = []
    for name, workload in workloads.items():
        tell(f"{name}: {workload.help}")
        rows += measured(name, workload, asked)
    peak = max(peak, gemm_peak(asked.place.device))
    rows = [with_share(row, peak) for row in rows]
    around = {**machine(asked.place.device), "gemm_flops": peak}
    dataset = EMBEDDED if stands_in(asked.place.data_dir, asked.place.download) else DATASET
    return Report(rows, around, _notes(asked, dataset), dataset)


def measured(name: str, workload: Workload, asked: Asked) -> list[Row]:
    """The rows of one workload."""
    if isinstance(workload, Training):
        return [training.measure(name, workload, asked)]
    if isinstance(workload, Aggregation):
        return [aggregation.measure(name, workload, asked)]
    return writes.measure(name, workload, asked)


def with_share(row: Row, peak: float) -> Row:
    """The row with the share that its fastest round had of what its workers could multiply at best."""
    if "flops" not in row:
        return row
    return {**row, "share": row["flops"] / row["seconds_min"] / (peak * row["workers"])}


def _notes(asked: Asked, dataset: str) -> list[str]:
    notes = ["warm-up: 2 s and until all workers are up"]
    if asked.quick:
        notes.append("--quick: a fifth of the clients; figures of whole workloads are others")
    if dataset == EMBEDDED:
        notes.append(f"{DATASET} is not at hand (--data-dir, --download): the embedded digits, enlarged and repeated")
    return notes


def save(store: Store, report: Report, asked: Asked) -> int:
    """Store a measurement; returns the number of its run.

    The rows stand in its evaluation, and their main figures are numbers of its one round, named WORKLOAD.FIGURE.
    """
    config = {
        "partition": {"dataset": report.dataset, "scheme": "", "partition_seed": 0},
        "train": {"model": "", "rounds": asked.rounds, **asked.settings},
        "method": MEASURED,
        "params": {},
        "seed": 0,
        MEASURED: {
            "workloads": [row["workload"] for row in report.rows],
            "engine": asked.place.engine,
            "device": asked.place.device,
            "quick": asked.quick,
        },
    }
    around, git = experiment.circumstances(asked.place.device)
    run = store.begin_run(
        config,
        _hash(config),
        kind=MEASURED,
        data_fingerprint="",
        environment=around,
        git=git,
        seed=0,
    )
    store.start_attempt(run)
    numbers = {
        f"{row['workload']}.{key}": float(row[key])
        for row in report.rows
        for key in FIGURES
        if row.get(key) is not None
    }
    store.record_round(run, 1, numbers, {}, None, _hash(report.rows))
    summary = {"rows": [{"model": row["workload"], **row} for row in report.rows]}
    store.save_evaluation(run, 1, {**summary, "machine": report.machine, "notes": report.notes}, {})
    store.finish(run, "done")
    return run


def stored(store: Store, run: int) -> Report:
    """A measurement as it was stored."""
    kept = store.evaluations(run)[-1].summary
    rows = [{key: value for key, value in row.items() if key != "model"} for row in kept["rows"]]
    return Report(rows, kept["machine"], kept["notes"], store.find_run(run).dataset)


def _hash(data: Any) -> str:
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()
