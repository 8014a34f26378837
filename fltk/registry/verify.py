"""Whether everything stored is still what was stored. Nothing is repaired.

Looked at are the database itself, every value of every run, the hash of every artifact file, the fingerprint of
every partition, the weights of every checkpoint beside the digest of their round, and files that no row names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
from sqlalchemy import Row, Table, select
from sqlalchemy.engine import Connection

from fltk.config import RunConfig, canonical_json
from fltk.errors import FltkError
from fltk.registry.artifacts import STAGING, read_tensors
from fltk.registry.blobs import unpack_arrays, unpack_map
from fltk.registry.database import guard
from fltk.registry.schema import (
    artifact,
    checkpoint,
    client_vector,
    environment,
    evaluation,
    map_,
    partition,
    round_,
    run,
    scalar,
)
from fltk.registry.store import Store

if TYPE_CHECKING:
    from torch import Tensor

Same = Callable[[str, Mapping[str, "Tensor"]], bool]
Marks = Callable[[Mapping[str, npt.NDArray[Any]]], tuple[str, str]]
SHOWN = 20  # messages of the database's own check


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be, and the runs that it affects.

    what: database, run, environment, artifact, partition, checkpoint or file. harmless: a leftover that nothing needs.
    """

    what: str
    runs: tuple[int, ...]
    told: str
    harmless: bool = False


@dataclass
class Verified:
    """What was found, and how much was looked at; `size` in bytes of artifact files."""

    problems: list[Problem] = field(default_factory=list)
    runs: int = 0
    rounds: int = 0
    files: int = 0
    size: int = 0
    bare: bool = False  # the whole folder of files is absent

    @property
    def verdict(self) -> str:
        """In a word: sound, damaged, or incomplete where the folder of files is absent and all else is well."""
        real = [problem for problem in self.problems if not problem.harmless]
        return "sound" if not real else "incomplete" if self.bare and len(real) == 1 else "damaged"

    @property
    def sound(self) -> bool:
        """Whether nothing that a run needs is wrong."""
        return all(problem.harmless for problem in self.problems)


def verify(store: Store, run_ids: Iterable[int] | None = None, *, same: Same, marks: Marks) -> Verified:
    """Check these runs with all that they refer to (None: the whole registry, removed runs included).

    `same` says whether the digest that was recorded with a round is one of a checkpoint's tensors; `marks` gives the
    fingerprints of a partition and of its data from the arrays that are stored of it.
    """
    look = _Look(store, same, marks)
    look.database()
    look.index(run_ids)
    if look.indexed:
        for number in look.wanted:
            look.run(number)
        look.environments()
        look.artifacts()
        look.partitions()
        look.checkpoints()
        if run_ids is None:
            look.files()
    return look.found


