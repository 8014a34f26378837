"""Taking the runs of another registry over: runs by their UUID, everything else by its content.

Each run comes in one transaction, after its files, so that a merge that is cut short leaves whole runs and goes on
when it is repeated. A run that is here already gets what the other database has beyond it: later rounds, evaluations,
tags. Nothing here is replaced. The other database is only read. A run whose rows are damaged there is not taken, nor
what was made of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.engine import Connection

from fltk.errors import FltkError, UsageError
from fltk.registry.artifacts import Staged
from fltk.registry.attempts import RUNNING
from fltk.registry.checks import check_needs, check_run
from fltk.registry.cleanup import ancestors
from fltk.registry.schema import (
    artifact,
    attempt,
    checkpoint,
    client_vector,
    environment,
    evaluation,
    map_,
    partition,
    round_,
    run,
    scalar,
    tag,
)
from fltk.registry.sealing import Sealing
from fltk.registry.store import Store

NEW, EXTENDED, PRESENT, DIFFERENT, REFUSED = "new", "extended", "present", "different", "refused"

Row = Mapping[str, Any]
Rows = dict[str, list[dict[str, Any]]]
# All that belongs to one run, referenced rows first.
PARTS = (attempt, round_, scalar, client_vector, map_, checkpoint, evaluation, tag)
OF_ROUNDS = (round_, scalar, client_vector, map_)
PROGRESS = ("status", "finished", "message", "rounds_done", "last")


@dataclass(frozen=True)
class Merged:
    """What became of one run of the other database: its numbers there and here, and what a user should know.

    state: new; extended (it was here, and got what was missing); present (nothing was missing); different (it went
    on differently here and there, and stays as it is here); refused (damaged there, and not taken: `here` is None).
    """

    there: int
    here: int | None
    name: str | None
    method: str
    state: str
    notes: tuple[str, ...]


def merge(store: Store, other: Store) -> list[Merged]:
    """Take over all runs of `other` that are not removed; returns one entry for each, in its order.

    Doing it again changes nothing. UsageError for a registry merged into itself, FltkError for one that a newer fltk
    wrote.
    """
    if _place(store) == _place(other):
        raise UsageError(f"{other.shown} is the registry itself: name another one")
    if other._db.newer:
        raise FltkError(f"{other.shown} was written by a newer fltk; update fltk to merge it")
    return _Merge(store, other).all()


def _place(store: Store) -> str:
    location = store._db.location
    return str(location.url if location.path is None else location.path.resolve())


class _Merge:
    """One merge; remembers which number a run and a partition of the other database have here."""

    def __init__(self, store: Store, other: Store) -> None:
        self.store = store
        self.other = other
        self.runs: dict[int, int] = {}
        self.partitions: dict[int, int] = {}
        self.artifacts: dict[str, Row] = {}
        self.notes: list[str] = []

    def all(self) -> list[Merged]:
        return [self._run(number) for number in self._wanted()]

    def _wanted(self) -> list[int]:
        """The other's runs that are kept, and removed ones that a kept one was made of.

        By number: a run is made of one that is there already, so that parents come first. A damaged registry may name
        a later one, whose run is refused.
        """
        with self.other._db.read() as connection:
            rows = connection.execute(select(run.c.id, run.c.parent, run.c.removed).order_by(run.c.id)).all()
        parents = {row.id: row.parent for row in rows}
        wanted: set[int] = set()
        for row in rows:
            if row.removed is None:
                wanted.update([row.id, *ancestors(row.id, parents)])
        return sorted(wanted & set(parents))

    def _run(self, number: int) -> Merged:
        """One run, with the partition and the files that it refers to."""
        self.notes = []
        reason = self._damage(number)
        if reason is not None:
            return Merged(number, None, None, "?", REFUSED, (reason,))

        with self.other._db.read() as connection:
            theirs = dict(connection.execute(select(run).where(run.c.id == number)).mappings().one())
            parts = {table.name: _rows(connection, table, number) for table in PARTS}
        hashes = [row["sha256"] for row in parts["checkpoint"]]
        if theirs["diff_sha256"] is not None:
            hashes.append(theirs["diff_sha256"])
        return self._take(number, theirs, parts, hashes)

    def _damage(self, number: int) -> str | None:
        """Why a run is not taken: what `fltk verify` tells of its rows there. None for a sound one."""
        with self.other._db.read() as connection:
            told = check_run(connection, self.other.shown, number).told
            told += check_needs(connection, self.other.shown, number)
            parent = connection.execute(select(run.c.parent).where(run.c.id == number)).scalar()
        if told:
            more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
            return f"damaged there: {told[0]}{more}"
        if parent is not None and parent not in self.runs:
            return f"made of run{parent}, which is refused or lost there"
        return None

    def _take(self, number: int, theirs: dict[str, Any], parts: Rows, hashes: list[str]) -> Merged:
        """Take a sound run over."""
        with self.other._db.read() as connection:
            query = select(environment).where(environment.c.id == theirs["environment_id"])
            content = dict(connection.execute(query).mappings().one())
        if theirs["partition_id"] is not None:
            theirs["partition_id"] = self._partition(theirs["partition_id"])
        if theirs["parent"] is not None:
            theirs["parent"] = self.runs[theirs["parent"]]

        with ExitStack() as stack:
            staged = self._stage(stack, hashes)
            sealing = stack.enter_context(self.store._write())
            connection = sealing.connection
            known = connection.execute(select(run).where(run.c.uuid == theirs["uuid"])).mappings().first()
            if known is None:
                self._publish(sealing, hashes, staged)
                theirs["environment_id"] = _environment(sealing, content)
                here, state = self._insert(sealing, theirs, parts), NEW
            else:
                here, state = known["id"], self._extend(sealing, dict(known), theirs, parts, staged)
            sealing.flush()
            name = connection.execute(select(run.c.name).where(run.c.id == here)).scalar()
        self.runs[number] = here
        return Merged(number, here, name, theirs["method"], state, tuple(self.notes))

    def _insert(self, sealing: Sealing, theirs: dict[str, Any], parts: Rows) -> int:
        theirs["name"] = self._free_name(sealing.connection, run, theirs["name"], theirs["uuid"])
        here = sealing.insert(run, _unnumbered(theirs))
        _insert_rows(sealing, here, parts)
        return here

    def _extend(
        self,
        sealing: Sealing,
        ours: dict[str, Any],
        theirs: dict[str, Any],
        parts: Rows,
        staged: Mapping[str, Staged],
    ) -> str:
        """Add to a run that is here what only the other database has."""
        here, connection = ours["id"], sealing.connection
        mine = {table.name: _rows(connection, table, here) for table in PARTS}
        if self.store._rows(connection, select(run).where(run.c.id == here))[0].status == RUNNING:
            self.notes.append("is running here; merge again when it has ended")
            return PRESENT
        differs = _first_difference(mine["round"], parts["round"])
        if differs is not None:
            self.notes.append(f"other numbers from round {differs} on; kept as it is here")
            return DIFFERENT
        fresh: Rows = {
            "evaluation": _missing(mine["evaluation"], parts["evaluation"], _evaluation_key),
            "tag": self._missing_tags(mine["tag"], parts["tag"]),
        }
        if _is_ahead(theirs, ours):
            self._forget_attempts(sealing, mine["attempt"], parts["attempt"])
            fresh |= _further(mine, parts)
            self._publish(sealing, [row["sha256"] for row in fresh["checkpoint"]], staged)
        changes = self._changed_columns(connection, ours, theirs)
        if changes:
            sealing.update_run(here, changes)
        _insert_rows(sealing, here, fresh)
        restored = self._publish(sealing, [h for h in staged if _has_row(connection, h)], staged)
        return EXTENDED if changes or restored or any(fresh.values()) else PRESENT

    def _forget_attempts(self, sealing: Sealing, ours: Sequence[Row], theirs: Sequence[Row]) -> None:
        """Attempts that the other database knows further: the last of them has to be the last one here."""
        known = {_attempt_key(row) for row in theirs}
        old = [row["id"] for row in ours if _attempt_key(row) in known]
        sealing.delete(attempt, attempt.c.id.in_(old))

    def _changed_columns(self, connection: Connection, ours: Row, theirs: Row) -> dict[str, Any]:
        """Columns of the run that the other database knows better."""
        changes: dict[str, Any] = {}
        if _is_ahead(theirs, ours):
            changes |= {key: theirs[key] for key in PROGRESS}
        if ours["name"] is None and theirs["name"] is not None:
            changes["name"] = self._free_name(connection, run, theirs["name"], theirs["uuid"])
        if not ours["note"] and theirs["note"]:
            changes["note"] = theirs["note"]
        elif theirs["note"] not in ("", ours["note"]):
            self.notes.append("another note; kept as it is here")
        if ours["removed"] is not None:
            self.notes.append("removed here; `fltk runs restore` brings it back")
        return {key: value for key, value in changes.items() if value != ours[key]}

    def _missing_tags(self, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        values = {row["key"]: row["value"] for row in ours}
        for row in theirs:
            if values.get(row["key"], row["value"]) != row["value"]:
                self.notes.append(f"tag {row['key']} is {values[row['key']]!r} here and {row['value']!r} there; kept")
        return [row for row in theirs if row["key"] not in values]

    def _partition(self, number: int) -> int:
        """The number here of a partition of the other database, which is taken over where it is new."""
        if number in self.partitions:
            return self.partitions[number]
        with self.other._db.read() as connection:
            theirs = dict(connection.execute(select(partition).where(partition.c.id == number)).mappings().one())
        with ExitStack() as stack:
            staged = self._stage(stack, [theirs["sha256"]])
            sealing = stack.enter_context(self.store._write())
            connection = sealing.connection
            mark = partition.c.fingerprint == theirs["fingerprint"]
            known = connection.execute(select(partition).where(mark)).first()
            if known is not None:
                self._publish(sealing, [h for h in staged if h == known.sha256], staged)
                here = int(known.id)
                if known.name is None and theirs["name"] is not None:
                    name = self._free_name(connection, partition, theirs["name"], theirs["fingerprint"])
                    sealing.update(partition, partition.c.id == here, {"name": name})
            else:
                self._publish(sealing, [theirs["sha256"]], staged)
                theirs["name"] = self._free_name(connection, partition, theirs["name"], theirs["fingerprint"])
                here = sealing.insert(partition, _unnumbered(theirs))
        self.partitions[number] = here
        return here

    def _free_name(self, connection: Connection, table: Table, name: str | None, mark: str) -> str | None:
        """The name, or, where another row has it, the name with the start of its own mark."""
        if name is None or connection.execute(select(table.c.id).where(table.c.name == name)).first() is None:
            return name
        own = f"{name}-{mark[:8]}"
        what = "name" if table is run else "partition name"
        self.notes.append(f"the {what} {name!r} is taken here; it is called {own}")
        return own

    def _stage(self, stack: ExitStack, hashes: Sequence[str]) -> dict[str, Staged]:
        """Copies of the files that are not here yet; a note tells which of them the other database has lost."""
        with self.other._db.read() as connection:
            for row in connection.execute(select(artifact).where(artifact.c.sha256.in_(hashes))).mappings():
                self.artifacts[row["sha256"]] = dict(row)
        with self.store._db.read() as connection:
            here = set(connection.execute(select(artifact.c.sha256).where(artifact.c.sha256.in_(hashes))).scalars())
        found: dict[str, Staged] = {}
        for sha256 in dict.fromkeys(hashes):
            if sha256 in here and self.store._files.path(sha256).is_file():
                continue
            try:
                source = self.other._files.verified(sha256)
            except FltkError as error:
                self.notes.append(f"its {error}")
                continue
            found[sha256] = stack.enter_context(self._copy(source))
        return found

    def _copy(self, source: Path) -> AbstractContextManager[Staged]:
        return self.store._stage(lambda path: copyfile(source, path))

    def _publish(self, sealing: Sealing, hashes: Sequence[str], staged: Mapping[str, Staged]) -> list[str]:
        """Rows of these artifacts, and their files where they were missing; returns the hashes of those files."""
        done = []
        for sha256 in dict.fromkeys(hashes):
            if not _has_row(sealing.connection, sha256):
                sealing.insert(artifact, _unnumbered(self.artifacts[sha256]))
            if self.store._files.path(sha256).is_file():
                continue
            if sha256 in staged:
                staged[sha256].publish()
                done.append(sha256)
            elif self.other._files.path(sha256).is_file():  # deleted here since it was looked for
                with suppress(FltkError), self._copy(self.other._files.verified(sha256)) as copy:
                    copy.publish()
        return done


def _rows(connection: Connection, table: Table, number: int) -> list[dict[str, Any]]:
    """All rows of a table that belong to a run, oldest first."""
    query = select(table).where(table.c.run_id == number).order_by(*table.primary_key)
    return [dict(row) for row in connection.execute(query).mappings()]


def _insert_rows(sealing: Sealing, number: int, rows: Rows) -> None:
    """The rows by the name of their table, now of run `number`, with ids of their own where the database makes them."""
    sealing.insert_rounds(number, rows)
    for table in (attempt, checkpoint, evaluation, tag):
        for row in rows.get(table.name, []):
            sealing.insert(table, {**_unnumbered(row), "run_id": number})


def _unnumbered(row: Row) -> dict[str, Any]:
    """A row without what the other registry made of its number."""
    return {key: value for key, value in row.items() if key not in ("id", "contents", "seal")}


def _environment(sealing: Sealing, content: Row) -> int:
    known = select(environment.c.id).where(environment.c.sha256 == content["sha256"])
    found = sealing.connection.execute(known).scalar()
    return sealing.insert(environment, _unnumbered(content)) if found is None else int(found)


def _has_row(connection: Connection, sha256: str) -> bool:
    return connection.execute(select(artifact.c.sha256).where(artifact.c.sha256 == sha256)).first() is not None


def _first_difference(ours: Sequence[Row], theirs: Sequence[Row]) -> int | None:
    """The first round that both have, with other weights."""
    digests = {row["round"]: row["digest"] for row in ours}
    return min(
        (row["round"] for row in theirs if digests.get(row["round"], row["digest"]) != row["digest"]), default=None
    )


def _missing(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], key: Callable[[Row], object]
) -> list[dict[str, Any]]:
    known = {key(row) for row in ours}
    return [row for row in theirs if key(row) not in known]


def _attempt_key(row: Row) -> object:
    return row["host"], row["pid"], row["started"]


def _evaluation_key(row: Row) -> object:
    content = hashlib.sha256(row["summary"].encode() + row["data"]).hexdigest()
    return row["round"], row["created"], content


def _is_ahead(theirs: Row, ours: Row) -> bool:
    """Whether the other database has more of the run: more rounds, or its end."""
    if theirs["rounds_done"] != ours["rounds_done"]:
        return bool(theirs["rounds_done"] > ours["rounds_done"])
    return theirs["finished"] is not None and (ours["finished"] or 0.0) < theirs["finished"]


def _further(mine: Rows, parts: Rows) -> Rows:
    """Attempts, rounds and checkpoints of a run that the other database has and this one has not."""
    rounds = {row["round"] for row in mine["round"]}
    last = max((row["round"] for row in mine["checkpoint"]), default=-1)

    fresh: Rows = {"attempt": parts["attempt"]}
    for table in OF_ROUNDS:
        fresh[table.name] = [row for row in parts[table.name] if row["round"] not in rounds]
    fresh["checkpoint"] = [row for row in parts["checkpoint"] if row["round"] > last]
    return fresh
