"""The server's log: one JSON object a line.

Used by the application's edge for every request, and by uvicorn for what it has to say. Lines may be given from any thread and are
written by one of their own: who reads them may pause (a terminal, a full pipe), which no request waits for. Lines that come while
LINES wait are dropped and counted. Headers and queries are never logged: they may hold secrets, or will. A token that came anywhere
else (in a path, by mistake) is logged by its id alone.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from queue import Full, Queue
from typing import Any, Final

import msgspec

from artifactfs.model.access import conceal

Write = Callable[[str], object]
"""Takes a line with its end."""

UVICORN: Final = "uvicorn.error"
LINES: Final = 10_000
"""Lines that may wait to be written: 3 MB."""
CLOSE_SECONDS: Final = 5.0
"""How long closing waits for what is not written yet."""


class Log:
    """``write`` takes the lines. ``access``: whether each request is one; failures always are. Close it."""

    def __init__(self, write: Write, *, access: bool = True) -> None:
        self._write = write
        self._access = access
        self._lines: Queue[str | None] = Queue(LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, as far as that does not take long. Idempotent."""
        with suppress(Full):
            self._lines.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(CLOSE_SECONDS)

    def request(
        self,
        *,
        client: str,
        method: str,
        path: str,
        status: int,
        received: int,
        sent: int,
        seconds: float,
        request: str,
    ) -> None:
        """A request that ended; ``status`` 499 when its client went away first."""
        if self._access:
            self._line(
                client=client,
                method=method,
                path=path,
                status=status,
                bytes=sent,
                bytes_received=received,
                duration_ms=round(seconds * 1000, 3),
                request=request,
            )

    def failure(self, error: BaseException, *, request: str) -> None:
        """A fault of ours: the client is told the request's id, the rest stands here."""
        lines = traceback.format_exception(error)
        self._line(level="error", message=lines[-1].strip(), request=request, traceback="".join(lines))

    def note(self, level: str, message: str) -> None:
        """Anything else."""
        self._line(level=level, message=message)

    def _line(self, **fields: Any) -> None:
        line = msgspec.json.encode({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields})
        try:
            self._lines.put_nowait(conceal(line.decode()) + "\n")
        except Full:
            self._dropped += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # nobody reads it, or it was closed
                self._write(line)
            if self._dropped and self._lines.empty():
                dropped, self._dropped = self._dropped, 0
                self.note("warning", f"{dropped} lines of this log were dropped: they came faster than they were taken")

    def listen(self) -> Callable[[], None]:
        """Take warnings and errors of uvicorn as lines, and no others; returns what undoes it."""
        logger = logging.getLogger(UVICORN)
        handler = _Lines(self)
        before = logger.level, logger.propagate
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addHandler(handler)

        def undo() -> None:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before

        return undo


class _Lines(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._log.failure(record.exc_info[1], request="")
        else:
            self._log.note(record.levelname.lower(), record.getMessage())
