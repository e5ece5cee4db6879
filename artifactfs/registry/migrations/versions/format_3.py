"""Format 3: tokens, keys of projects and packs, and what else the tables of this release have. Run by alembic alone."""

from __future__ import annotations

from typing import Final

from alembic import op

from artifactfs.registry.additions import add_what_is_lacking

revision: Final = "3"
down_revision: Final = "2"


def upgrade() -> None:
    """Add to format 2 what it lacks."""
    add_what_is_lacking(op.get_bind())
