"""The Store contract: keyed durable bytes, nothing else.

Kinds: :class:`artifactfs.content.local.LocalStore`; object stores and HTTP later. One conformance suite
(``tests/conformance/store.py``) holds every kind to this page. All methods may be called from any thread. Keys are
relative paths of ASCII letters, digits, ``-``, ``_``, ``.`` and ``/`` without ``.`` or ``..`` parts; anything else
is InvalidInput. Retry, cache, latency and failure are decorators of this contract, not flags inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Upload(Protocol):
    """An object being written: invisible until published. Used by one thread at a time."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes. NoSpace leaves nothing behind after :meth:`abort`."""

    def publish(self, key: str) -> None:
        """Make the bytes durable (fsync of file and directory) and visible under ``key``, atomically.

        A key that exists is left as it is: keys name their content, so both hold the same bytes.
        """

    def abort(self) -> None:
        """Forget the bytes. Idempotent; does nothing after :meth:`publish`."""


class Store(Protocol):
    """Keyed immutable objects."""

    @property
    def local(self) -> bool:
        """Whether reads are answered from a local disk, so that they may run on a dispatcher thread."""

    def upload(self) -> Upload:
        """Begin an object."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``. NotFound without the object, Integrity when it is too short."""

    def size(self, key: str) -> int:
        """Size of an object in bytes. NotFound without it."""

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that begin with ``prefix`` and their sizes in bytes, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove an object. Idempotent."""

    def close(self) -> None:
        """Release descriptors. Idempotent."""
