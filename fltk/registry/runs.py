"""Runs: beginning, attempts and their end, look-up, filters, tags and notes."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from fltk.errors import FltkError, UsageError
from fltk.registry import where as conditions
from fltk.registry.base import Base, check_free, check_name, check_text, find_id, new_id
from fltk.registry.blobs import to_json
from fltk.registry.processes import STALE_SECONDS, Process, current, is_gone
from fltk.registry.rows import AttemptRow, RunRow
from fltk.registry.schema import attempt, environment, run, tag

RUNNING = "running"
ENDINGS = ("done", "interrupted", "failed")
STALE = "stale"
STATUSES = (RUNNING, *ENDINGS, STALE)


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
    ) -> int:
        """Make a run and return its number. `git["diff"]` (bytes), where present, becomes an artifact file.

        UsageError for a name that is taken.
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
            connection = stack.enter_context(self._db.write())
            if staged is not None:
                self._publish(connection, staged, "diff")
                values["diff_sha256"] = staged.sha256
            values["environment_id"] = self._environment_id(connection, environment)
            return _insert_run(connection, values)

    def start_attempt(self, run_id: int) -> int:
        """This process takes the run up, for the first time or to resume it; returns the attempt's id.

        Raises FltkError when another live process works on the run.
        """
        process, now = current(), self._clock()
        with self._db.write() as connection:
            row = self._row(connection, run_id)
            last = connection.execute(_attempts(run_id).order_by(attempt.c.id.desc()).limit(1)).first()
            if last is not None and row.status == RUNNING and _is_other(last, process, now):
                raise FltkError(f"run{run_id} is being worked on by process {last.pid} on {last.host}; wait for it")
            connection.execute(
                update(attempt)
                .where(attempt.c.run_id == run_id, attempt.c.ended.is_(None))
                .values(ended=attempt.c.heartbeat, status=STALE)
            )
            connection.execute(
                update(run).where(run.c.id == run_id).values(status=RUNNING, finished=None, message=None)
            )
            return _insert_attempt(connection, run_id, process, now)

    def heartbeat(self, run_id: int) -> None:
        """Say that this process still works on the run; `record_round` does it too."""
        with self._db.write() as connection:
            self._touch(connection, run_id)

    def finish(self, run_id: int, status: str, message: str | None = None) -> None:
        """End the run's attempt as done, interrupted or failed; `message` says why."""
        if status not in ENDINGS:
            raise ValueError(f"a run ends as one of {ENDINGS}, not {status!r}")
        now = self._clock()
        with self._db.write() as connection:
            self._row(connection, run_id)
            ended = {"status": status, "ended": now, "heartbeat": now}
            connection.execute(
                update(attempt).where(attempt.c.run_id == run_id, attempt.c.ended.is_(None)).values(ended)
            )
            # A reason that cannot be stored as it is must not keep the end of the run from being recorded.
            text = None if message is None else message.encode("utf-8", "replace").decode().replace("\0", " ")
            connection.execute(update(run).where(run.c.id == run_id).values(status=status, finished=now, message=text))

    def find_run(self, ref: str | int) -> RunRow:
        """The run that `run42`, `42`, `latest`, a name or the start of a UUID means.

        Raises UsageError when there is none (with near names, or how many there are) or several.
        """
        with self._db.read() as connection:
            found, several = find_id(connection, run, "run", "uuid", ref)
            if found is not None:
                return self._rows(connection, select(run).where(run.c.id == found))[0]
            if several:
                names = [row.label for row in self._rows(connection, select(run).where(run.c.id.in_(several[:5])))]
                more = f" and {len(several) - 5} more" if len(several) > 5 else ""
                raise UsageError(f"run {str(ref)!r} is ambiguous: {', '.join(names)}{more}")
            raise self._unknown_run(connection, str(ref))

    def runs(
        self,
        *,
        method: str | None = None,
        dataset: str | None = None,
        status: str | None = None,
        tag: str | None = None,
        where: Iterable[str] = (),
    ) -> list[RunRow]:
        """All runs that fulfil every filter, oldest first.

        `tag` is KEY or KEY=VALUE; `where` holds conditions on settings such as "alpha<0.5" or "train.lr=0.1".
        """
        if status is not None and status not in STATUSES:
            raise UsageError(f"--status: unknown status {status!r}; known: {', '.join(STATUSES)}")
        wanted = [conditions.parse(text) for text in where]
        query = select(run).order_by(run.c.id)
        if method is not None:
            query = query.where(run.c.method == method)
        if dataset is not None:
            query = query.where(run.c.dataset == dataset)
        if tag is not None:
            query = query.where(run.c.id.in_(_tagged(tag)))
        with self._db.read() as connection:
            rows = self._rows(connection, query)
            if wanted:
                configs = connection.execute(select(run.c.config)).scalars()
                conditions.check_known(wanted, [json.loads(text) for text in configs])
        return [
            row
            for row in rows
            if (status is None or row.status == status) and all(condition.holds(row.config) for condition in wanted)
        ]

    def attempts(self, run_id: int) -> list[AttemptRow]:
        """The processes that worked on a run, first to last."""
        with self._db.read() as connection:
            rows = connection.execute(_attempts(run_id).order_by(attempt.c.id)).all()
        now = self._clock()
        return [
            AttemptRow(
                a.id,
                run_id,
                a.host,
                a.pid,
                a.started,
                a.heartbeat,
                a.ended,
                _status(a.status, a, a.started, now),
            )
            for a in rows
        ]

    def environment(self, run_id: int) -> dict[str, Any]:
        """The software and hardware that the run began on."""
        query = select(environment.c.content).join(run, run.c.environment_id == environment.c.id)
        with self._db.read() as connection:
            content = connection.execute(query.where(run.c.id == run_id)).scalar()
            if content is None:
                raise self._unknown_run(connection, f"run{run_id}")
        found: dict[str, Any] = json.loads(content)
        return found

    def git_diff(self, run_id: int) -> bytes | None:
        """What the working tree had beyond its commit when the run began; None where nothing was stored."""
        with self._db.read() as connection:
            row = self._row(connection, run_id)
        return None if row.diff_sha256 is None else self._files.verified(row.diff_sha256).read_bytes()

    def rename(self, run_id: int, name: str) -> None:
        """Give the run a (new) unique name."""
        text = check_name(name)
        with self._db.write() as connection:
            if self._row(connection, run_id).name != text:
                check_free(connection, run, "run", text)
                connection.execute(update(run).where(run.c.id == run_id).values(name=text))

    def set_note(self, run_id: int, note: str) -> None:
        """Replace the run's free note."""
        text = check_text(note, "--note")
        with self._db.write() as connection:
            self._row(connection, run_id)
            connection.execute(update(run).where(run.c.id == run_id).values(note=text))

    def set_tag(self, run_id: int, key: str, value: str = "") -> None:
        """Set a tag, replacing its value."""
        with self._db.write() as connection:
            self._row(connection, run_id)
            _delete_tag(connection, run_id, key)
            row = {"run_id": run_id, "key": _tag_key(key), "value": check_text(value, "--tag")}
            connection.execute(insert(tag).values(row))

    def remove_tag(self, run_id: int, key: str) -> bool:
        """Remove a tag; False when the run does not have it."""
        with self._db.write() as connection:
            self._row(connection, run_id)
            return _delete_tag(connection, run_id, key)

    def _touch(self, connection: Connection, run_id: int) -> None:
        """The heartbeat, inside a transaction; a run that was never started gets its first attempt."""
        now = self._clock()
        active = attempt.c.run_id == run_id, attempt.c.ended.is_(None)
        if connection.execute(update(attempt).where(*active).values(heartbeat=now)).rowcount == 0:
            _insert_attempt(connection, run_id, current(), now)

    def _row(self, connection: Connection, run_id: int) -> Row[Any]:
        row = connection.execute(select(run).where(run.c.id == run_id)).first()
        if row is None:
            raise self._unknown_run(connection, f"run{run_id}")
        return row

    def _unknown_run(self, connection: Connection, ref: str) -> UsageError:
        count, highest = connection.execute(select(func.count(), func.max(run.c.id)).select_from(run)).one()
        if not count:
            return UsageError(f"no run {ref!r}: {self.shown} has no runs yet; `fltk train` makes one")
        names = connection.execute(select(run.c.name).where(run.c.name.is_not(None))).scalars().all()
        close = get_close_matches(ref, [str(name) for name in names], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {count}, the latest is run{highest}"
        return UsageError(f"no run {ref!r} in {self.shown}; {hint}")

    def _rows(self, connection: Connection, query: Select[Any]) -> list[RunRow]:
        rows = connection.execute(query).all()
        tags: dict[int, dict[str, str]] = {}
        for row in connection.execute(select(tag).order_by(tag.c.key)):
            tags.setdefault(row.run_id, {})[row.key] = row.value
        newest = select(func.max(attempt.c.id)).group_by(attempt.c.run_id)
        workers = {row.run_id: row for row in connection.execute(select(attempt).where(attempt.c.id.in_(newest)))}
        now = self._clock()
        return [
            _run_row(row, tags.get(row.id, {}), _status(row.status, workers.get(row.id), row.created, now))
            for row in rows
        ]

    def _environment_id(self, connection: Connection, content: Mapping[str, Any]) -> int:
        """The row of this environment, made when it is new."""
        text = to_json(content)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        found = connection.execute(select(environment.c.id).where(environment.c.sha256 == sha256)).scalar()
        if found is not None:
            return int(found)
        row = {"sha256": sha256, "content": text, "created": self._clock()}
        return new_id(connection.execute(insert(environment).values(row)))


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


def _insert_run(connection: Connection, values: Mapping[str, Any]) -> int:
    if values["name"] is not None:
        check_free(connection, run, "run", values["name"])
    try:
        return new_id(connection.execute(insert(run).values(dict(values))))
    except IntegrityError as error:
        parts = f"parent {values['parent']}, partition {values['partition_id']}"
        raise FltkError(f"the run cannot be recorded: {parts} must exist, and its name be free") from error


def _insert_attempt(connection: Connection, run_id: int, process: Process, now: float) -> int:
    row = {
        "run_id": run_id,
        "host": process.host,
        "pid": process.pid,
        "process": process.mark,
        "started": now,
        "heartbeat": now,
        "status": RUNNING,
    }
    return new_id(connection.execute(insert(attempt).values(row)))


def _attempts(run_id: int) -> Select[Any]:
    return select(attempt).where(attempt.c.run_id == run_id)


def _process(row: Any) -> Process:
    return Process(row.host, row.pid, row.process)


def _is_other(worker: Any, process: Process, now: float) -> bool:
    """Whether another process, still alive, holds the run."""
    itself = (worker.host, worker.pid) == (process.host, process.pid)
    return not itself and not is_gone(_process(worker), worker.heartbeat, now)


def _status(status: str, worker: Any, begun: float, now: float) -> str:
    """`running` only while a process can be behind it; otherwise `stale`."""
    if status != RUNNING:
        return status
    if worker is None:  # killed between the run's row and its first attempt, or about to start
        return STALE if now - begun > STALE_SECONDS else RUNNING
    return STALE if is_gone(_process(worker), worker.heartbeat, now) else RUNNING


def _tagged(text: str) -> Select[Any]:
    key, equals, value = text.partition("=")
    query = select(tag.c.run_id).where(tag.c.key == _tag_key(key))
    return query.where(tag.c.value == value) if equals else query


def _tag_key(key: str) -> str:
    text = check_text(key.strip(), "--tag")
    if not text or "=" in text or len(text) > 120:
        raise UsageError(f"--tag takes KEY or KEY=VALUE with a key of 1 to 120 characters, not {key[:40]!r}")
    return text


def _delete_tag(connection: Connection, run_id: int, key: str) -> bool:
    chosen = tag.c.run_id == run_id, tag.c.key == _tag_key(key)
    return connection.execute(delete(tag).where(*chosen)).rowcount > 0


def _run_row(row: Any, tags: dict[str, str], status: str) -> RunRow:
    return RunRow(
        id=row.id,
        uuid=row.uuid,
        name=row.name,
        kind=row.kind,
        parent=row.parent,
        status=status,
        message=row.message,
        method=row.method,
        dataset=row.dataset,
        config=json.loads(row.config),
        config_hash=row.config_hash,
        origin=json.loads(row.origin),
        partition_id=row.partition_id,
        data_fingerprint=row.data_fingerprint,
        environment_id=row.environment_id,
        git={**json.loads(row.git), "diff_sha256": row.diff_sha256},
        seed=row.seed,
        note=row.note,
        started=row.created,
        finished=row.finished,
        rounds_done=row.rounds_done,
        last=json.loads(row.last),
        tags=tags,
    )
