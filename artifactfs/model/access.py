"""Access: roles, tokens as text, and what is known of a token without its secret.

Used by the registry, which keeps tokens, by the server, which asks for them, and by the client. Pure values, safe from any thread.

A token is ``afs_ID_SECRET``: 8 characters that name it and may be shown, and 43 that prove it and are nowhere kept.
"""

from __future__ import annotations

import re
import secrets
import string
from typing import Final, NamedTuple

import msgspec

from artifactfs.errors import InvalidInput

READ: Final = "read"
WRITE: Final = "write"
ADMIN: Final = "admin"
ROLES: Final = (READ, WRITE, ADMIN)
"""From the least to the most; each may do what those before it may."""
ALL_PROJECTS: Final = ""
"""What stands for the project of a token that is of all."""

_ID_CHARACTERS: Final = string.ascii_lowercase + string.digits
_ID_LENGTH: Final = 8
_SECRET_BYTES: Final = 32  # 43 characters in base64
_SECRET: Final = re.compile(r"(afs_[a-z0-9]{8}_)[A-Za-z0-9_-]+", re.ASCII)
_TOKEN: Final = re.compile(r"afs_([a-z0-9]{8})_([A-Za-z0-9_-]{43})", re.ASCII)


class TokenRecord(msgspec.Struct, frozen=True):
    """A token as it may be shown. Instants are nanoseconds since the epoch."""

    id: str
    project: str  # empty: all
    role: str
    name: str  # for people
    created: int
    expires: int | None = None  # None: never
    revoked: int | None = None

    def ended(self, now: int) -> str:
        """What ended it, in words; empty while it is good."""
        if self.revoked is not None:
            return "was revoked"
        return "has expired" if self.expires is not None and self.expires <= now else ""


class NewToken(msgspec.Struct, frozen=True):
    """A token that was just made. ``token`` is its text, which cannot be asked for again."""

    token: str
    record: TokenRecord

    def __repr__(self) -> str:
        return f"NewToken({self.record!r})"


class Text(NamedTuple):
    """A token taken apart."""

    id: str
    secret: str


def invent() -> Text:
    """A new token's parts. 256 bits of the secret are random."""
    name = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
    return Text(name, secrets.token_urlsafe(_SECRET_BYTES))


def join(text: Text) -> str:
    """The token as it is written."""
    return f"afs_{text.id}_{text.secret}"


def split(token: str) -> Text | None:
    """The parts of a token; None for what is none."""
    found = _TOKEN.fullmatch(token)
    return Text(found[1], found[2]) if found is not None else None


def conceal(text: str) -> str:
    """A text without what proves the tokens in it; their ids stay. 0.1 us without one."""
    return _SECRET.sub(r"\1…", text) if "afs_" in text else text


def check_role(role: str) -> str:
    """A role. InvalidInput for any other word."""
    if role not in ROLES:
        raise InvalidInput(f"not a role: {role!r}; it is {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    return role


def allows(role: str, needed: str) -> bool:
    """Whether a role may do what asks for another one."""
    return ROLES.index(role) >= ROLES.index(needed)