class _Look:
    """One verification: what refers to what, and which files were found sound."""

    def __init__(self, store: Store, same: Same, marks: Marks) -> None:
        self.store = store
        self.same = same
        self.marks = marks
        self.found = Verified()
        self.indexed = False
        self.wanted: list[int] = []
        self.rows: list[Row[Any]] = []
        self.parts: list[Row[Any]] = []
        self.kept: list[Row[Any]] = []  # the rows of checkpoints
        self.users: dict[str, set[int]] = {}  # hash of an artifact -> runs that need it
        self.whole: set[str] = set()  # hashes of the files that were found sound

    def database(self) -> None:
        """The database's own check, where it has one."""
        if self.store._db.on_server:
            return
        with self.noting("database"), self.store._db.read() as connection:
            for (told,) in connection.exec_driver_sql(f"PRAGMA integrity_check({SHOWN})"):
                if told != "ok":
                    self.note("database", (), f"{self.store.shown}: {' '.join(str(told).split())}")
            for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
                self.note("database", (), f"{self.store.shown}: row {row} of {table} refers to no row of {parent}")

    def index(self, run_ids: Iterable[int] | None) -> None:
        """Read what refers to what; `indexed` stays false when even that cannot be read."""
        with self.noting("database"), self.store._db.read() as connection:
            columns = run.c.id, run.c.partition_id, run.c.environment_id, run.c.diff_sha256
            self.rows = list(connection.execute(select(*columns).order_by(run.c.id)))
            self.parts = list(connection.execute(select(partition).order_by(partition.c.id)))
            self.kept = list(connection.execute(select(checkpoint).order_by(checkpoint.c.id)))
            chosen = None if run_ids is None else set(run_ids)
            self.wanted = [row.id for row in self.rows if chosen is None or row.id in chosen]
            for row in self.kept:
                self.users.setdefault(row.sha256, set()).add(row.run_id)
            for row in self.rows:
                if row.diff_sha256:
                    self.users.setdefault(row.diff_sha256, set()).add(row.id)
            for part in self.parts:
                self.users.setdefault(part.sha256, set()).update(self.using(part.id))
            self.indexed = True

    def using(self, part: int) -> list[int]:
        """The runs on a partition."""
        return [row.id for row in self.rows if row.partition_id == part]

    def concerns(self, runs: Iterable[int]) -> bool:
        """Whether this is asked for: all is, or one of these runs."""
        return len(self.wanted) == len(self.rows) or not set(self.wanted).isdisjoint(runs)

    def run(self, number: int) -> None:
        """All values of a run can be read."""
        self.found.runs += 1
        checks: tuple[tuple[Table, Callable[[Row[Any]], None]], ...] = (
            (scalar, _check_scalar),
            (client_vector, _check_vector),
            (map_, _check_map),
            (evaluation, _check_evaluation),
        )
        with self.store._db.read() as connection:
            with self.noting("run", number), guard(self.store.shown):
                row = connection.execute(select(run).where(run.c.id == number)).one()
                query = select(round_.c.round).where(round_.c.run_id == number)
                rounds = list(connection.execute(query).scalars())
                self.found.rounds += len(rounds)
                _check_run(row, rounds)
            for table, check in checks:
                with self.noting("run", number), guard(self.store.shown):
                    for row in _stream(connection, table, number):
                        check(row)

    def environments(self) -> None:
        """The hash of each recorded environment."""
        with self.noting("database"), self.store._db.read() as connection:
            for row in connection.execute(select(environment)):
                runs = [r.id for r in self.rows if r.environment_id == row.id]
                if self.concerns(runs) and hashlib.sha256(row.content.encode()).hexdigest() != row.sha256:
                    self.note("environment", runs, "the recorded environment does not match its hash")

    def artifacts(self) -> None:
        """Every file is there with its size and hash."""
        with self.noting("database"), self.store._db.read() as connection:
            rows = list(connection.execute(select(artifact).order_by(artifact.c.sha256)))
        files = self.store._files
        if rows and not files.folder.is_dir():
            self.found.bare = True
            self.note("artifact", (), f"{files.absent}: {len(rows)} files; everything else can be read")
            return
        for row in rows:
            runs = self.users.get(row.sha256, set())
            if not self.concerns(runs):
                continue
            with self.noting("artifact", *runs, harmless=row.sha256 not in self.users, cure=self.cure(row.sha256)):
                size = self.store._files.verified(row.sha256).stat().st_size
                self.found.files += 1
                self.found.size += size
                if size != row.size:
                    raise FltkError(f"artifact {row.sha256} has {size} bytes and its row says {row.size}")
                self.whole.add(row.sha256)

    def cure(self, sha256: str) -> str:
        """What brings a lost file back: a partition is dealt again, unless another program has dealt it."""
        for part in self.parts:
            if part.sha256 == sha256 and not json.loads(part.config).get("from_pfllib"):
                return f"; what uses part{part.id} next deals it again, such as `fltk train --partition part{part.id}`"
        return ""

    def partitions(self) -> None:
        """The index lists of every partition have its fingerprint."""
        for row in self.parts:
            runs = self.using(row.id)
            if row.sha256 not in self.whole or not self.concerns(runs):
                continue
            with self.noting("partition", *runs):
                data = self.store._files.path(row.sha256).read_bytes()
                found = self.marks(unpack_arrays(data, f"part{row.id}"))
                if found != (row.fingerprint, row.data_fingerprint):
                    raise FltkError(f"the index lists of part{row.id} do not match its fingerprint")

    def checkpoints(self) -> None:
        """The weights of every checkpoint are those of its round."""
        for row in self.kept:
            if row.sha256 not in self.whole or row.run_id not in self.wanted:
                continue
            with self.noting("checkpoint", row.run_id):
                recorded = self.store.digests(row.run_id).get(row.round)
                if recorded is None:
                    raise FltkError(f"there is a checkpoint of round {row.round}, and that round was not recorded")
                if not self.same(recorded, read_tensors(self.store._files.path(row.sha256))):
                    raise FltkError(f"the checkpoint of round {row.round} has other weights than that round recorded")

    def files(self) -> None:
        """Files that no row names: left by killed processes, or put there by hand."""
        with self.store._db.read() as connection:
            known = set(connection.execute(select(artifact.c.sha256)).scalars())
        folder = self.store._files.folder
        for path in sorted(folder.rglob("*")):
            named = path.name in known and path == self.store._files.path(path.name)
            if named or path.is_dir() or path.parent.name == STAGING:
                continue
            self.note("file", (), f"{path} belongs to no run; `fltk db gc` deletes what fltk left", harmless=True)

    def note(self, what: str, runs: Iterable[int], told: str, *, harmless: bool = False) -> None:
        self.found.problems.append(Problem(what, tuple(sorted(runs)), told, harmless))

    @contextmanager
    def noting(self, what: str, *runs: int, harmless: bool = False, cure: str = "") -> Iterator[None]:
        """What goes wrong in the block is noted, with what mends it, and the verification goes on."""
        try:
            yield
        except FltkError as error:
            self.note(what, runs, f"{error}{cure}", harmless=harmless)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self.note(what, runs, f"stored values are damaged ({type(error).__name__}: {error})", harmless=harmless)


