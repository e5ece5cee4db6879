"""Owns the one table from the errors of this package to errno; used by both FUSE bindings.

A binding catches whatever an operation of the tree raises and replies with :func:`errno_of` it. What an errno cannot
say (which chunk is damaged, which bug) goes to the log here, once. Stateless, so callable from any thread.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

from artifactfs.errors import (
    Access,
    ArtifactFSError,
    Conflict,
    Format,
    Integrity,
    InvalidInput,
    NoSpace,
    NotFound,
    ReadOnly,
    Unavailable,
)

DEEPEST: Final = 16
"""Causes of causes that are looked through."""

_logger = logging.getLogger(__name__)

ERRNOS: Final[dict[type[ArtifactFSError], int]] = {
    NotFound: errno.ENOENT,
    Conflict: errno.EBUSY,
    InvalidInput: errno.EINVAL,
    ReadOnly: errno.EROFS,
    Access: errno.EACCES,
    Integrity: errno.EIO,
    Format: errno.EIO,
    Unavailable: errno.EIO,
    NoSpace: errno.ENOSPC,
}


def errno_of(exception: BaseException) -> int:
    """The positive errno that tells a caller of the file system about ``exception``.

    An ``OSError`` keeps its number. ``Unavailable`` is ETIMEDOUT when a timeout caused it, else EIO: a server that cannot be
    reached, too. Anything unforeseen is EIO and is logged with its traceback.
    """
    if isinstance(exception, OSError) and exception.errno:
        return exception.errno
    if isinstance(exception, ArtifactFSError):
        if isinstance(exception, Unavailable):
            _logger.info("%s", exception)
            if _timed_out(exception):
                return errno.ETIMEDOUT
        elif isinstance(exception, (Integrity, Format)):
            _logger.error("%s", exception)
        for kind in type(exception).__mro__:
            if kind in ERRNOS:
                return ERRNOS[kind]
    _logger.error("unexpected %s in a file system request", type(exception).__name__, exc_info=exception)
    return errno.EIO


def _timed_out(error: BaseException) -> bool:
    """Whether a timeout is at the bottom of an error. Libraries wrap it: ours, requests', urllib3's, the socket's."""
    cause: BaseException | None = error
    for _ in range(DEEPEST):
        if cause is None or isinstance(cause, TimeoutError):
            break
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, TimeoutError)
