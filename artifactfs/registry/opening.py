"""Opening a registry by where it is: a SQLite file, or a database on PostgreSQL.

Used by ``serve`` and ``token``, and by who measures. Any thread. PostgreSQL's driver is imported when it is asked for: it is an extra.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Final

from artifactfs.errors import InvalidInput
from artifactfs.forks import Gate
from artifactfs.registry.database import BUSY_SECONDS
from artifactfs.registry.sealed import Keys
from artifactfs.registry.sql import SQLRegistry

_SCHEMES: Final = ("postgresql://", "postgres://")


def open_registry(
    location: str,
    *,
    project: str = "default",
    create: bool = False,
    clock: Callable[[], float] = time.time,
    seconds: float = BUSY_SECONDS,
    keys: Keys | None = None,
) -> SQLRegistry:
    """The registry in the file with this path, or in the database with this ``postgresql://`` URL.

    ``create``: made when it is not there; a database of an older format is then brought to this release's, a file always is.
    ``seconds`` bounds each wait for other clients; ``keys`` has the keys of encrypted projects. Errors as :class:`SQLRegistry`;
    InvalidInput without the driver, or for a URL with a password.
    """
    if not is_database(location):
        return SQLRegistry(location, project=project, create=create, clock=clock, seconds=seconds, keys=keys)
    database = _driver(seconds).PostgresDatabase(location, create=create, seconds=seconds)
    try:
        return SQLRegistry(database, project=project, clock=clock, keys=keys)
    except BaseException:
        database.close()
        raise


def is_database(location: str) -> bool:
    """Whether it is the URL of a database, and not a path."""
    return location.startswith(_SCHEMES)


def check_database(location: str) -> str:
    """The URL itself, asking nobody. InvalidInput for what is none, has a password, or without the driver."""
    if not is_database(location):
        raise InvalidInput("--registry takes the URL of a database: postgresql://USER@HOST:PORT/DATABASE")
    _driver(BUSY_SECONDS).parameters_of(location)
    return location


def _driver(seconds: float) -> ModuleType:
    try:
        with Gate(seconds=seconds):  # in a child a module would stay locked that was being imported at the fork
            from artifactfs.registry import postgresql  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInput(
            f"a registry on PostgreSQL needs packages that are not installed ({error.name}); pip install 'artifactfs[postgres]'"
        ) from error
    return postgresql
