"""The errors that ArtifactFS raises, grouped by what a handler does with them.

::

    ArtifactFSError
    ├── NotFound        it is not there: say so, offer what is
    ├── Conflict        somebody else was first, or the state forbids it: look again, then retry or force
    ├── InvalidInput    the caller's words are wrong: correct them, never retry
    ├── ReadOnly        the thing is immutable by design
    ├── Access          permission is missing
    ├── Integrity       bytes that do not match their digest: never served, never retried here
    ├── Format          a repository or file of another (usually newer) format
    ├── Unavailable     a part does not answer now: may be retried
    └── NoSpace         a disk or quota is full; the previous state is intact

Every message is one line (or a heading line and one line per item) that says what was wrong and what to do.
Adapters own one table each from these classes to errno, HTTP status or exit status. Foreign exceptions are
translated where they enter, with ``from``.
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final


class ArtifactFSError(Exception):
    """Base of all errors of this package; ``code`` is stable and machine-readable."""

    code: ClassVar[str] = "error"


class NotFound(ArtifactFSError):
    """The named thing does not exist."""

    code = "not-found"


class Conflict(ArtifactFSError):
    """The state changed under the caller, or forbids the operation."""

    code = "conflict"


class InvalidInput(ArtifactFSError):
    """A name, address, option or value that can never be accepted."""

    code = "invalid-input"


class ReadOnly(ArtifactFSError):
    """A write to something immutable."""

    code = "read-only"


class Access(ArtifactFSError):
    """The operating system or the repository refuses this user."""

    code = "access"


class Integrity(ArtifactFSError):
    """Stored or received bytes do not match their digest."""

    code = "integrity"


class Format(ArtifactFSError):
    """Data of a format that this release does not read."""

    code = "format"


class Unavailable(ArtifactFSError):
    """A store, registry or daemon does not answer at the moment; a retry may succeed."""

    code = "unavailable"


class NoSpace(ArtifactFSError):
    """A disk or a quota is full."""

    code = "no-space"


_OF_ERRNO: Final[dict[int, tuple[type[ArtifactFSError], str]]] = {
    errno.ENOENT: (NotFound, ""),
    errno.ENOTDIR: (NotFound, ""),
    errno.EACCES: (Access, "; check its permissions"),
    errno.EPERM: (Access, "; check its permissions"),
    errno.EROFS: (Access, ""),
    errno.ENOSPC: (NoSpace, "; free some space and try again"),
    errno.EDQUOT: (NoSpace, "; free some space and try again"),
    errno.EFBIG: (NoSpace, ""),
}


def translate_os(error: OSError, doing: str) -> ArtifactFSError:
    """An operating system's error as one of ours, saying what could not be done and what to do.

    The one table for files and directories. What is not in it (EIO, EMFILE, ENOMEM) may pass: Unavailable.
    """
    kind, hint = _OF_ERRNO.get(error.errno or 0, (Unavailable, ""))
    return kind(f"{doing}: {(error.strerror or str(error)).lower()}{hint}")
