"""What the registry takes and gives back: frozen dataclasses of plain data and NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
TRAINED = ("train", "attack")  # kinds of runs that are played round by round from their own configuration
DAMAGED = "damaged"  # the status of a run that cannot be read
MEASURED = "bench"  # the kind of runs that hold measurements of a machine; `latest` never means one


@dataclass(frozen=True)
class MapBlob:
    """A collaboration map to be stored: `array` (S, N, N) float32, one matrix per named slice.

    `ids` are the client ids of the N rows and columns; empty means 0..N-1.
    """

    kind: str
    slices: tuple[str, ...]
    array: NDArray[Any]
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class StoredMap:
    """A collaboration map as stored: `array` (S, N, N) float32, `ids` the N client ids."""

    round: int
    kind: str
    slices: tuple[str, ...]
    array: Float32
    ids: tuple[int, ...]


@dataclass(frozen=True)
class RunRow:
    """One run. `started` and `finished` are seconds since 1970; `last` has each scalar's most recent value.

    `status` is running, done, interrupted, failed, or stale: recorded as running by a process that is gone. A run that
    cannot be read is `damaged`, with the reason as its `message`, and has nothing else; no list of runs has it.
    `rounds_done` is the highest round number recorded (0 when none). `config_json` is the configuration as stored:
    sorted keys, no spaces.
    """

    id: int
    uuid: str
    name: str | None
    kind: str
    parent: int | None
    status: str
    message: str | None
    method: str
    dataset: str
    config_json: str
    config: dict[str, Any]
    config_hash: str
    origin: dict[str, str]
    partition_id: int | None
    data_fingerprint: str
    environment_id: int
    git: dict[str, Any]
    seed: int
    note: str
    started: float
    finished: float | None
    rounds_done: int
    last: dict[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    removed: float | None = None  # when it was hidden, seconds since 1970

    @property
    def label(self) -> str:
        """How the run is called in messages: run42, with its name when it has one."""
        return f"run{self.id}" + (f" ({self.name})" if self.name else "")

    @property
    def set_params(self) -> dict[str, Any]:
        """The hyper-parameters that were set and not left at their defaults."""
        given: dict[str, Any] = self.config["params"]
        return {key: value for key, value in given.items() if self.origin.get(f"params.{key}", "default") != "default"}


@dataclass(frozen=True)
class AttemptRow:
    """One process that worked on a run. `ended` is None while it works or when it was killed.

    `changes` (name, then, now) is what differed from the run's beginning and was allowed by the user.
    """

    id: int
    run: int
    host: str
    pid: int
    started: float
    heartbeat: float
    ended: float | None
    status: str
    changes: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class CheckpointRow:
    """A stored checkpoint; `size` in bytes, `sha256` names its file in the artifact folder."""

    run: int
    round: int
    sha256: str
    size: int
    meta: dict[str, str]
    created: float


@dataclass(frozen=True)
class PartitionRow:
    """A stored partition; its index arrays are read by `Store.partition_arrays`."""

    id: int
    name: str | None
    fingerprint: str
    data_fingerprint: str
    config: dict[str, Any]
    summary: dict[str, Any]
    sha256: str
    created: float


@dataclass(frozen=True)
class EvaluationRow:
    """An evaluation of a run after `round`: a summary and one array per client measure."""

    id: int
    run: int
    round: int
    summary: dict[str, Any]
    clients: dict[str, NDArray[Any]]
    created: float
