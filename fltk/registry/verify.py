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

from fltk.config import canonical_json
from fltk.errors import FltkError
from fltk.registry.artifacts import STAGING, ArtifactMissing, read_tensors
from fltk.registry.blobs import DAMAGE, unpack_arrays
from fltk.registry.checks import check_run, contents_differences
from fltk.registry.cleanup import ancestors
from fltk.registry.schema import artifact, checkpoint, environment, ledger, metadata, partition, run
from fltk.registry.sealing import LEDGER, sequence_of
from fltk.registry.seals import OF_REGISTRY, Contents, contents_of, seal_of
from fltk.registry.store import Store
from fltk.registry.structure import differences

if TYPE_CHECKING:
    from torch import Tensor

Same = Callable[[str, Mapping[str, "Tensor"]], bool]
Marks = Callable[[Mapping[str, npt.NDArray[Any]]], tuple[str, str]]
SHOWN = 20  # messages of the database's own check


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be, and the runs that it affects.

    what: database, run, environment, artifact, partition, checkpoint or file. harmless: a leftover that nothing needs.
    absent: a file is not there, in contrast to one with another content.
    """

    what: str
    runs: tuple[int, ...]
    told: str
    harmless: bool = False
    absent: bool = False


@dataclass
class Verified:
    """What was found, and how much was looked at; `size` in bytes of artifact files."""

    problems: list[Problem] = field(default_factory=list)
    runs: int = 0
    rounds: int = 0
    files: int = 0
    size: int = 0
    sealed_late: int = 0  # runs that an upgrade sealed as they were then
    sealed_at: float | None = None  # when that was last, in seconds since 1970
    mark: str | None = None  # one digest of everything in the database; None when only some runs were looked at

    @property
    def verdict(self) -> str:
        """In a word: sound, damaged, or incomplete where files are absent and all that is there is well."""
        real = [problem for problem in self.problems if not problem.harmless]
        if not real:
            return "sound"
        return "incomplete" if all(problem.absent for problem in real) else "damaged"

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
        look.structure()
        for number in look.wanted:
            look.run(number)
        look.parents()
        look.environments()
        look.artifacts()
        look.partitions()
        look.checkpoints()
        look.seals()
        if run_ids is None:
            look.ledger()
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
            columns = run.c.id, run.c.parent, run.c.partition_id, run.c.environment_id, run.c.diff_sha256
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
        """All rows of a run are as they were stored, and none is missing."""
        self.found.runs += 1
        with self.store._db.read() as connection:
            check = check_run(connection, self.store.shown, number)
        self.found.rounds += check.rounds
        for told in check.told:
            self.note("run", (number,), told)

    def parents(self) -> None:
        """No run was made of itself, by whatever detour."""
        parents = {row.id: row.parent for row in self.rows}
        for number in self.wanted:
            if number in ancestors(number, parents):
                self.note("run", (number,), f"run{number} is said to be made of itself")

    def ledger(self) -> None:
        """The registry has the runs, partitions, environments and artifacts that were stored in it."""
        with self.noting("database"), self.store._db.read() as connection:
            text = connection.execute(select(ledger.c.contents).where(ledger.c.id == LEDGER)).scalar()
            found = contents_of([(table, _dicts(connection, table)) for table in OF_REGISTRY])
            if text is None:
                raise FltkError("the list of what the registry holds is missing")
            stored = Contents.read(text)
            for table, told, numbers in contents_differences(stored, found, OF_REGISTRY):
                self.note(table.name, numbers if table is run else (), told)
            for name, last in stored.last.items():
                counted = sequence_of(connection, metadata.tables[name])
                if counted is not None and counted != last:
                    self.note("database", (), f"the last {name} was number {last}, and the database counts {counted}")

    def structure(self) -> None:
        """The tables, views and triggers are those of this fltk."""
        with self.noting("database"), self.store._db.read() as connection:
            for difference in differences(connection):
                self.note("database", (), f"{self.store.shown}: {difference.told}", harmless=difference.harmless)

    def seals(self) -> None:
        """How many runs were sealed after their beginning, and one mark for all that is stored."""
        with self.noting("database"), self.store._db.read() as connection:
            query = select(run.c.id, run.c.sealed, run.c.seal).order_by(run.c.id)
            rows = [row for row in connection.execute(query) if row.id in set(self.wanted)]
            late = [row.sealed for row in rows if row.sealed is not None]
            self.found.sealed_late = len(late)
            self.found.sealed_at = max(late, default=None)
            if len(rows) == len(self.rows):
                content = connection.execute(select(ledger.c.contents)).scalar()
                seals = [row.seal for row in rows]
                self.found.mark = hashlib.sha256(canonical_json([content, seals]).encode()).hexdigest()

    def environments(self) -> None:
        """The hash of each recorded environment."""
        with self.noting("database"), self.store._db.read() as connection:
            for row in _dicts(connection, environment):
                runs = [r.id for r in self.rows if r.environment_id == row["id"]]
                if not self.concerns(runs):
                    continue
                if hashlib.sha256(row["content"].encode()).hexdigest() != row["sha256"]:
                    self.note("environment", runs, "the recorded environment does not match its hash")
                elif row["seal"] != seal_of(environment, row):
                    self.note("environment", runs, "the recorded environment does not match its seal")

    def artifacts(self) -> None:
        """Every file is there with its size and hash."""
        rows: list[Row[Any]] = []
        with self.noting("database"), self.store._db.read() as connection:
            rows = list(connection.execute(select(artifact).order_by(artifact.c.sha256)))
            for row in rows:
                runs = self.users.get(row.sha256, set())
                if self.concerns(runs) and row.seal != seal_of(artifact, row._mapping):
                    self.note("artifact", runs, f"the row of artifact {row.sha256} does not match its seal")
        files = self.store._files
        if rows and not files.folder.is_dir():
            told = f"{files.absent}: {len(rows)} files; everything else can be read"
            self.note("artifact", (), told, absent=True)
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
            if part.sha256 == sha256 and not self.imported(part):
                return f"; what uses part{part.id} next deals it again, such as `fltk train --partition part{part.id}`"
        return ""

    def imported(self, part: Row[Any]) -> bool:
        """Whether another program has dealt a partition, or nothing can be read of that."""
        try:
            return bool(json.loads(part.config).get("from_pfllib"))
        except DAMAGE:
            return True

    def partitions(self) -> None:
        """The index lists of every partition have its fingerprint."""
        for row in self.parts:
            runs = self.using(row.id)
            if not self.concerns(runs):
                continue
            if row.seal != seal_of(partition, row._mapping):
                self.note("partition", runs, f"the row of part{row.id} does not match its seal: a value was changed")
            if row.sha256 not in self.whole:
                continue
            with self.noting("partition", *runs):
                json.loads(row.config), json.loads(row.summary)
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
            named = path.name in known and path == folder / path.name[:2] / path.name
            if named or path.is_dir() or path.parent.name == STAGING:
                continue
            self.note("file", (), f"{path} belongs to no run; `fltk db gc` deletes what fltk left", harmless=True)

    def note(self, what: str, runs: Iterable[int], told: str, *, harmless: bool = False, absent: bool = False) -> None:
        self.found.problems.append(Problem(what, tuple(sorted(runs)), told, harmless, absent))

    @contextmanager
    def noting(self, what: str, *runs: int, harmless: bool = False, cure: str = "") -> Iterator[None]:
        """What goes wrong in the block is noted, with what mends it, and the verification goes on."""
        try:
            yield
        except FltkError as error:
            absent = isinstance(error, ArtifactMissing)
            self.note(what, runs, f"{error}{cure}", harmless=harmless, absent=absent)
        except DAMAGE as error:
            self.note(what, runs, f"stored values are damaged ({type(error).__name__}: {error})", harmless=harmless)


def _dicts(connection: Connection, table: Table) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(select(table)).mappings()]
