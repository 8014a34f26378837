"""Runs: beginning, attempts and their end, look-up and filters."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from fltk.errors import DamagedRun, FltkError, UsageError
from fltk.registry import where as conditions
from fltk.registry.attempts import (
    DONE,
    ENDINGS,
    RUNNING,
    STALE,
    STATUSES,
    Claimed,
    attempts_of,
    complete_before,
    insert_attempt,
    is_other,
    refuse_other,
    status_of,
)
from fltk.registry.base import Base, check_free, check_name, check_text, find_id
from fltk.registry.blobs import DAMAGE, to_json
from fltk.registry.method_code import KEY as METHOD_CODE
from fltk.registry.processes import current
from fltk.registry.reading import attempt_row, damaged_row, json_object, reading, run_row
from fltk.registry.rows import DAMAGED, MEASURED, TRAINED, AttemptRow, RunRow
from fltk.registry.schema import attempt, environment, run, tag
from fltk.registry.sealing import Sealing

_LOG = logging.getLogger("fltk.registry")


class Runs(Base):
    """The part of the store that knows runs."""

    def begin_run(
        self,
        config: Mapping[str, Any],
        config_hash: str,
        *,
        name: str | None = None,
        origin: Mapping[str, str] | None = None,
        parent: int | None = None,
        kind: str = "train",
        partition_id: int | None = None,
        data_fingerprint: str,
        environment: Mapping[str, Any],
        git: Mapping[str, Any],
        seed: int,
        claim: bool = False,
    ) -> int:
        """Make a run and return its number. `git["diff"]` (bytes), where present, becomes an artifact file.

        UsageError for a name that is taken. claim: `Claimed` where the configuration has a run that is done, or that
        another process works on, so that of several processes one makes the run.
        """
        diff = git.get("diff")
        values = _run_values(config, git) | {
            "name": None if name is None else check_name(name),
            "kind": kind,
            "parent": parent,
            "config_hash": config_hash,
            "origin": to_json(origin or {}),
            "partition_id": partition_id,
            "data_fingerprint": data_fingerprint,
            "seed": int(seed),
            "created": self._clock(),
        }
        with ExitStack() as stack:
            # The diff is staged first: no file is written and flushed while the database is locked.
            staged = stack.enter_context(self._stage_bytes(diff)) if diff else None
            sealing = stack.enter_context(self._write())
            if claim:
                self._refuse_claimed(sealing.connection, config_hash, git.get(METHOD_CODE))
            if staged is not None:
                self._publish(sealing, staged, "diff")
                values["diff_sha256"] = staged.sha256
            values["environment_id"] = self._environment_id(sealing, environment)
            return _insert_run(sealing, values)

    def start_attempt(self, run_id: int, changes: Iterable[tuple[str, str, str]] = ()) -> int:
        """This process takes the run up, for the first time or to resume it; returns the attempt's id.

        `changes` (name, then, now) is what differs from the run's beginning and was allowed. Raises FltkError
        when another live process works on the run.
        """
        process, now = current(), self._clock()
        with self._write() as sealing:
            connection = sealing.connection
            row = self._row(connection, run_id)
            if row.removed is not None:
                raise removed_error(f"run{run_id}", run_id)
            last = connection.execute(attempts_of(run_id).order_by(attempt.c.id.desc()).limit(1)).first()
            if last is not None and row.status == RUNNING and is_other(last, process, now):
                busy = f"run{run_id} is being worked on by process {last.pid} on {last.host}; wait for it"
                raise Claimed(busy, run_id)
            for lost in connection.execute(_open_attempts(run_id)).mappings().all():
                sealing.update_row(attempt, lost, {"ended": lost["heartbeat"], "status": STALE})
            sealing.update_run(run_id, {"status": RUNNING, "finished": None, "message": None})
            return insert_attempt(sealing, run_id, process, now, [list(change) for change in changes])

    def heartbeat(self, run_id: int) -> None:
        """Say that this process still works on the run; `record_round` does it too.

        FltkError when another process has taken the run up since: two may not write the same rounds.
        """
        with self._write() as sealing:
            self._touch(sealing, run_id)

    def finish(self, run_id: int, status: str, message: str | None = None) -> bool:
        """End the run's attempt as done, interrupted or failed; `message` says why. Returns whether the run is done.

        A run that was done before, and lost nothing to this attempt, stays so. FltkError when the attempt is another
        process's.
        """
        if status not in ENDINGS:
            raise ValueError(f"a run ends as one of {ENDINGS}, not {status!r}")
        now = self._clock()
        with self._write() as sealing:
            connection = sealing.connection
            row = self._row(connection, run_id)
            refuse_other(connection, run_id, current())
            ended = {"status": status, "ended": now, "heartbeat": now}
            for active in connection.execute(_open_attempts(run_id)).mappings().all():
                sealing.update_row(attempt, active, ended)
            before = None if status == DONE else complete_before(connection, row)
            if before is not None:
                status, now, message = DONE, before, None
            # A reason that cannot be stored as it is must not keep the end of the run from being recorded.
            text = None if message is None else message.encode("utf-8", "replace").decode().replace("\0", " ")
            sealing.update_run(run_id, {"status": status, "finished": now, "message": text})
        return status == DONE

    def find_run(self, ref: str | int, kind: str | None = None) -> RunRow:
        """The run that `run42`, `42`, `latest`, a name or the start of a UUID means.

        With a kind (train, join) `latest` is the latest run of that kind, and a run of another one is refused; an
        attacked run passes for a trained one, so that `latest` is no clean twin that was trained beside it.
        Nor is it ever a measurement of `fltk bench`. Raises UsageError when there is none (with near names, or how
        many there are) or several.
        """
        with self._db.read() as connection:
            found, several = find_id(connection, run, "run", "uuid", ref, meant_by(ref))
            if kind is not None and ref == "latest":
                known, kinds = found is not None, TRAINED if kind in TRAINED else (kind,)
                newest = select(func.max(run.c.id)).where(run.c.kind.in_(kinds), run.c.removed.is_(None))
                found = connection.execute(newest).scalar()
                if known and found is None:
                    raise UsageError(f"{self.shown} has no {kind} run yet")
            if found is not None:
                row = self._sound_row(connection, found)
                if kind is not None and row.kind not in (TRAINED if kind in TRAINED else (kind,)):
                    raise _other_kind(row, kind)
                return row
            if several:
                raise self._ambiguous(connection, str(ref), several)
            removed, _ = find_id(connection, run, "run", "uuid", ref, run.c.removed.is_not(None))
            raise self._unknown_run(connection, str(ref)) if removed is None else removed_error(str(ref), removed)

    def runs(
        self,
        *,
        method: str | None = None,
        dataset: str | None = None,
        status: str | None = None,
        tag: str | None = None,
        config_hash: str | None = None,
        where: Iterable[str] = (),
        removed: bool = False,
    ) -> list[RunRow]:
        """All runs that fulfil every filter, oldest first.

        `tag` is KEY or KEY=VALUE; `where` holds conditions on settings such as "alpha<0.5" or "train.lr=0.1";
        `config_hash` picks the runs of one configuration; `removed` lists removed runs in place of the others.
        """
        if status is not None and status not in STATUSES:
            raise UsageError(f"--status: unknown status {status!r}; known: {', '.join(STATUSES)}")
        wanted = [conditions.parse(text) for text in where]
        query = select(run).where(run.c.removed.is_not(None) if removed else run.c.removed.is_(None)).order_by(run.c.id)
        for column, value in ((run.c.method, method), (run.c.dataset, dataset), (run.c.config_hash, config_hash)):
            if value is not None:
                query = query.where(column == value)
        if tag is not None:
            query = query.where(run.c.id.in_(_tagged(tag)))
        if status is not None:  # a running one may turn out to be stale
            query = query.where(run.c.status == (status if status in ENDINGS else RUNNING))

        with self._db.read() as connection:
            rows = self._sound(self._rows(connection, query))
            open_questions = conditions.unknown_in(wanted, (row.config for row in rows))
            if open_questions:
                known = self._rows(connection, select(run))
                conditions.check_known(open_questions, [row.config for row in known])
        return _fulfilling(rows, status, wanted)

    def attempts(self, run_id: int) -> list[AttemptRow]:
        """The processes that worked on a run, first to last."""
        with self._db.read() as connection:
            rows = connection.execute(attempts_of(run_id).order_by(attempt.c.id)).all()
        now = self._clock()
        with reading(run_id):
            return [attempt_row(row, now) for row in rows]

    def environment(self, run_id: int) -> dict[str, Any]:
        """The software and hardware that the run began on."""
        query = select(environment.c.content).join(run, run.c.environment_id == environment.c.id)
        with self._db.read() as connection:
            content = connection.execute(query.where(run.c.id == run_id)).scalar()
            if content is None:
                raise self._unknown_run(connection, f"run{run_id}")
        with reading(run_id):
            return json_object(json.loads(content))

    def git_diff(self, run_id: int) -> bytes | None:
        """What the working tree had beyond its commit when the run began; None where nothing was stored."""
        with self._db.read() as connection:
            row = self._row(connection, run_id)
        return None if row.diff_sha256 is None else self._files.verified(row.diff_sha256).read_bytes()

    def _refuse_claimed(self, connection: Connection, config_hash: str, code: str | None) -> None:
        """`Claimed` where a run of this configuration counts, inside the caller's write transaction.

        code: the hash of the method's source in the run that is to begin. A run that was finished with another source
        does not count: it is run again only where that was asked for.
        """
        same = select(run).where(run.c.config_hash == config_hash, run.c.kind.in_(TRAINED), run.c.removed.is_(None))
        for row in self._rows(connection, same):
            finished = row.status == DONE and row.git.get(METHOD_CODE) in (None, code)
            if finished or row.status == RUNNING:
                raise Claimed(f"{row.label} has this configuration and is {row.status}", row.id)

    def _touch(self, sealing: Sealing, run_id: int) -> None:
        """The heartbeat, inside a transaction; a run that was never started gets its first attempt."""
        now, process = self._clock(), current()
        last = refuse_other(sealing.connection, run_id, process)
        if last is None or last["ended"] is not None:
            insert_attempt(sealing, run_id, process, now)
        else:
            sealing.update_row(attempt, last, {"heartbeat": now})

    def _row(self, connection: Connection, run_id: int) -> Row[Any]:
        row = connection.execute(select(run).where(run.c.id == run_id)).first()
        if row is None:
            raise self._unknown_run(connection, f"run{run_id}")
        return row

    def _ambiguous(self, connection: Connection, ref: str, several: list[int]) -> UsageError:
        names = [row.label for row in self._rows(connection, select(run).where(run.c.id.in_(several[:5])))]
        more = f" and {len(several) - 5} more" if len(several) > 5 else ""
        return UsageError(f"run {ref!r} is ambiguous: {', '.join(names)}{more}")

    def _unknown_run(self, connection: Connection, ref: str) -> UsageError:
        kept = meant_by(ref)
        count, highest = connection.execute(select(func.count(), func.max(run.c.id)).where(kept)).one()
        if not count:
            return UsageError(f"no run {ref!r}: {self.shown} has no runs yet; `fltk train` makes one")
        names = connection.execute(select(run.c.name).where(kept, run.c.name.is_not(None))).scalars().all()
        close = get_close_matches(ref, [str(name) for name in names], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {count}, the latest is run{highest}"
        return UsageError(f"no run {ref!r} in {self.shown}; {hint}")

    def _rows(self, connection: Connection, query: Select[Any]) -> list[RunRow]:
        rows = connection.execute(query).all()
        tags: dict[int, dict[str, str]] = {}
        labels = select(tag).order_by(tag.c.key)
        for row in connection.execute(labels if len(rows) != 1 else labels.where(tag.c.run_id == rows[0].id)):
            tags.setdefault(row.run_id, {})[row.key] = row.value
        running = select(run.c.id).where(run.c.status == RUNNING)  # only their status depends on a process
        newest = select(func.max(attempt.c.id)).where(attempt.c.run_id.in_(running)).group_by(attempt.c.run_id)
        workers = {row.run_id: row for row in connection.execute(select(attempt).where(attempt.c.id.in_(newest)))}
        now = self._clock()
        found: list[RunRow] = []
        for row in rows:
            try:
                status = status_of(row.status, workers.get(row.id), row.created, now)
                found.append(run_row(row, tags.get(row.id, {}), status))
            except DAMAGE as error:
                found.append(damaged_row(row, error))
        return found

    def _sound_row(self, connection: Connection, run_id: int) -> RunRow:
        """One run that exists; DamagedRun when it cannot be read."""
        (row,) = self._rows(connection, select(run).where(run.c.id == run_id))
        if row.status == DAMAGED:
            raise DamagedRun(row.id, str(row.message))
        return row

    def _sound(self, rows: Iterable[RunRow]) -> list[RunRow]:
        """Without the runs that cannot be read, each of which is told."""
        kept: list[RunRow] = []
        for row in rows:
            if row.status == DAMAGED:
                self._tell_damaged(row.id, str(row.message))
            else:
                kept.append(row)
        return kept

    def leave_out(self, damaged: DamagedRun) -> None:
        """Warn, once for each run, that a damaged one is left out of what many runs are read for."""
        if damaged.run not in self._told:
            self._told.add(damaged.run)
            _LOG.warning("%s; left out", damaged)

    def _tell_damaged(self, run_id: int, reason: str) -> None:
        self.leave_out(DamagedRun(run_id, reason))

    def _environment_id(self, sealing: Sealing, content: Mapping[str, Any]) -> int:
        """The row of this environment, made when it is new."""
        text = to_json(content)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        known = select(environment.c.id).where(environment.c.sha256 == sha256)
        found = sealing.connection.execute(known).scalar()
        if found is not None:
            return int(found)
        return sealing.insert(environment, {"sha256": sha256, "content": text, "created": self._clock()})


def meant_by(ref: str | int) -> ColumnElement[bool]:
    """The runs among which a reference is looked up: those that are there, for `latest` without measurements."""
    kept = run.c.removed.is_(None)
    return kept & (run.c.kind != MEASURED) if str(ref).strip() == "latest" else kept


def removed_error(ref: str, run_id: int) -> UsageError:
    """What is said of a run that was removed."""
    return UsageError(f"run {ref!r} was removed; `fltk runs restore run{run_id}` brings it back")


def _other_kind(row: RunRow, kind: str) -> UsageError:
    """Names the run that is meant instead."""
    if kind == "train" and row.parent is not None:
        return UsageError(f"{row.label} is a {row.kind} run of run{row.parent}: name run{row.parent}")
    return UsageError(f"{row.label} is a {row.kind} run and no {kind} run; fltk runs lists them")


def _run_values(config: Mapping[str, Any], git: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that follow from the configuration, and those every run starts with."""
    return {
        "uuid": uuid.uuid4().hex,
        "method": str(config.get("method", "")),
        "dataset": str(config.get("partition", {}).get("dataset", "")),
        "config": to_json(config),
        "git": to_json({key: value for key, value in git.items() if key != "diff"}),
        "status": RUNNING,
        "note": "",
        "rounds_done": 0,
        "last": "{}",
    }


