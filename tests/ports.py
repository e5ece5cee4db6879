"""Ports that stay a test's own while nobody listens there: before a server starts, and while it is dead."""

from __future__ import annotations

import socket


class HeldPort:
    """A free port of this machine. Nobody else is given it until it is closed; who names it (with SO_REUSEADDR) may listen there."""

    def __init__(self) -> None:
        self._holder = socket.socket()  # bound, and not listening: a connection to it is refused
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.number: int = self._holder.getsockname()[1]

    def close(self) -> None:
        """Give it back. Idempotent."""
        self._holder.close()
