"""Reading many runs at once: one query for a thousand runs where a loop would make a thousand."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Select, and_, func, select

from fltk.errors import DamagedRun, FltkError
from fltk.registry.base import find_id
from fltk.registry.blobs import DAMAGE, unpack_arrays, unpack_map, unpack_scalar, unpack_vector
from fltk.registry.reading import json_object
from fltk.registry.rows import DAMAGED, EvaluationRow, Float32, RunRow, StoredMap
from fltk.registry.runs import Runs, meant_by
from fltk.registry.schema import client_vector, environment, evaluation, map_, run, scalar

T = TypeVar("T")
CHUNK = 1000  # runs in one statement: databases limit the number of its parameters


class Bulk(Runs):
    """The part of the store that reads many runs. Iterators go by run number, round and key."""

    def find_runs(self, refs: Sequence[str | int]) -> list[RunRow]:
        """What `find_run` finds, for each reference."""
        with self._db.read() as connection:
            ids = [find_id(connection, run, "run", "uuid", ref, meant_by(ref))[0] for ref in refs]
            if None not in ids:
                rows = self._rows(connection, select(run).where(run.c.id.in_(ids)))
                found = {row.id: row for row in rows if row.status != DAMAGED}
                if len(found) == len(set(ids)):
                    return [found[number] for number in ids if number is not None]
        return [self.find_run(ref) for ref in refs]  # says what is wrong with the first of them

    def find_readable(self, refs: Sequence[str | int]) -> tuple[list[RunRow], list[DamagedRun]]:
        """The runs that are meant, each once, and the damaged ones among them, which are told and left out.

        DamagedRun where no other run is among them.
        """
        found: dict[int, RunRow] = {}
        damaged: dict[int, DamagedRun] = {}
        for ref in refs:
            try:
                row = self.find_run(ref)
            except DamagedRun as error:
                damaged[error.run] = error
            else:
                found[row.id] = row

        errors = list(damaged.values())
        if errors and not found:
            raise errors[0]
        for each in errors:
            self.leave_out(each)
        return list(found.values()), errors

    def last_vectors(self, run_ids: Iterable[int], key: str) -> dict[int, Float32]:
        """Per run: the per-client values (N,) of the last round that has them. Runs without them are absent."""
        table, newer = client_vector, client_vector.alias()
        last = (
            select(newer.c.round)
            .where(newer.c.run_id == run.c.id, newer.c.key == key)
            .order_by(newer.c.round.desc())
            .limit(1)
            .scalar_subquery()
        )
        query = select(table.c.run_id, table.c.data).join_from(
            run, table, and_(table.c.run_id == run.c.id, table.c.round == last, table.c.key == key)
        )
        rows = self._chunks(query, run.c.id, run_ids)
        return dict(self._readable(rows, lambda row: (row.run_id, unpack_vector(row.data))))

    def last_evaluations(self, run_ids: Iterable[int], keys: Collection[str] = ()) -> dict[int, EvaluationRow]:
        """Per run: its last evaluation, with only these client measures unpacked. Runs without one are absent."""
        newest = select(func.max(evaluation.c.id)).group_by(evaluation.c.run_id)
        query = select(evaluation).where(evaluation.c.id.in_(newest))
        rows = self._chunks(query, evaluation.c.run_id, run_ids)
        return dict(self._readable(rows, lambda row: (row.run_id, self._evaluation(row, keys))))

    def environments(self, run_ids: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Per run: the software and hardware that it began on."""
        columns = run.c.id.label("run_id"), environment.c.content
        query = select(*columns).join(environment, run.c.environment_id == environment.c.id)
        rows = self._chunks(query, run.c.id, run_ids)
        return dict(self._readable(rows, lambda row: (row.run_id, json_object(json.loads(row.content)))))

    def each_scalar(self, run_ids: Iterable[int]) -> Iterator[tuple[int, int, str, float]]:
        """(run, round, key, value) of all scalars."""
        query = select(scalar).order_by(scalar.c.run_id, scalar.c.round, scalar.c.key)
        rows = self._chunks(query, scalar.c.run_id, run_ids)
        yield from self._readable(
            rows, lambda row: (row.run_id, row.round, row.key, unpack_scalar(row.value, row.kind))
        )

    def each_vector(self, run_ids: Iterable[int]) -> Iterator[tuple[int, int, str, Float32]]:
        """(run, round, key, values (N,)) of all per-client measures."""
        table = client_vector
        query = select(table).order_by(table.c.run_id, table.c.round, table.c.key)
        rows = self._chunks(query, table.c.run_id, run_ids)
        yield from self._readable(rows, lambda row: (row.run_id, row.round, row.key, unpack_vector(row.data)))

    def each_map(self, run_ids: Iterable[int]) -> Iterator[tuple[int, StoredMap]]:
        """(run, map) of all collaboration maps."""
        query = select(map_).order_by(map_.c.run_id, map_.c.round)
        rows = self._chunks(query, map_.c.run_id, run_ids)
        yield from self._readable(rows, lambda row: (row.run_id, unpack_map(row, self.shown)))

    def each_evaluation(self, run_ids: Iterable[int], keys: Collection[str] | None = None) -> Iterator[EvaluationRow]:
        """All evaluations; `keys` limits the client measures that are unpacked (None: all)."""
        query = select(evaluation).order_by(evaluation.c.run_id, evaluation.c.id)
        rows = self._chunks(query, evaluation.c.run_id, run_ids)
        yield from self._readable(rows, lambda row: self._evaluation(row, keys))

    def _evaluation(self, row: Any, keys: Collection[str] | None) -> EvaluationRow:
        where = f"{self.shown}, evaluation of run{row.run_id}"
        clients = {} if keys is not None and not keys else unpack_arrays(row.data, where, keys)
        return EvaluationRow(row.id, row.run_id, row.round, json.loads(row.summary), clients, row.created)

    def _readable(self, rows: Iterable[Any], make: Callable[[Any], T]) -> Iterator[T]:
        """What is made of each row; one that is damaged is left out, and its run told."""
        for row in rows:
            try:
                made = make(row)
            except FltkError as error:
                self._tell_damaged(row.run_id, str(error))
            except DAMAGE as error:
                self._tell_damaged(row.run_id, f"{type(error).__name__}: {error}")
            else:
                yield made

    def _chunks(self, query: Select[Any], column: Any, run_ids: Iterable[int]) -> Iterator[Any]:
        """The rows of a query about these runs, a thousand runs at a time; long results are not held in memory."""
        ids = sorted(set(run_ids))
        for start in range(0, len(ids), CHUNK):
            part = query.where(column.in_(ids[start : start + CHUNK]))
            with self._db.read() as connection:
                yield from connection.execution_options(yield_per=1000).execute(part)
