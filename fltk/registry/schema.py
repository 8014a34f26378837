"""The tables of the registry, as SQLAlchemy Core metadata.

Times are seconds since 1970 (UTC). `data` columns hold bytes whose layout `fltk.registry.blobs` describes.
JSON is text in canonical form (sorted keys), because its SHA-256 identifies configurations and environments.

A change here needs a new file in `migrations/versions` and a new last entry in `REVISIONS`; tests compare
both with this metadata. Users read the views of `fltk.registry.views`, which keep their columns.

`seal` columns hold digests of their rows, `contents` says which rows an owner has (`fltk.registry.seals`). Rows of
these tables are written through `fltk.registry.sealing`. A column that a later revision adds to them has to allow
NULL, which enters no seal.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# Other tools keep their revision in `alembic_version`; with that name two programs in one database would
# overwrite each other's.
VERSION_TABLE = "fltk_schema_version"
REVISIONS = ("0001", "0002", "0003", "0004")
HEAD_REVISION = REVISIONS[-1]

# Constraints need names: batch migrations on SQLite can only drop what they can name.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _seal() -> Column[str]:
    return Column("seal", String(64))


# One row: which runs, partitions, environments and artifacts there are.
ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("contents", Text, nullable=False),
)

environment = Table(
    "environment",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("content", Text, nullable=False),
    Column("created", Float, nullable=False),
    _seal(),
)

artifact = Table(
    "artifact",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("kind", String(32), nullable=False),  # checkpoint | partition | diff
    Column("size", BigInteger, nullable=False),  # bytes
    Column("created", Float, nullable=False),
    _seal(),
)

partition = Table(
    "partition",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, unique=True),
    Column("fingerprint", String(64), nullable=False, unique=True),
    Column("data_fingerprint", String(64), nullable=False),
    Column("config", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("sha256", String(64), ForeignKey("artifact.sha256"), nullable=False, index=True),
    Column("created", Float, nullable=False),
    _seal(),
    sqlite_autoincrement=True,
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uuid", String(32), nullable=False, unique=True),
    Column("name", Text, unique=True),
    Column("kind", String(32), nullable=False),
    Column("parent", Integer, ForeignKey("run.id"), index=True),
    Column("method", String(64), nullable=False),
    Column("dataset", String(64), nullable=False),
    Column("config", Text, nullable=False),
    Column("config_hash", String(64), nullable=False),
    Column("origin", Text, nullable=False),  # where each value came from: default, file, environment, flag
    Column("partition_id", Integer, ForeignKey("partition.id")),
    Column("data_fingerprint", String(64), nullable=False),
    Column("environment_id", Integer, ForeignKey("environment.id"), nullable=False),
    Column("git", Text, nullable=False),
    Column("diff_sha256", String(64), ForeignKey("artifact.sha256"), index=True),
    Column("seed", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("message", Text),
    Column("note", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("finished", Float),
    # Kept up to date by every round, so that listing a thousand runs does not read a million scalars.
    Column("rounds_done", Integer, nullable=False),
    Column("last", Text, nullable=False),
    Column("removed", Float),  # when it was hidden; such a run stays until `fltk db gc`
    Column("sealed", Float),  # when an upgrade sealed it as it was then; NULL: from its beginning
    Column("contents", Text),
    _seal(),
    Index("ix_run_config_hash", "config_hash"),
    sqlite_autoincrement=True,  # a run number is never used twice
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, ForeignKey("run.id"), nullable=False, index=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process", Text),  # start mark of the process: a pid alone may have been given to another one since
    Column("started", Float, nullable=False),
    Column("heartbeat", Float, nullable=False),
    Column("ended", Float),
    Column("status", String(16), nullable=False),
    Column("changes", Text),  # JSON list of [name, then, now]: what differed from the run's beginning, and was allowed
    _seal(),
)

round_ = Table(
    "round",
    metadata,
    Column("run_id", Integer, ForeignKey("run.id"), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("recorded", Float, nullable=False),
    _seal(),  # of this row with the scalars, client vectors and the map of the round
)


def _of_round() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["run_id", "round"], ["round.run_id", "round.round"], ondelete="CASCADE")


scalar = Table(
    "scalar",
    metadata,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("key", String(120), primary_key=True),
    Column("value", Float),  # NULL unless kind is 0
    Column("kind", SmallInteger, nullable=False),  # 0 as stored, 1 NaN, 2 +inf, 3 -inf, 4 -0.0
    _of_round(),
    sqlite_with_rowid=False,
)

client_vector = Table(
    "client_vector",
    metadata,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("key", String(120), primary_key=True),
    Column("data", LargeBinary, nullable=False),
    _of_round(),
)

map_ = Table(
    "map",
    metadata,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(64), nullable=False),
    Column("slices", Text, nullable=False),
    Column("shape", Text, nullable=False),
    Column("ids", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    _of_round(),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, ForeignKey("run.id"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("sha256", String(64), ForeignKey("artifact.sha256"), nullable=False, index=True),
    Column("meta", Text, nullable=False),
    Column("created", Float, nullable=False),
    _seal(),
    UniqueConstraint("run_id", "round"),
    sqlite_autoincrement=True,  # ids order the checkpoints by the time of writing
)

evaluation = Table(
    "evaluation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, ForeignKey("run.id"), nullable=False, index=True),
    Column("round", Integer, nullable=False),
    Column("summary", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("created", Float, nullable=False),
    _seal(),
)

tag = Table(
    "tag",
    metadata,
    Column("run_id", Integer, ForeignKey("run.id"), primary_key=True, autoincrement=False),
    Column("key", String(120), primary_key=True),
    Column("value", Text, nullable=False),
    _seal(),
)
