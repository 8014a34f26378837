"""What a resumed attempt was allowed to differ in from the run's beginning."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """A new column; attempts from before it differ in nothing that was recorded."""
    with op.batch_alter_table("attempt") as batch:
        batch.add_column(sa.Column("changes", sa.Text(), nullable=True))
