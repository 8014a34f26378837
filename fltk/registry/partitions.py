"""Partitions and evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from numpy.typing import NDArray
from sqlalchemy import Row, select
from sqlalchemy.engine import Connection

from fltk.errors import UsageError
from fltk.registry.base import check_free, check_name, find_id
from fltk.registry.blobs import pack_arrays, to_json, unpack_arrays
from fltk.registry.reading import reading
from fltk.registry.rows import EvaluationRow, PartitionRow
from fltk.registry.runs import Runs
from fltk.registry.schema import evaluation, partition
from fltk.registry.sealing import Sealing


class Partitions(Runs):
    """The part of the store that knows partitions."""

    def save_partition(
        self,
        config: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        fingerprint: str,
        data_fingerprint: str,
        summary: Mapping[str, Any],
        name: str | None = None,
    ) -> int:
        """Store a partition and return its number; one with the same fingerprint is stored once.

        A name is given to a partition that has none; UsageError when it has another, or the name is taken.
        """
        text = None if name is None else check_name(name)
        with self._db.read() as connection:
            known = _by_fingerprint(connection, fingerprint)
        if known is not None and not self._files.path(known.sha256).is_file():
            self.mend_partition(known.id, arrays)
        if known is not None and text in (None, known.name):
            return int(known.id)
        with self._stage_bytes(pack_arrays(arrays)) as staged, self._write() as sealing:
            known = _by_fingerprint(sealing.connection, fingerprint)
            if known is not None:
                _name(sealing, known, text)
                return int(known.id)
            if text is not None:
                check_free(sealing.connection, partition, "part", text)
            self._publish(sealing, staged, "partition")
            row = {
                "name": text,
                "fingerprint": fingerprint,
                "data_fingerprint": data_fingerprint,
                "config": to_json(config),
                "summary": to_json(summary),
                "sha256": staged.sha256,
                "created": self._clock(),
            }
            return sealing.insert(partition, row)

    def partitions(self) -> list[PartitionRow]:
        """All stored partitions, oldest first."""
        with self._db.read() as connection:
            return [_partition_row(row) for row in connection.execute(select(partition).order_by(partition.c.id))]

    def find_partition(self, ref: str | int) -> PartitionRow:
        """The partition that `part3`, `3`, `latest`, a name or the start of a fingerprint means.

        UsageError when there is none, or several.
        """
        with self._db.read() as connection:
            found, several = find_id(connection, partition, "part", "fingerprint", ref)
            if several:
                raise UsageError(f"partition {str(ref)!r} is ambiguous: {', '.join(f'part{i}' for i in several[:5])}")
            row = connection.execute(select(partition).where(partition.c.id == found)).first()
            if row is not None:
                return _partition_row(row)
            rows = connection.execute(select(partition.c.id, partition.c.name).order_by(partition.c.id)).all()
        close = get_close_matches(str(ref), [row.name for row in rows if row.name], n=3, cutoff=0.5)
        hint = f"it has {len(rows)}, the latest is part{rows[-1].id}" if rows else "it has none yet"
        hint = f"did you mean {' or '.join(close)}?" if close else hint
        raise UsageError(f"no partition {str(ref)!r} in {self.shown}; {hint}")

    def partition_arrays(self, partition_id: int) -> dict[str, NDArray[Any]]:
        """The arrays as saved; FltkError naming the file when it is missing or damaged."""
        path = self._files.verified(self.find_partition(partition_id).sha256)
        return unpack_arrays(path.read_bytes(), f"artifact file {path}")

    def mend_partition(self, partition_id: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the file of a stored partition again. The caller knows that the arrays have its fingerprint."""
        with self._stage_bytes(pack_arrays(arrays)) as staged, self._write() as sealing:
            self._publish(sealing, staged, "partition")
            # Another library may pack the same arrays into other bytes.
            sealing.update(partition, partition.c.id == partition_id, {"sha256": staged.sha256})


class Evaluations(Runs):
    """The part of the store that knows evaluations."""

    def save_evaluation(
        self,
        run_id: int,
        round: int,
        summary: Mapping[str, Any],
        clients: Mapping[str, NDArray[Any]],
        *,
        stored: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> int:
        """Store an evaluation of the run after `round` and return its id. Earlier ones stay.

        stored: whether a summary is that of this evaluation. Where the run has one after this round, stored by another
        process in the meantime, nothing is added and its id is returned.
        """
        row = {
            "run_id": run_id,
            "round": int(round),
            "summary": to_json(summary),
            "data": pack_arrays(clients),
            "created": self._clock(),
        }
        with self._write() as sealing:
            self._row(sealing.connection, run_id)
            if stored is not None:
                known = select(evaluation.c.id, evaluation.c.summary)
                known = known.where(evaluation.c.run_id == run_id, evaluation.c.round == int(round))
                for found in sealing.connection.execute(known.order_by(evaluation.c.id)):
                    if stored(json.loads(found.summary)):
                        return int(found.id)
            return sealing.insert(evaluation, row)

    def evaluations(self, run_id: int) -> list[EvaluationRow]:
        """A run's evaluations, oldest first."""
        query = select(evaluation).where(evaluation.c.run_id == run_id).order_by(evaluation.c.id)
        with self._db.read() as connection:
            self._row(connection, run_id)
            rows = connection.execute(query).all()
        where = f"{self.shown}, evaluation of run{run_id}"
        found: list[EvaluationRow] = []
        with reading(run_id):
            for row in rows:
                clients = unpack_arrays(row.data, where)
                found.append(EvaluationRow(row.id, run_id, row.round, json.loads(row.summary), clients, row.created))
        return found


def _by_fingerprint(connection: Connection, fingerprint: str) -> Row[Any] | None:
    return connection.execute(select(partition).where(partition.c.fingerprint == fingerprint)).first()


def _name(sealing: Sealing, known: Any, name: str | None) -> None:
    """Name a stored partition that has no name yet."""
    if name is None or name == known.name:
        return
    if known.name is not None:
        raise UsageError(f"--name: this partition is stored already, as part{known.id} ({known.name}); use that name")
    check_free(sealing.connection, partition, "part", name)
    sealing.update(partition, partition.c.id == known.id, {"name": name})


def _partition_row(row: Any) -> PartitionRow:
    return PartitionRow(
        id=row.id,
        name=row.name,
        fingerprint=row.fingerprint,
        data_fingerprint=row.data_fingerprint,
        config=json.loads(row.config),
        summary=json.loads(row.summary),
        sha256=row.sha256,
        created=row.created,
    )
