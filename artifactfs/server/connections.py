"""HTTP connections as uvicorn speaks them with httptools, with a bound on every wait for the client.

Used by ``serving.py`` alone. On the event loop's thread.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from artifactfs.remote.wire import OBJECT_LIMIT

HEAD_SECONDS: Final = 30.0
"""How long the head of a request may take to come, from the connection or its own first byte on."""
HEAD_LIMIT: Final = 64 << 10
"""Bytes of a head."""
STALL_SECONDS: Final = 60.0
"""How long a client may take for what was sent and is not under way yet: a block of 256 KiB, so that 5 KB/s are enough."""
IGNORED_LIMIT: Final = 2 * OBJECT_LIMIT
"""Bytes of a body that may come after its request was refused. They are taken, since a client that is cut off while it sends does not
see the answer."""


class BoundedConnection(HttpToolsProtocol):
    """One connection. A client that keeps it waiting for too long is cut off, whatever is lost."""

    # ruff: noqa: D102 - the methods of asyncio's and httptools' protocols are documented there

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head: asyncio.TimerHandle | None = None  # runs while a head is waited for
        self._head_size = 0
        self._ignored = 0  # bytes since the last answer
        self._stall: asyncio.TimerHandle | None = None  # runs while the client does not take what is sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._flows()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None:
            self._head_size += len(data)
            if self._head_size > HEAD_LIMIT:
                self._cut()
        elif self.cycle is not None and self.cycle.response_complete and not self.transport.is_closing():
            self._ignored += len(data)
            if self._ignored > IGNORED_LIMIT:
                self._cut()
            elif self.timeout_keep_alive_task is None:  # uvicorn ended it, as it does when a request comes
                self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._cut)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._ignored = 0
        if self._head is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALL_SECONDS, self._cut)

    def resume_writing(self) -> None:
        self._flows()
        super().resume_writing()

    def _expect_head(self) -> None:
        self._head_size = 0
        self._head = self.loop.call_later(HEAD_SECONDS, self._cut)

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _flows(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()
