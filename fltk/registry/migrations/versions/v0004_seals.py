"""Every row has a seal, and every owner of rows says which it has. `fltk.registry.migrate` fills them in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SEALED = ("artifact", "environment", "partition", "run", "attempt", "round", "checkpoint", "evaluation", "tag")


def upgrade() -> None:
    """New columns, empty at first, and the table of what the registry holds."""
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("contents", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
    )
    op.add_column("run", sa.Column("sealed", sa.Float(), nullable=True))
    op.add_column("run", sa.Column("contents", sa.Text(), nullable=True))
    for table in SEALED:
        op.add_column(table, sa.Column("seal", sa.String(length=64), nullable=True))


def downgrade() -> None:
    """Without seals everything else stays as it is."""
    for table in SEALED:
        op.drop_column(table, "seal")
    op.drop_column("run", "contents")
    op.drop_column("run", "sealed")
    op.drop_table("ledger")
