"""Checkpoints: weights in the artifact folder, rows that point at them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, and_, select

from fltk.errors import FltkError
from fltk.registry.artifacts import read_tensors, write_tensors
from fltk.registry.blobs import to_json
from fltk.registry.rows import TRAINED, CheckpointRow
from fltk.registry.runs import Runs
from fltk.registry.schema import artifact, checkpoint, partition, run
from fltk.registry.sealing import Sealing

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoints(Runs):
    """The part of the store that knows checkpoints."""

    def add_checkpoint(
        self, run_id: int, round: int, tensors: Mapping[str, Tensor], meta: Mapping[str, str], keep: int
    ) -> str:
        """Store a checkpoint, replacing one of the same round, then drop all but the last `keep`.

        `keep` 0 drops none. Returns the SHA-256 of its file. A process killed at any point leaves at worst a
        file without a row.
        """
        if keep < 0:
            raise ValueError("keep must be at least 0")
        with self._stage(write_tensors(tensors, meta)) as staged, self._write() as sealing:
            connection = sealing.connection
            self._row(connection, run_id)
            self._publish(sealing, staged, "checkpoint")
            chosen = and_(checkpoint.c.run_id == run_id, checkpoint.c.round == int(round))
            dropped = set(connection.execute(select(checkpoint.c.sha256).where(chosen)).scalars())
            sealing.delete(checkpoint, chosen)
            row = {"run_id": run_id, "round": int(round), "sha256": staged.sha256, "meta": to_json(meta)}
            sealing.insert(checkpoint, {**row, "created": self._clock()})
            dropped |= _drop_old(sealing, run_id, keep)
            _forget(sealing, dropped)
        self._remove_unreferenced(dropped)
        return staged.sha256

    def checkpoints(self, run_id: int) -> list[CheckpointRow]:
        """The checkpoints that a run still has, oldest first."""
        with self._db.read() as connection:
            self._row(connection, run_id)
            rows = connection.execute(_of_run(run_id)).all()
        return [_checkpoint_row(row) for row in reversed(rows)]

    def latest_checkpoint(self, run_id: int) -> tuple[int, dict[str, Tensor], dict[str, str]] | None:
        """(round, tensors, meta) of the checkpoint written last; None where there is none.

        Raises FltkError naming the file when it is missing or damaged.
        """
        with self._db.read() as connection:
            self._row(connection, run_id)
            row = connection.execute(_of_run(run_id).limit(1)).first()
        return None if row is None else self._load(_checkpoint_row(row))

    def load_checkpoint(self, run_id: int, round: int) -> tuple[int, dict[str, Tensor], dict[str, str]]:
        """(round, tensors, meta) of the checkpoint after `round`; FltkError when missing or damaged."""
        kept = self.checkpoints(run_id)
        for row in kept:
            if row.round == round:
                return self._load(row)
        rounds = ", ".join(str(row.round) for row in kept) or "none"
        raise FltkError(f"run{run_id} has no checkpoint of round {round}; kept: {rounds}")

    def _load(self, row: CheckpointRow) -> tuple[int, dict[str, Tensor], dict[str, str]]:
        try:
            return row.round, read_tensors(self._files.verified(row.sha256)), row.meta
        except FltkError as error:
            raise type(error)(f"{error}{self._way_back(row)}") from error

    def _way_back(self, lost: CheckpointRow) -> str:
        """How to play a run again to a checkpoint whose file is lost, behind the last one before it that is there."""
        with self._db.read() as connection:
            if self._row(connection, lost.run).kind not in TRAINED:
                return ""
        there = [row.round for row in self.checkpoints(lost.run) if self._files.path(row.sha256).is_file()]
        start = max((round for round in there if round < lost.round), default=0)
        return f"; or retrain it: `fltk resume run{lost.run} --from-round {start}`"

    def _remove_unreferenced(self, hashes: set[str]) -> None:
        """Delete files without a row, under the write lock: another process may be storing the same again."""
        if not hashes:
            return
        with self._db.write() as connection:
            used = set(connection.execute(select(artifact.c.sha256).where(artifact.c.sha256.in_(hashes))).scalars())
            for sha256 in sorted(hashes - used):
                self._files.remove(sha256)


def _of_run(run_id: int) -> Select[Any]:
    """Newest first, by the order of writing: a run resumed from an early round rewrites later ones."""
    joined = select(checkpoint, artifact.c.size).join(artifact, artifact.c.sha256 == checkpoint.c.sha256)
    return joined.where(checkpoint.c.run_id == run_id).order_by(checkpoint.c.id.desc())


def _checkpoint_row(row: Any) -> CheckpointRow:
    return CheckpointRow(row.run_id, row.round, row.sha256, row.size, json.loads(row.meta), row.created)


def _drop_old(sealing: Sealing, run_id: int, keep: int) -> set[str]:
    """Delete the rows of all but the last `keep` checkpoints; returns the hashes they named."""
    rows = sealing.connection.execute(_of_run(run_id)).all()
    old = rows[keep:] if keep else []
    if old:
        sealing.delete(checkpoint, checkpoint.c.id.in_([row.id for row in old]))
    return {row.sha256 for row in old}


def _forget(sealing: Sealing, hashes: set[str]) -> None:
    """Delete the artifact rows that nothing refers to any more."""
    for sha256 in sorted(hashes):
        columns = (checkpoint.c.sha256, partition.c.sha256, run.c.diff_sha256)
        if not any(sealing.connection.execute(select(c).where(c == sha256).limit(1)).first() for c in columns):
            sealing.delete(artifact, artifact.c.sha256 == sha256)
