"""Tokens: who may do what, for all projects of a database.

Used by :mod:`artifactfs.registry.sql`, which hands it out, by the server and by ``token``. Safe from any thread and from several
processes. Of a secret its SHA-256 is kept alone: it has 256 random bits, so that nothing slower is needed. Rows stay when a token is
revoked: a database that had tokens once is never open to everybody again.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Final, NamedTuple

from sqlalchemy import bindparam, insert, select, update

from artifactfs.errors import InvalidInput, NotFound
from artifactfs.model.access import ALL_PROJECTS, NewToken, Text, TokenRecord, check_role, invent, join
from artifactfs.model.names import check_name
from artifactfs.registry.checks import is_text
from artifactfs.registry.database import Database
from artifactfs.registry.schema import token
from artifactfs.registry.sessions import lifetime

NAME_LIMIT: Final = 255
"""Characters of a token's name."""

_SHOWN: Final = (
    token.c.id,
    token.c.project,
    token.c.role,
    token.c.name,
    token.c.created,
    token.c.expires,
    token.c.revoked,
)
_FIND: Final = select(token.c.secret, *_SHOWN).where(token.c.id == bindparam("called"))
_LIST: Final = select(*_SHOWN).order_by(token.c.created, token.c.id)
_ANY: Final = select(token.c.id).limit(1)
_REVOKE: Final = (
    update(token).where(token.c.id == bindparam("called"), token.c.revoked.is_(None)).values(revoked=bindparam("now"))
)
_NO_SECRET: Final = bytes(32)


class Kept(NamedTuple):
    """A token as it is kept."""

    secret: bytes  # its hash
    record: TokenRecord


class TokenTable:
    """The tokens of a database. ``now`` gives nanoseconds since the epoch."""

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self.now = now

    def create(self, *, project: str, role: str, name: str = "", seconds: float | None = None) -> NewToken:
        """Make a token of a project, which need not be there yet, or of all (empty). ``seconds``: how long it lives; None: always."""
        if project != ALL_PROJECTS:
            check_name(project)
        check_role(role)
        if len(name) > NAME_LIMIT or not name.isprintable() or not is_text(name):
            raise InvalidInput(f"not a token's name: {name!r}; {NAME_LIMIT} printable characters at most are one")
        now = self.now()
        expires = None if seconds is None else now + lifetime(seconds, what="a token")
        text = invent()
        record = TokenRecord(text.id, project, role, name, now, expires)
        row = {
            "id": text.id,
            "secret": _hash(text.secret),
            "project": project,
            "role": role,
            "name": name,
            "created": now,
            "expires": expires,
        }
        with self._database.writing(durable=True) as connection:
            connection.execute(insert(token), row)
        return NewToken(join(text), record)

    def records(self, project: str | None = None) -> list[TokenRecord]:
        """Tokens in the order they were made, ended ones too: of one project, of all projects (empty), or every one (None)."""
        with self._database.reading() as connection:
            found = [TokenRecord(*row) for row in connection.execute(_LIST)]
        return [record for record in found if project is None or record.project == project]

    def revoke(self, identity: str) -> TokenRecord:
        """End a token at once; one that was revoked stays so. NotFound without it. Returns what it is then."""
        with self._database.writing(durable=True) as connection:
            connection.execute(_REVOKE, {"called": identity, "now": self.now()})
            row = connection.execute(_FIND, {"called": identity}).first()
        if row is None:
            raise unknown(identity)
        return TokenRecord(*row[1:])

    def find(self, identity: str) -> Kept | None:
        """A token by its id."""
        with self._database.reading() as connection:
            row = connection.execute(_FIND, {"called": identity}).first()
        return None if row is None else Kept(row[0], TokenRecord(*row[1:]))

    def exist(self) -> bool:
        """Whether a token was ever made."""
        with self._database.reading() as connection:
            return connection.execute(_ANY).first() is not None


def proves(kept: Kept | None, text: Text) -> bool:
    """Whether a token's secret is the kept one. Takes as long for one that is not there."""
    expected = _NO_SECRET if kept is None else kept.secret
    return hmac.compare_digest(_hash(text.secret), expected) and kept is not None


def unknown(identity: str) -> NotFound:
    """The error for a token that is not there."""
    return NotFound(f"there is no token {identity!r}; `artifactfs token list` lists them")


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
