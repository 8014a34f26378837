"""What a registry holds, in a form that two registries can be compared by."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fltk.registry import RunRow, Store
from fltk.registry.verify import Verified, verify

Content = dict[str, dict[str, Any]]
DATA = Path(__file__).parent / "registry" / "data"


def copy_stored(name: str, target: Path) -> Path:
    """A stored registry of tests/registry/data with its artifacts, under another name."""
    shutil.copyfile(DATA / f"{name}.db", target)
    shutil.copytree(DATA / f"{name}.artifacts", target.with_name(f"{target.stem}.artifacts"))
    return target


def contents(store: Store) -> Content:
    """By UUID: everything stored about each run that does not depend on this database's numbering."""
    rows = store.runs()
    labels = {row.id: row.uuid for row in rows}
    return {row.uuid: content(store, row, labels) for row in rows}


def content(store: Store, row: RunRow, labels: Mapping[int, str]) -> dict[str, Any]:
    facts = {
        key: getattr(row, key)
        for key in ("kind", "status", "message", "method", "config", "config_hash", "origin", "git", "seed", "note")
    }
    facts |= {key: getattr(row, key) for key in ("started", "finished", "rounds_done", "tags", "data_fingerprint")}
    part = None if row.partition_id is None else store.find_partition(row.partition_id)
    return facts | {
        "last": repr(sorted(row.last.items())),
        "parent": None if row.parent is None else labels.get(row.parent),
        "partition": None if part is None else (part.fingerprint, part.config, repr(part.summary)),
        "arrays": None if part is None else _bytes(store.partition_arrays(part.id)),
        "environment": store.environment(row.id),
        "diff": store.git_diff(row.id),
        "digests": store.digests(row.id),
        "scalars": {key: (r.tolist(), v.tobytes()) for key, (r, v) in store.scalars(row.id).items()},
        "clients": {key: _pair(store.client_values(row.id, key)) for key in store.client_keys(row.id)},
        "maps": [(m.round, m.kind, m.slices, m.ids, m.array.tobytes()) for m in store.maps(row.id)],
        "checkpoints": [(c.round, c.sha256, c.size, c.meta) for c in store.checkpoints(row.id)],
        "weights": [_tensors(store.load_checkpoint(row.id, c.round)[1]) for c in store.checkpoints(row.id)],
        "evaluations": [(e.round, repr(e.summary), _bytes(e.clients), e.created) for e in store.evaluations(row.id)],
        "attempts": [(a.host, a.pid, a.started, a.heartbeat, a.ended, a.changes) for a in store.attempts(row.id)],
    }


def _pair(values: tuple[Any, Any]) -> tuple[list[int], bytes]:
    return values[0].tolist(), values[1].tobytes()


def _bytes(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, tuple[str, bytes]]:
    return {key: (str(array.dtype), array.tobytes()) for key, array in arrays.items()}


def _tensors(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {key: tensor.contiguous().numpy().tobytes() for key, tensor in tensors.items()}


def verified(store: Store, *runs: int) -> Verified:
    """What `fltk verify` finds."""
    from fltk.cli.verify import _marks, _same

    return verify(store, runs or None, same=_same, marks=_marks)
