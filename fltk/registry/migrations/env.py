"""Alembic's entry: runs the migrations inside the transaction that `migrate.upgrade` opened."""

from __future__ import annotations

from alembic import context

from fltk.registry.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
