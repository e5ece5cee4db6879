"""What alembic runs around the revisions: on the connection, and in the transaction, of who asked it to. Run by alembic alone."""

from __future__ import annotations

from alembic import context

from artifactfs.registry.schema import TABLES

context.configure(connection=context.config.attributes["connection"], target_metadata=TABLES)
context.run_migrations()
