"""What the registry holds of some runs, as long tables: one row a run, a number, a client's number, a map's weight.

Columns have the names of the views that `fltk sql` reads, and beside `run` the method and the seed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fltk.export.tables import Row, Table, from_dicts
from fltk.files import replacing
from fltk.registry import RunRow, Store
from fltk.registry.where import flatten

_RUN = (("run", "int"), ("method", "text"), ("seed", "int"))


def runs_table(runs: Sequence[RunRow]) -> Table:
    """One row a run: what it is, its labels, every setting under its dotted name, its last numbers under `last.`."""
    return from_dicts([_run(run) for run in runs])


def _run(run: RunRow) -> dict[str, Any]:
    facts = {
        "run": run.id,
        "uuid": run.uuid,
        "name": run.name,
        "kind": run.kind,
        "parent": run.parent,
        "status": run.status,
        "message": run.message,
        "rounds": run.rounds_done,
        "started": _time(run.started),
        "finished": None if run.finished is None else _time(run.finished),
        "part": run.partition_id,
        "data_fingerprint": run.data_fingerprint,
        "config_hash": run.config_hash,
        "git_commit": run.git.get("commit"),
        "git_dirty": run.git.get("dirty"),
        "note": run.note,
    }
    facts |= {f"tag.{key}": value for key, value in run.tags.items()}
    return facts | flatten(run.config) | {f"last.{key}": value for key, value in run.last.items()}


def metrics_table(store: Store, runs: Sequence[RunRow]) -> Table:
    """One row a number: `evaluation` is empty for those of rounds, whose `model` is empty in turn."""
    columns = (*_RUN, ("round", "int"), ("evaluation", "int"), ("model", "text"), ("key", "text"), ("value", "float"))
    return Table(columns, _metrics(store, runs))


def _metrics(store: Store, runs: Sequence[RunRow]) -> Iterator[Row]:
    own = {run.id: (run.id, run.method, run.seed) for run in runs}
    for number, round, key, value in store.each_scalar(own):
        yield (*own[number], round, None, None, key, value)
    for found in store.each_evaluation(own, keys=()):
        for row in found.summary.get("rows", []):
            for key, value in row.items():
                if isinstance(value, int | float):
                    yield (*own[found.run], found.round, found.id, _model(row), key, float(value))


def _model(row: dict[str, Any]) -> str:
    """What a row of an evaluation is about: a model, or a step of joining and with how many samples."""
    return str(row.get("model") or " ".join(str(row[key]) for key in ("step", "shots") if key in row))


def clients_table(store: Store, runs: Sequence[RunRow]) -> Table:
    """One row a client's number; `evaluation` is empty for those of rounds."""
    columns = (*_RUN, ("round", "int"), ("evaluation", "int"), ("key", "text"), ("client", "int"), ("value", "float"))
    return Table(columns, _clients(store, runs))


def _clients(store: Store, runs: Sequence[RunRow]) -> Iterator[Row]:
    own = {run.id: (run.id, run.method, run.seed) for run in runs}
    for number, round, key, values in store.each_vector(own):
        for client, value in enumerate(values.tolist()):
            yield (*own[number], round, None, key, client, value)
    for found in store.each_evaluation(own):
        for key, values in sorted(found.clients.items()):
            for client, value in enumerate(np.asarray(values, np.float64).ravel().tolist()):
                yield (*own[found.run], found.round, found.id, key, client, value)


def maps_table(store: Store, runs: Sequence[RunRow]) -> Table:
    """One row a weight: how much `contributor` enters the model that `receiver` starts from."""
    columns = (*_RUN, ("round", "int"), ("slice", "text"), ("receiver", "int"), ("contributor", "int"))
    return Table((*columns, ("weight", "float")), _maps(store, runs))


def _maps(store: Store, runs: Sequence[RunRow]) -> Iterator[Row]:
    own = {run.id: (run.id, run.method, run.seed) for run in runs}
    for number, found in store.each_map(own):
        for name, matrix in zip(found.slices, found.array.tolist(), strict=True):
            for receiver, weights in zip(found.ids, matrix, strict=True):
                for contributor, weight in zip(found.ids, weights, strict=True):
                    yield (*own[number], found.round, name, receiver, contributor, weight)


def write_maps(store: Store, runs: Sequence[RunRow], path: Path, option: str = "--output") -> int:
    """The maps as npz; returns their number. Per map `run42.round5` (slices, N, N) float32, and beside it
    `run42.round5.slices` and `run42.round5.ids`. Equal maps give equal bytes.
    """
    count = 0
    with replacing(path, option) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, found in store.each_map(run.id for run in runs):
            name = f"run{number}.round{found.round}"
            _add(archive, name, found.array)
            _add(archive, f"{name}.slices", np.array(found.slices))
            _add(archive, f"{name}.ids", np.array(found.ids, np.int64))
            count += 1
    return count


def _add(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")  # with a fixed date
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as part:
        np.lib.format.write_array(part, array, allow_pickle=False)


def _time(seconds: float) -> str:
    """UTC, ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
