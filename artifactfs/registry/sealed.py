"""Encrypted projects: which key a project has, the data keys of its packs, and wrapping them anew.

Used by :mod:`artifactfs.registry.sql` and :mod:`artifactfs.registry.chunks`, within their transactions. The registry never holds a
project's key: it is told it by :class:`Keys`, by its id. Safe from any thread.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from sqlalchemy import Connection, bindparam, exists, select, update

from artifactfs import sealing
from artifactfs.errors import Access, Conflict, Integrity, InvalidInput
from artifactfs.registry.schema import PACK_ALIVE, artifact, pack, project

BATCH: Final = 10_000
"""Data keys wrapped anew at a time: some megabytes, 50 ms."""

_PROJECT: Final = select(project.c.name, project.c.key_id).where(project.c.id == bindparam("of"))
# Where there are several writers at a time (PostgreSQL): a key does not change while packs are added, which hinders no commit; SQLite
# has one writer, and no such clause.
_PROJECT_STAYS: Final = _PROJECT.with_for_update(read=True, key_share=True)
_PROJECT_CHANGES: Final = _PROJECT.with_for_update()
_HOLDS: Final = select(
    exists().where(pack.c.project == bindparam("of")), exists().where(artifact.c.project == bindparam("of"))
)
_SET: Final = update(project).where(project.c.id == bindparam("of")).values(key_id=bindparam("identity"))
# Of an object that a collection found, or that was said to come, no key is known.
_KEYED: Final = (pack.c.state == PACK_ALIVE) | pack.c.wrapped_key.is_not(None)
_WRAPPED: Final = (
    select(pack.c.id, pack.c.digest, pack.c.wrapped_key)
    .where(pack.c.project == bindparam("of"), pack.c.id > bindparam("after"), _KEYED)
    .order_by(pack.c.id)
    .limit(BATCH)
)
_LAST: Final = (
    select(pack.c.digest, pack.c.wrapped_key)
    .where(pack.c.project == bindparam("of"), _KEYED)
    .order_by(pack.c.id.desc())
    .limit(1)
)
_REWRAP: Final = update(pack).where(pack.c.id == bindparam("number")).values(wrapped_key=bindparam("wrapped"))


class Keys(Protocol):
    """Who has the projects' keys."""

    def find(self, project: str, identity: str) -> bytes:
        """The key of a project with this id. Access when it is not here."""


class NoKeys:
    """Nobody has any."""

    def find(self, project: str, identity: str) -> bytes:
        """Access."""
        raise Access(f"project {project!r} is encrypted with the key {identity}, which is not here")


def key_of(connection: Connection, number: int) -> str:
    """Id of the key of a project; empty when it is not encrypted, or not there."""
    row = connection.execute(_PROJECT, {"of": number}).one_or_none()
    return "" if row is None else str(row[1])


def encrypt(connection: Connection, number: int, identity: str) -> None:
    """Have a project that holds nothing be encrypted with the key of this id. Idempotent. Conflict when it holds something."""
    name, present = connection.execute(_PROJECT_CHANGES, {"of": number}).one()
    if present == identity:
        return
    if present:
        raise Conflict(
            f"project {name!r} is encrypted already, with the key {present}; `artifactfs rekey` gives it another"
        )
    if any(connection.execute(_HOLDS, {"of": number}).one()):
        raise Conflict(
            f"project {name!r} holds content that is not encrypted; encrypt a new project, and copy there: "
            "artifactfs --project NEW init --encrypt, then artifactfs copy NAME --all-versions --to HERE --to-project NEW"
        )
    connection.execute(_SET, {"of": number, "identity": identity})


def wrap(connection: Connection, keys: Keys, number: int, packs: list[tuple[str, bytes]]) -> list[bytes | None]:
    """The data keys of new packs (digest, key) of a project as they are stored. InvalidInput when they are not keyed as it is."""
    name, identity = connection.execute(_PROJECT_STAYS, {"of": number}).one()
    for digest, key in packs:
        if bool(key) != bool(identity):
            is_encrypted = "is encrypted" if identity else "is not encrypted"
            raise InvalidInput(
                f"project {name!r} {is_encrypted}, and pack {digest} {'is' if key else 'is not'}; begin the upload anew"
            )
    if not identity:
        return [None] * len(packs)
    project_key = keys.find(name, identity)
    return [sealing.wrap(project_key, name, digest, key) for digest, key in packs]


def is_key(connection: Connection, keys: Keys, number: int, pack: tuple[str, bytes], wrapped: object) -> bool:
    """Whether a pack (digest, key) is the one that is recorded with this wrapped key."""
    name, identity = connection.execute(_PROJECT, {"of": number}).one()
    digest, key = pack
    return unwrap(keys, name, identity, digest, wrapped) == key


def unwrap(keys: Keys, name: str, identity: str, digest: str, wrapped: object) -> bytes:
    """The data key of a pack, empty for one that has none. Access, Integrity."""
    if wrapped is None:
        if identity:
            raise Integrity(f"pack {digest} of the encrypted project {name!r} has no key; run `artifactfs verify`")
        return b""
    if not identity or not isinstance(wrapped, bytes):
        raise Integrity(f"pack {digest} has a key that project {name!r} cannot have; run `artifactfs verify`")
    return sealing.unwrap(keys.find(name, identity), name, digest, wrapped)


def check_key(connection: Connection, keys: Keys, number: int) -> str:
    """Find the key of a project, and open the data key of its last pack with it; returns its id, empty when there is none."""
    row = connection.execute(_PROJECT, {"of": number}).one_or_none()
    if row is None or not row[1]:
        return ""
    name, identity = row
    keys.find(name, identity)
    for digest, wrapped in connection.execute(_LAST, {"of": number}):
        unwrap(keys, name, identity, digest, wrapped)
    return str(identity)


def rewrap(connection: Connection, keys: Keys, number: int, key: bytes) -> int:
    """Wrap all data keys of a project with another key, in the caller's transaction; returns how many.

    One transaction: a crash leaves all of them to the old key. A million, of packs of 64 MiB 60 TiB, take some 20 s, and others wait.
    """
    name, identity = connection.execute(_PROJECT_CHANGES, {"of": number}).one()
    if not identity:
        raise InvalidInput(f"project {name!r} is not encrypted; `artifactfs init --encrypt` makes a new one that is")
    new = sealing.key_id(key)
    if new == identity:
        raise InvalidInput(f"project {name!r} is encrypted with the key {new} already; give another one")
    count = after = 0
    while rows := connection.execute(_WRAPPED, {"of": number, "after": after}).all():
        after = rows[-1][0]
        changes: list[dict[str, Any]] = [
            {
                "number": row,
                "wrapped": sealing.wrap(key, name, digest, unwrap(keys, name, identity, digest, wrapped)),
            }
            for row, digest, wrapped in rows
        ]
        connection.execute(_REWRAP, changes)
        count += len(changes)
    connection.execute(_SET, {"of": number, "identity": new})
    return count
