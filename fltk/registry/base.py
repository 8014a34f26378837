"""What the parts of the store share: the open database, its artifact folder, and a few look-ups."""

from __future__ import annotations

import logging
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Table, select
from sqlalchemy.engine import Connection

from fltk.errors import UsageError
from fltk.registry import artifacts, schema
from fltk.registry.database import open_database
from fltk.registry.sealing import Sealing

_LOG = logging.getLogger("fltk.registry")
NAME_LENGTH = 200
NOTE_LENGTH = 1_000_000


class Base:
    """An open registry. The parts of `Store` build on it; use `Store`."""

    def __init__(
        self, target: str | Path, *, readonly: bool = False, create: bool = False, upgrade: bool = True
    ) -> None:
        self._db = open_database(target, readonly=readonly, create=create, upgrade=upgrade)
        if self._db.notice and (readonly or not self._db.readonly):  # otherwise the refusal to write tells it
            _LOG.warning(self._db.notice)
        self._files = artifacts.ArtifactFolder(self._db.location.artifacts)
        self._clock: Callable[[], float] = time.time
        self._told: set[int] = set()  # damaged runs that a warning has named

    @property
    def readonly(self) -> bool:
        """Whether writing is refused: asked for, or because a newer fltk wrote the database."""
        return self._db.readonly

    @property
    def notice(self) -> str | None:
        """A line that the user should see once, such as that the database was upgraded."""
        return self._db.notice

    @property
    def shown(self) -> str:
        """The database as messages call it."""
        return self._db.shown

    @property
    def artifact_folder(self) -> Path:
        """Where weights, partitions and diffs lie."""
        return self._files.folder

    def close(self) -> None:
        """Close all connections; SQLite then folds its log into the database file."""
        self._db.close()

    def require_writable(self) -> None:
        """FltkError when writing is refused."""
        self._db.require_writable()

    def _stage(self, write: Callable[[Path], object]) -> AbstractContextManager[artifacts.Staged]:
        self.require_writable()  # before anything is written beside the database
        return self._files.stage(write)

    def _stage_bytes(self, data: bytes) -> AbstractContextManager[artifacts.Staged]:
        return self._stage(lambda path: path.write_bytes(data))

    @contextmanager
    def _write(self) -> Iterator[Sealing]:
        """One transaction that holds the write lock; its rows are sealed as it ends."""
        with self._db.write() as connection:
            sealing = Sealing(connection)
            yield sealing
            sealing.flush()

    def _publish(self, sealing: Sealing, staged: artifacts.Staged, kind: str) -> None:
        """Name a staged file and make sure of its row, inside the caller's write transaction.

        Pruning removes files under the same lock, so it cannot take the file between rename and commit.
        """
        staged.publish()
        table = schema.artifact
        known = select(table.c.sha256).where(table.c.sha256 == staged.sha256)
        if sealing.connection.execute(known).first() is None:
            values = {"sha256": staged.sha256, "kind": kind, "size": staged.size, "created": self._clock()}
            sealing.insert(table, values)


def check_name(name: str) -> str:
    """A name as stored: any script, but nothing like a number or `latest`. UsageError otherwise."""
    text = unicodedata.normalize("NFC", name).strip()
    if not text:
        raise UsageError("--name must not be empty")
    if len(text) > NAME_LENGTH:
        raise UsageError(f"--name has {len(text)} characters; at most {NAME_LENGTH} are allowed")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text):
        raise UsageError(f"--name {text!r} has characters that cannot be printed; use letters, digits and dashes")
    if text.startswith("-"):
        raise UsageError(f"--name {text!r} looks like an option; begin with a letter or digit")
    if not any(char.isalnum() for char in text):
        raise UsageError(f"--name {text!r} has no letter and no digit; choose another")
    if re.fullmatch(r"(run|part)?\d+|latest", text, re.ASCII | re.IGNORECASE):
        raise UsageError(f"--name {text!r} looks like a number of a run or partition; choose another")
    return text


def check_text(text: str, option: str) -> str:
    """Free text that every database can hold; UsageError naming the option otherwise."""
    if len(text) > NOTE_LENGTH:
        raise UsageError(f"{option} has more than {NOTE_LENGTH} characters; shorten it")
    if "\0" in text or any(unicodedata.category(char) == "Cs" for char in text):
        raise UsageError(f"{option} holds characters that cannot be stored; use plain text")
    return text


def check_free(connection: Connection, table: Table, prefix: str, name: str) -> None:
    """UsageError when a row of `table` has that name."""
    taken = connection.execute(select(table).where(table.c.name == name)).first()
    if taken is not None:
        kept = getattr(taken, "removed", None) is None
        told = "" if kept else ", which is removed (`fltk db gc` deletes it)"
        raise UsageError(f"--name: {name!r} is taken by {prefix}{taken.id}{told}; choose another")


def find_id(
    connection: Connection,
    table: Table,
    prefix: str,
    key: str,
    ref: str | int,
    among: ColumnElement[bool] | None = None,
) -> tuple[int | None, list[int]]:
    """Look a reference up: PREFIX<number>, a number, `latest`, a name, or the start of column `key`.

    `among` restricts the rows. Returns (id, []) or (None, candidates): several candidates when ambiguous, none
    when unknown.
    """
    ids = select(table.c.id) if among is None else select(table.c.id).where(among)
    # Bytes of a command line that are no text arrive as surrogates, which no database takes.
    text = unicodedata.normalize("NFC", str(ref)).strip().encode("utf-8", "replace").decode()
    if text == "latest":
        return connection.execute(ids.order_by(table.c.id.desc()).limit(1)).scalar(), []
    number = re.fullmatch(rf"(?:{prefix})?(\d{{1,9}})", text, re.ASCII)
    conditions: list[Any] = [table.c.id == int(number[1])] if number else []
    conditions.append(table.c.name == text)
    digits = text.replace("-", "").lower()
    # A mistyped number must not hit a row by the chance start of its hash: plain digits need to be longer.
    if re.fullmatch(r"[0-9a-f]{4,64}", digits) and (len(digits) >= 8 or not digits.isdigit()):
        conditions.append(table.c[key].startswith(digits, autoescape=True))
    for condition in conditions:
        found: Sequence[int] = connection.execute(ids.where(condition).order_by(table.c.id)).scalars().all()
        if found:
            return (found[0], []) if len(found) == 1 else (None, list(found))
    return None, []
