"""Runs can be removed and restored; what deletions look for has an index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """A new column, empty for every run there is, and indexes on references that deletions have to check."""
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("removed", sa.Float(), nullable=True))
    op.create_index("ix_run_parent", "run", ["parent"], unique=False)
    op.create_index("ix_run_diff_sha256", "run", ["diff_sha256"], unique=False)
    op.create_index("ix_partition_sha256", "partition", ["sha256"], unique=False)