def _stream(connection: Connection, table: Table, number: int) -> Iterator[Row[Any]]:
    """Rows of a run, without holding all of them in memory."""
    query = select(table).where(table.c.run_id == number)
    yield from connection.execution_options(yield_per=500).execute(query)


def _check_run(row: Row[Any], rounds: list[int]) -> None:
    config = json.loads(row.config)
    for text in (row.origin, row.git, row.last):
        json.loads(text)
    if not _has_hash(config, row.config_hash):
        raise FltkError("the configuration does not match its hash")
    if row.rounds_done != max(rounds, default=0):
        raise FltkError(f"{row.rounds_done} rounds were counted, and the last one stored is {max(rounds, default=0)}")


def _has_hash(config: dict[str, Any], stored: str) -> bool:
    """Whether this is the hash of a configuration, in the form of its time; one of another fltk counts as sound."""
    if hashlib.sha256(canonical_json(config).encode()).hexdigest() == stored:
        return True
    try:
        return RunConfig.from_dict(config).digest() == stored
    except FltkError:
        return True


def _check_scalar(row: Row[Any]) -> None:
    if row.kind not in range(5) or (row.value is None) != (row.kind != 0):
        raise FltkError(f"the value of {row.key} in round {row.round} is damaged")


def _check_vector(row: Row[Any]) -> None:
    if len(row.data) % 4:
        raise FltkError(f"the clients' values of {row.key} in round {row.round} are damaged")


def _check_map(row: Row[Any]) -> None:
    unpack_map(row, "stored")


def _check_evaluation(row: Row[Any]) -> None:
    json.loads(row.summary)
    unpack_arrays(row.data, f"evaluation {row.id}")
