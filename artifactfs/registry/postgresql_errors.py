"""PostgreSQL's and libpq's errors in our words.

Used by :mod:`artifactfs.registry.postgresql`, which knows the driver. Pure functions.
"""

from __future__ import annotations

from typing import Final

from artifactfs.errors import Access, ArtifactFSError, Format, Integrity, InvalidInput, NoSpace, NotFound, Unavailable

_Told = tuple[type[ArtifactFSError], str]

_LOST: Final = "ended the connection in the middle of the work: repeat"
_HELD: Final = "is held by another client for too long; repeat later"
_REFUSED: Final = (
    "refuses the user or its password: give the password in ~/.pgpass, in the file of PGPASSFILE, or in PGPASSWORD"
)
_NO_DATABASE: Final = "has no such database: make it first, see `artifactfs help server`"

# https://www.postgresql.org/docs/current/errcodes-appendix.html: by code, else by class (its first two characters).
_BY_CODE: Final[dict[str, _Told]] = {
    "25006": (Unavailable, "is read only, as a standby is: name the primary, or repeat when there is one again"),
    "26000": (
        Unavailable,
        "forgot a prepared statement, as behind a pooler that parts transactions: let the pooler part sessions",
    ),
    "3D000": (NotFound, _NO_DATABASE),
    "3F000": (Access, "has no schema that this role may use: check the role's search_path and its rights"),
    "40001": (Unavailable, "was changed by another client at the same moment; repeat"),
    "40P01": (Unavailable, "found two clients that wait for each other, and ended this one's work; repeat"),
    "42501": (Access, "denies the role a right: let it own the database, see `artifactfs help server`"),
    "42P01": (Format, "lacks tables of its format: restore the database from a backup"),
    "42703": (Format, "lacks columns of its format: restore the database from a backup"),
    "42P07": (Format, "holds tables of something else: give ArtifactFS a database of its own"),
    "53100": (NoSpace, "cannot grow, its disk is full: nothing was changed; free some space and repeat"),
    "53200": (Unavailable, "is out of memory; repeat later"),
    "53300": (Unavailable, "takes no more connections: raise its max_connections, or run fewer replicas; repeat later"),
    "55P03": (Unavailable, _HELD),
    "57014": (Unavailable, "took too long for an answer, and was told to stop; repeat later"),
    "57P01": (Unavailable, _LOST),
    "57P02": (Unavailable, _LOST),
    "57P03": (Unavailable, "is starting or stopping; repeat later"),
    "57P05": (Unavailable, _LOST),
    "25P02": (Unavailable, "undid the work, as a part of it failed; repeat"),
    "25P03": (Unavailable, _LOST),
    "25P04": (Unavailable, _LOST),
}
_BY_CLASS: Final[dict[str, _Told]] = {
    "08": (Unavailable, "lost the connection in the middle of the work: repeat"),
    "22": (Integrity, "was given a value that its tables cannot hold"),
    "23": (Integrity, "contradicts itself: run `artifactfs verify`"),
    "28": (Access, _REFUSED),
    "42": (Format, "has other tables than those of its format: restore the database from a backup"),
    "53": (Unavailable, "is out of resources; repeat later"),
    "57": (Unavailable, _LOST),
    "58": (Unavailable, "reports an error of its system"),
    "XX": (Integrity, "is damaged: restore the database from a backup"),
}

# Of a connection that did not come about libpq has no code, only words; a server's are in its own language, of which this is the usual
# one. All others are Unavailable, with the words.
_BY_WORDS: Final[tuple[tuple[str, _Told], ...]] = (
    ("password authentication failed", (Access, _REFUSED)),
    ("no password supplied", (Access, _REFUSED)),
    ("no pg_hba.conf entry", (Access, "lets nobody in from here: see its pg_hba.conf")),
    ("authentication failed", (Access, _REFUSED)),
    ("certificate verify failed", (Access, "has a certificate that is not trusted: see sslrootcert and sslmode")),
    ("does not match host name", (Access, "has the certificate of another host: see sslmode")),
    ("root certificate file", (InvalidInput, "needs a root certificate: see sslrootcert and sslmode")),
    ("does not support SSL", (Access, "does not speak TLS: see sslmode")),
    ("permission denied for database", (Access, "lets this role not in: grant it CONNECT")),
    ("too many", (Unavailable, _BY_CODE["53300"][1])),
    ("remaining connection slots", (Unavailable, _BY_CODE["53300"][1])),
    ("starting up", (Unavailable, _BY_CODE["57P03"][1])),
    ("shutting down", (Unavailable, _BY_CODE["57P03"][1])),
)

_ASIDES: Final = (
    "Multiple connection attempts",
    "Is the server running",
    "password retrieved from",
    "DETAIL:",
    "HINT:",
)


def translated(database: object, error: BaseException, *, opening: bool) -> ArtifactFSError:
    """One of ours for an error of the driver. ``opening``: there was no connection yet."""
    words = _line(error)
    code = getattr(error, "sqlstate", None)
    if code:
        kind, told = _BY_CODE.get(code) or _BY_CLASS.get(code[:2]) or (Unavailable, "does not answer")
        return kind(f"{database} {told} ({words}, {code})")
    if opening:
        if 'database "' in words and "does not exist" in words:
            return NotFound(f"{database} {_NO_DATABASE} ({words})")
        if 'role "' in words and "does not exist" in words:
            return Access(f"{database} {_REFUSED} ({words})")
        for part, (kind, told) in _BY_WORDS:
            if part in words:
                return kind(f"{database} {told} ({words})")
        return Unavailable(f"{database} cannot be reached: start it, or check host and port ({words})")
    return Unavailable(f"{database} {_BY_CLASS['08'][1]} ({words})")


def _line(error: BaseException) -> str:
    """The driver's message in one line: of several, as of several hosts, the last one that says something."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    lines = [line.strip() for line in str(primary or error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_ASIDES)]
    last = lines[-1] if lines else type(error).__name__
    _, found, after = last.rpartition("FATAL:")
    return (after if found else last).strip()
