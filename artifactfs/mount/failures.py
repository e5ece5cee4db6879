"""Failures: which files could not be read, and why, for the log and for ``user.artifactfs.last_error``.

Used by the View for versions and by Staging for its own nodes. Any thread: the table is only touched by single, atomic operations.
"""

from __future__ import annotations

import logging
from typing import Final

from artifactfs.errors import ArtifactFSError, Unavailable

MAX_FAILURES: Final = 1000
"""Files whose last error is remembered."""

_logger = logging.getLogger(__name__)


class Failures:
    """The last error of each node that had one."""

    def __init__(self) -> None:
        self._errors: dict[int, str] = {}

    def note(self, node: int, name: str, error: ArtifactFSError) -> None:
        """Say in the log, and remember, which file could not be read and why."""
        text = f"{name}: {error}"
        _logger.log(logging.WARNING if isinstance(error, Unavailable) else logging.ERROR, "%s", text)
        self._errors[node] = text
        if len(self._errors) > MAX_FAILURES:
            self._errors.pop(next(iter(self._errors)), None)

    def last(self, node: int) -> str | None:
        """Why the last read that failed did so; None when none did."""
        return self._errors.get(node)
