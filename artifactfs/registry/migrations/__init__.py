"""Making the tables in PostgreSQL, and bringing those of an older format to this release's, by alembic.

Used by :mod:`artifactfs.registry.postgresql`, in a transaction that it owns and under a lock of all clients, so that a database is
of the one format or of the other, and of several replicas that start at once one migrates. Each format is a revision in ``versions/``;
alembic remembers in its own table which one the database has, and ``meta`` names it to every client.

Replicas of an older release that are running go on as before. They know nothing of what was added. They should be ended first.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, insert, update

from artifactfs.registry.schema import FORMAT, FORMAT_KEY, TABLES, meta

OLDEST: Final = 2  # format that can be brought to this one
_one_at_a_time: Final = threading.Lock()  # alembic's context is the process's


def create(connection: Connection) -> None:
    """Make the tables of this release."""
    TABLES.create_all(connection)
    connection.execute(insert(meta), {"key": FORMAT_KEY, "value": str(FORMAT)})
    with _one_at_a_time:
        command.stamp(_config(connection), "head")


def migrate(connection: Connection, *, to: str = "head") -> None:
    """Bring the tables to a revision: the format's number, or the newest."""
    with _one_at_a_time:
        command.upgrade(_config(connection), to)
    number = str(FORMAT) if to == "head" else to
    connection.execute(update(meta).where(meta.c.key == FORMAT_KEY).values(value=number))


def _config(connection: Connection) -> Config:
    config = Config()
    # Its file format takes a % for the beginning of a name.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