def _open_attempts(run_id: int) -> Select[Any]:
    """The attempts whose end is not recorded."""
    return attempts_of(run_id).where(attempt.c.ended.is_(None))


def _insert_run(sealing: Sealing, values: Mapping[str, Any]) -> int:
    if values["name"] is not None:
        check_free(sealing.connection, run, "run", values["name"])
    try:
        return sealing.insert(run, values)
    except IntegrityError as error:
        parts = f"parent {values['parent']}, partition {values['partition_id']}"
        raise FltkError(f"the run cannot be recorded: {parts} must exist, and its name be free") from error


def _tagged(text: str) -> Select[Any]:
    key, equals, value = text.partition("=")
    query = select(tag.c.run_id).where(tag.c.key == tag_key(key))
    return query.where(tag.c.value == value) if equals else query


def tag_key(key: str) -> str:
    """The name of a tag as stored; UsageError for one that cannot be looked for."""
    text = check_text(key.strip(), "--tag")
    if not text or "=" in text or len(text) > 120:
        raise UsageError(f"--tag takes KEY or KEY=VALUE with a key of 1 to 120 characters, not {key[:40]!r}")
    return text


def _fulfilling(rows: Iterable[RunRow], status: str | None, wanted: Sequence[conditions.Condition]) -> list[RunRow]:
    """The runs of a status, of any for None, whose settings fulfil all conditions."""
    found = []
    for row in rows:
        of_status = status is None or row.status == status
        if of_status and all(condition.holds(row.config) for condition in wanted):
            found.append(row)
    return found
