"""The Store contract: keyed durable bytes, nothing else.

Kinds: :class:`artifactfs.content.local.LocalStore`, :class:`artifactfs.content.objects.ObjectStore` and
:class:`artifactfs.remote.store.RemoteStore`. One conformance suite
(``tests/conformance/store.py``) holds every kind to this page. All methods may be called from any thread. Keys are
relative paths of ASCII letters, digits, ``-``, ``_``, ``.`` and ``/`` without ``.`` or ``..`` parts; anything else
is InvalidInput. Retry, cache, latency and failure are decorators of this contract, not flags inside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from artifactfs.model.records import ChunkRow, Location


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

    @property
    def signs(self) -> bool:
        """Whether :meth:`sign` gives URLs."""

    def upload(self) -> Upload:
        """Begin an object."""

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``. NotFound without the object, Integrity when it is too short."""

    def read_parts(self, key: str, offset: int, lengths: Sequence[int]) -> Iterator[bytes]:
        """Consecutive parts of these lengths from ``offset`` on, each as soon as it has come. Errors as :meth:`read`.

        One request for all of them; after a failure only what is missing is asked for again.
        """

    def size(self, key: str) -> int:
        """Size of an object in bytes. NotFound without it."""

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Keys that begin with ``prefix`` and their sizes in bytes, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove an object. Idempotent."""

    def sign(self, keys: Sequence[str], *, seconds: float) -> Sequence[str]:
        """URLs by which anybody may read these objects for so long, in the order of ``keys``, whether there is such an object or not.

        They are secrets: not for logs, errors, or anybody who may not read the objects. InvalidInput of a Store that has none.
        """

    def close(self) -> None:
        """Release descriptors. Idempotent."""


NodesFound = tuple[list[tuple[ChunkRow, bytes]], dict[bytes, Location]]
"""Nodes, each as a row whose ``length`` bytes are the stored bytes beside it (``offset`` says nothing), and places of chunks."""


class NodeSource(Protocol):
    """Nodes of Sequences by digest, several an answer: what a remote Store has beside it, so that a tree is walked in few requests.

    Nothing is verified: that is the reader's. Errors: Unavailable, Access, Format. All methods may be called from any thread.
    """

    def nodes(self, digests: Sequence[bytes], *, ahead: int) -> NodesFound:
        """The nodes of these digests (any number) that the project holds, then nodes below them, nearest first.

        ``ahead`` bounds the bytes of the latter. Places are those of all chunks that the asked chunk lists name.
        """

    def path(self, digest: bytes, path: str) -> NodesFound:
        """All nodes from a directory's root along a path, as far as it exists; of a large file its chunk list too, with places."""
