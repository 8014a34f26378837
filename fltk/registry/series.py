"""What a run produces round by round: scalars, per-client vectors, maps, digests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, Table, select

from fltk.errors import FltkError
from fltk.registry.blobs import (
    pack_map,
    pack_scalar,
    pack_vector,
    to_json,
    unpack_map,
    unpack_scalar,
    unpack_vector,
)
from fltk.registry.database import LARGEST
from fltk.registry.reading import reading
from fltk.registry.rows import Float32, MapBlob, StoredMap
from fltk.registry.runs import Runs
from fltk.registry.schema import client_vector, map_, round_, scalar
from fltk.registry.sealing import Sealing

Rounds = NDArray[np.int64]


class Series(Runs):
    """The part of the store that knows rounds."""

    def record_round(
        self,
        run_id: int,
        round: int,
        scalars: Mapping[str, float],
        clients: Mapping[str, NDArray[Any]],
        map: MapBlob | None,
        digest: str,
    ) -> None:
        """Store a round in one transaction, in place of what was stored for it, and count as a heartbeat.

        `clients` has one value per client (N,) for each key, kept as float32; `digest` names the weights.
        """
        at = {"run_id": run_id, "round": int(round)}
        # All packing happens before the lock is taken.
        numbers = [
            {**at, "key": key, "value": value, "kind": kind}
            for key, (value, kind) in ((key, pack_scalar(number)) for key, number in scalars.items())
        ]
        vectors = [{**at, "key": key, "data": pack_vector(values)} for key, values in clients.items()]
        maps = [] if map is None else [at | pack_map(map)]
        parts: dict[str, list[dict[str, Any]]] = {scalar.name: numbers, client_vector.name: vectors, map_.name: maps}
        with self._write() as sealing:
            self._advance(sealing, run_id, int(round), scalars)
            sealing.insert_round({**at, "digest": digest, "recorded": self._clock()}, parts)
            self._touch(sealing, run_id)

    def scalars(self, run_id: int, key: str | None = None) -> dict[str, tuple[Rounds, NDArray[np.float64]]]:
        """Per key: the rounds (R,) int64 and the values (R,) float64. FltkError for a key the run lacks."""
        query = select(scalar).where(scalar.c.run_id == run_id).order_by(scalar.c.key, scalar.c.round)
        if key is not None:
            query = query.where(scalar.c.key == key)
        series: dict[str, tuple[list[int], list[float]]] = {}
        with reading(run_id):
            for row in self._of_run(run_id, query):
                rounds, values = series.setdefault(row.key, ([], []))
                rounds.append(row.round)
                values.append(unpack_scalar(row.value, row.kind))
        if key is not None and not series:
            raise self._no_key(run_id, key, scalar)
        return {name: (np.array(r, np.int64), np.array(v, np.float64)) for name, (r, v) in series.items()}

    def client_values(self, run_id: int, key: str) -> tuple[Rounds, Float32]:
        """The rounds (R,) int64 and the values (R, N) float32 of one per-client measure.

        FltkError for a key that the run does not have. Rounds with fewer clients are filled with NaN.
        """
        table = client_vector
        chosen = table.c.run_id == run_id, table.c.key == key
        rows = self._of_run(run_id, select(table.c.round, table.c.data).where(*chosen).order_by(table.c.round))
        if not rows:
            raise self._no_key(run_id, key, table)
        with reading(run_id):
            vectors = [unpack_vector(row.data) for row in rows]
        values = np.full((len(vectors), max(vector.size for vector in vectors)), np.nan, np.float32)
        for line, vector in zip(values, vectors, strict=True):
            line[: vector.size] = vector
        return np.array([row.round for row in rows], np.int64), values

    def client_keys(self, run_id: int) -> list[str]:
        """The names of the per-client measures that a run has, sorted."""
        return self._keys(run_id, client_vector)

    def scalar_keys(self, run_id: int) -> list[str]:
        """The names of the scalars that a run has, sorted."""
        return self._keys(run_id, scalar)

    def maps(self, run_id: int, rounds: Iterable[int] | None = None) -> list[StoredMap]:
        """A run's collaboration maps in round order; `rounds` picks some. FltkError for one without."""
        query = select(map_).where(map_.c.run_id == run_id).order_by(map_.c.round)
        wanted = None if rounds is None else sorted({int(number) for number in rounds})
        if wanted is not None:
            query = query.where(map_.c.round.in_([number for number in wanted if abs(number) <= LARGEST]))
        with reading(run_id):
            found = [unpack_map(row, self.shown) for row in self._of_run(run_id, query)]
        missing = set(wanted or ()) - {item.round for item in found}
        if missing:
            raise FltkError(f"run{run_id} has no map of round {min(missing)}; {self._map_hint(run_id)}")
        return found

    def map_rounds(self, run_id: int) -> list[int]:
        """The rounds that have a map."""
        query = select(map_.c.round).where(map_.c.run_id == run_id).order_by(map_.c.round)
        return [int(row.round) for row in self._of_run(run_id, query)]

    def digests(self, run_id: int) -> dict[int, str]:
        """The digest of each recorded round's weights, in round order."""
        query = select(round_).where(round_.c.run_id == run_id).order_by(round_.c.round)
        return {int(row.round): str(row.digest) for row in self._of_run(run_id, query)}

    def _advance(self, sealing: Sealing, run_id: int, number: int, scalars: Mapping[str, float]) -> None:
        """Bring the run's summary columns up to date."""
        row = sealing.run(run_id)
        if row is None:
            raise self._unknown_run(sealing.connection, f"run{run_id}")
        if number < row["rounds_done"]:  # played again: what is known of the last round stands
            return
        last = json.loads(row["last"]) | {key: float(value) for key, value in scalars.items()}
        sealing.update_run(run_id, {"rounds_done": number, "last": to_json(last)})

    def _of_run(self, run_id: int, query: Select[Any]) -> list[Any]:
        """The rows of a query about one run; UsageError when that run does not exist."""
        with self._db.read() as connection:
            self._row(connection, run_id)
            return list(connection.execute(query))

    def _keys(self, run_id: int, table: Table) -> list[str]:
        query = select(table.c.key).where(table.c.run_id == run_id).distinct().order_by(table.c.key)
        return [str(row.key) for row in self._of_run(run_id, query)]

    def _no_key(self, run_id: int, key: str, table: Table) -> FltkError:
        known = ", ".join(self._keys(run_id, table)) or "none yet"
        return FltkError(f"run{run_id} has no values named {key!r}; it has: {known}")

    def _map_hint(self, run_id: int) -> str:
        rounds = self.map_rounds(run_id)
        return f"it has maps of rounds {rounds[0]} to {rounds[-1]}" if rounds else "it has none at all"
