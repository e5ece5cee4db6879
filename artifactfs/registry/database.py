"""What a registry asks of its database, beyond SQLAlchemy Core: the contract of its adapters.

Used by :mod:`artifactfs.registry.sql` and its neighbours, which know no database. Kinds: :mod:`artifactfs.registry.sqlite`,
:mod:`artifactfs.registry.postgresql`. Pure but for the contract; safe from any thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Table

from artifactfs.errors import Integrity

BUSY_SECONDS: Final = 30.0  # how long a call waits for other writers before it is Unavailable
READERS: Final = 8  # connections of one process that read; the ninth reader waits for one
CHECK_SECONDS: Final = 3600.0
"""How long one question of a check may take, which looks at every row."""


class Database(Protocol):
    """An open database that holds the tables of :mod:`artifactfs.registry.schema`.

    ``str()`` of it names it in messages, without a secret. Safe from any thread. Whatever the database or its driver raises comes
    out as an error of ours in one line: Unavailable what may pass (after a bounded wait), NoSpace, Access, NotFound, Format,
    Integrity.
    A connection that is lost is replaced by the next call; the one that lost it is Unavailable.
    """

    @property
    def outlived(self) -> bool:
        """Whether clients go on after a crash of it. They act on what they were told before, so that must be on the disk by then."""
        ...

    def close(self) -> None:
        """Close every connection. Idempotent. Every later call is Unavailable."""
        ...

    def reading(self, *, seconds: float | None = None) -> AbstractContextManager[Connection]:
        """A connection on which every statement sees one commit or the next, never a part.

        ``seconds``: how long a statement may take, where the database bounds that; None is the usual bound.
        """
        ...

    def writing(self, *, durable: bool) -> AbstractContextManager[Connection]:
        """One transaction: committed at the end, undone when the body raises.

        Statements of the body see what is committed when each begins. A row that was selected FOR UPDATE is this transaction's
        until it ends; where the database has but one writer, all are. ``durable``: on the disk on return, with all that was
        committed before; otherwise visible and atomic, and durable with the next durable commit. When the commit's outcome is not
        known it is Unavailable, and the transaction was made or was not.
        """
        ...

    def insert_absent(self, connection: Connection, table: Table, names: Sequence[str], rows: list[Any]) -> None:
        """Insert rows (tuples in the order of ``names``, JSON as text by :func:`as_json`) whose keys are not there; others stay.

        Where another transaction is about to insert one of these keys, it is waited for. Rows therefore come in the order of their
        key, so that two transactions never wait for each other.
        """
        ...

    def revision(self, project: str) -> int:
        """The revision of the project with this name; 0 when it is not there."""
        ...

    def damages(self) -> list[str]:
        """What the database finds wrong with its own files, a line each. May read everything."""
        ...


def as_json(value: Any) -> str:
    """A value as a JSON column holds it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read_json(text: str | bytes) -> Any:
    """A value of a JSON column. Integrity for what is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise Integrity(f"the registry holds damaged metadata ({error}): run `artifactfs verify`") from error
